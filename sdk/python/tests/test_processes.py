"""A process with unfinished streams ends, and leaves no run behind. Each test runs a script with a time limit."""

import subprocess
import sys

import pytest

BEGIN = """
import asyncio, atexit, gc, os, sys, threading
from streamserve_sdk import RemoteRunnable
joke = RemoteRunnable(sys.argv[1])
"""
LEAVING = {
    "kept": ("it = joke.stream('x'); next(it)", 0),
    "error": ("for _ in joke.stream('x'): raise ValueError('of the caller')", 1),
    "exit": ("for _ in joke.stream('x'): sys.exit(3)", 3),
    "closed client": ("with joke: it = joke.stream('x'); next(it)", 0),
    "error in a function": (
        "def main():\n    it = joke.stream('x'); next(it); raise ValueError('of the caller')\nmain()", 1,
    ),
    "cycle": ("class A: pass\na = A(); a.me = a; a.it = joke.stream('x'); next(a.it)", 0),
    "at exit": ("it = joke.stream('x'); next(it); atexit.register(it.close)", 0),
}  # fmt: skip


def run(script: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", BEGIN + script, url],
        timeout=30,
        capture_output=True,
        text=True,
    )


def held(wire, *texts):
    """Return an answer whose stream stays open after its blocks."""
    return [
        wire.run_head(),
        wire.sent(*(wire.block(n, "data", f'"{text}"') for n, text in enumerate(texts, 1))),
        wire.HOLD,
    ]


@pytest.mark.parametrize("case", LEAVING)
def test_a_script_ends_and_its_unfinished_run_is_cancelled(scripted, wire, case):
    server = scripted(held(wire, "a"))
    script, code = LEAVING[case]
    ended = run(f"{script}\nprint('last line')", server.url)
    assert ended.returncode == code
    assert ended.stderr.count("Traceback") == (code == 1), ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert server.cancelled.wait(wire.LIMIT)


@pytest.mark.parametrize("loop", ["asyncio.Runner()", "asyncio.Runner().__enter__()"], ids=["closed", "forgotten"])
def test_a_script_with_an_unfinished_async_stream_ends(scripted, wire, loop):
    server = scripted(held(wire, "a"))
    closes = "with runner: " if loop == "asyncio.Runner()" else ""
    script = f"async def main(): await anext(it)\nit = joke.astream('x'); runner = {loop}\n{closes}runner.run(main())"
    assert run(script, server.url).returncode == 0
    assert server.cancelled.wait(wire.LIMIT)


@pytest.mark.parametrize("read", [
    "for _ in joke.stream('x'): begun.set()",
    "asyncio.run(aread())",
], ids=["stream", "astream"])  # fmt: skip
def test_a_script_ends_while_a_daemon_thread_reads(scripted, wire, read):
    server = scripted(held(wire, "a"))
    script = f"""
begun = threading.Event()
async def aread():
    async for _ in joke.astream('x'): begun.set()
def work():
    {read}
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
    ended = run(script, server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert server.left.wait(wire.LIMIT)


def test_a_script_ends_while_a_daemon_thread_awaits_an_answer(scripted, wire):
    server = scripted([wire.HOLD])
    script = """
threading.Thread(target=lambda: list(joke.stream('x')), daemon=True).start()
while not any(thread.name == "streamserve-head" for thread in threading.enumerate()):
    pass
"""
    ended = run(script, server.url)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_script_whose_reader_is_detached_cancels_nothing(scripted, wire):
    server = scripted(held(wire, "a"))
    ended = run("it = joke.stream('x', detach=True); next(it)", server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not server.cancelled.is_set()


def test_a_script_ends_though_its_server_answers_no_cancel(scripted, wire):
    server = scripted(*[held(wire, "a")] * 20)
    server.answers_cancels = False
    ended = run("its = [joke.stream('x') for _ in range(20)]; [next(it) for it in its]", server.url)
    assert (ended.returncode, ended.stderr) == (0, "")


FORK = """
def in_child(work):
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writes, repr(work()).encode())
        finally:
            gc.collect()
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    return os.read(reads, 1000).decode()
"""


def answer(text):
    body = f'{{"output": "{text}"}}'
    return [f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()]


def test_after_a_fork_calls_use_connections_of_their_own(scripted):
    server = scripted(*(answer(n) for n in range(4)))
    ended = run(
        f"{FORK}print(joke.invoke('x'), in_child(lambda: [joke.invoke('x'), joke.invoke('x')]), joke.invoke('x'))",
        server.url,
    )
    assert (ended.stdout, ended.stderr) == ("0 ['1', '2'] 3\n", "")
    before, *child, after = [request.peer for request in server.received]
    assert before == after
    assert child[0] == child[1] != before


def test_after_a_fork_async_calls_use_their_own_connections(scripted):
    server = scripted(*(answer(n) for n in range(3)))
    ended = run(
        f"{FORK}"
        "with asyncio.Runner() as runner:\n"
        "    call = lambda runner: runner.run(joke.ainvoke('x'))\n"
        "    print(call(runner), in_child(lambda: asyncio.run(joke.ainvoke('x'))), call(runner))",
        server.url,
    )
    assert (ended.stdout, ended.stderr) == ("0 '1' 2\n", "")
    before, child, after = [request.peer for request in server.received]
    assert before == after != child


def test_a_fork_while_a_thread_makes_a_client_locks_nothing(scripted):
    server = scripted(answer(0))
    ended = run(f"{FORK}\nwith joke._client.clients._lock: print(in_child(lambda: joke.invoke('x')))", server.url)
    assert (ended.stdout, ended.stderr) == ("'0'\n", "")


def test_a_forked_process_closes_no_connection_of_its_parent(scripted):
    server = scripted(answer(0))
    ended = run(
        f"{FORK}\njoke.invoke('x'); first = joke._client.clients.sync(); all = globals()\n"
        "print(in_child(lambda: (all.pop('joke'), gc.collect()) and first.is_closed), first.is_closed)",
        server.url,
    )
    assert (ended.stdout, ended.stderr) == ("False False\n", "")


def test_a_forked_process_leaves_its_parents_stream_alone(scripted, wire):
    server = scripted([*held(wire, "a")[:2], wire.sent(wire.block(2, "data", '"b"'), wire.block(3, "end")), wire.EOF])
    ended = run(
        f"{FORK}its = [joke.stream('x')]; got = [next(its[0])]; in_child(its.clear); print(got + list(its[0]))",
        server.url,
    )
    assert (ended.stdout, ended.stderr) == ("['a', 'b']\n", "")
    assert not server.cancelled.is_set()


def test_a_forked_process_that_exits_cancels_nothing(scripted, wire):
    server = scripted(held(wire, "a"))
    script = "it = joke.stream('x', detach=False); next(it)\nif not os.fork(): sys.exit()\nos.wait(); os._exit(0)"
    ended = run(script, server.url)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert not server.cancelled.is_set()


def test_a_stream_goes_on_in_a_forked_process_from_its_place(scripted, wire):
    rest = [wire.run_head(), wire.sent(wire.block(2, "data", '"b"'), wire.block(3, "end")), wire.EOF]
    server = scripted(held(wire, "a"), rest)
    ended = run(f"{FORK}it = joke.stream('x'); print(next(it), in_child(lambda: list(it))); os._exit(0)", server.url)
    assert (ended.stdout, ended.stderr) == ("a ['b']\n", "")
    assert server.received[1].headers["last-event-id"] == "1"


def test_an_async_stream_goes_on_in_a_forked_process(scripted, wire):
    rest = [wire.run_head(), wire.sent(wire.block(2, "data", '"b"'), wire.block(3, "end")), wire.EOF]
    server = scripted(held(wire, "a"), rest)
    script = """
it, runner = joke.astream('x'), asyncio.Runner()
async def one(): return await anext(it)
async def others(): return [chunk async for chunk in it]
print(runner.run(one()), in_child(lambda: asyncio.run(others())))
os._exit(0)
"""
    ended = run(f"{FORK}{script}", server.url)
    assert (ended.stdout, ended.stderr) == ("a ['b']\n", "")
    assert server.received[1].headers["last-event-id"] == "1"


POOL = """
import multiprocessing
import sys

from streamserve_sdk import RemoteRunnable, RequestRejected


def work(joke):
    return joke.invoke("x")


if __name__ == "__main__":
    joke = RemoteRunnable(sys.argv[1], headers={"a": "b"})
    joke.invoke("x")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.map(work, [joke])
        except RequestRejected as error:
            print(error.run_id, error.retryable, error.response.json())
        print(pool.map(work, [joke]))
"""


def test_clients_go_to_a_pool_and_errors_come_back(scripted, wire, tmp_path):
    server = scripted(answer("x"), wire.plain(422, '{"detail": "bad"}', run_id="r1"), answer("y"))
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    ended = subprocess.run([sys.executable, script, server.url], timeout=60, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("r1 False {'detail': 'bad'}\n['y']\n", "")
    assert {request.headers["a"] for request in server.received} == {"b"}
