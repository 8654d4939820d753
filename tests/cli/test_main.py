"""The command `streamserve`, and the three ways to start the server, each as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from deploy.services import free_port
from streamserve import fast_paths
from streamserve.cli.main import main
from streamserve.fast_paths import FastPath
from tests.conftest import Team
from tests.frames import chunks

START_LIMIT = 60.0
ROOT = Path(__file__).parents[2]
WORKING = '''
    """Says it again.

    More about it."""
    from langchain_core.runnables import RunnableLambda
    from streamserve import Chain
    chain = Chain(runnable=RunnableLambda(lambda given: given), examples=["hi"])
'''
SERVER = (ROOT / "server.py").read_text()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


# list, check, new


def test_list_shows_names_and_descriptions(team: Team) -> None:
    team.write("joke.py", WORKING)
    team.write("code_helper.py", WORKING.replace("Says it again", "Helps"))
    result = run("list")
    assert (result.exit_code, result.output) == (0, "code-helper  Helps.\njoke         Says it again.\n")


def test_list_of_nothing_is_empty(team: Team) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")


def test_list_names_broken_modules_and_fails(team: Team) -> None:
    team.write("joke.py", WORKING)
    bad = team.write("bad.py", "import no_such_module\n")
    result = run("list")
    assert result.exit_code == 1
    assert result.stdout == "joke  Says it again.\n"
    assert result.stderr == f"broken: {bad}:1: ModuleNotFoundError: No module named 'no_such_module'\n"


def test_check_says_that_all_agrees(team: Team) -> None:
    team.write("joke.py", WORKING)
    result = run("check")
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == ["chains, langgraph.json and OpenAPI agree"]


def test_check_names_the_fast_paths(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.write("joke.py", WORKING)
    run("check")  # after which all fast paths are noted
    off = FastPath("parser", "1 us of CPU per token", "one chunk more")
    monkeypatch.setattr(
        fast_paths, "_noted", {"parser": off, "a": FastPath("a", "", None), "b": FastPath("b", "", None)}
    )
    result = run("check")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "fast path off: parser (one chunk more); it saves 1 us of CPU per token",
        "fast paths on: a, b",
        "chains, langgraph.json and OpenAPI agree",
    ]


def test_check_prints_every_problem_and_fails(team: Team) -> None:
    team.write("joke.py", WORKING)
    bad = team.write("bad.py", "1 / 0\n")
    (team.root / "langgraph.json").write_text(json.dumps({"graphs": {"a": "b:c"}}))
    result = run("check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"broken: {bad}:1: ZeroDivisionError: division by zero",
        "langgraph.json: a: b:c is not a graph of the chains",
    ]


@pytest.mark.parametrize("options", [[], ["--graph"]])
def test_new_writes_a_module_that_is_listed_at_once(team: Team, options: list[str]) -> None:
    written = run("new", "code-helper", *options)
    assert written.exit_code == 0
    assert written.output == f"wrote {team.package}/code_helper.py; `streamserve serve` serves it under /code-helper\n"
    assert run("list").output == "code-helper  Code helper.\n"


def test_a_new_module_passes_the_check(team: Team) -> None:
    run("new", "joke")
    run("new", "agent", "--graph")
    (team.root / "langgraph.json").write_text(json.dumps({"graphs": {"agent": f"{team.package}.agent:graph"}}))
    assert run("check").output.splitlines()[1:] == ["chains, langgraph.json and OpenAPI agree"]


@pytest.mark.parametrize(
    ("name", "message"), [("2fast", "not a valid module name"), ("docs", "reserved for the server")]
)
def test_new_refuses_a_name_in_words(team: Team, name: str, message: str) -> None:
    result = run("new", name)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_new_keeps_what_is_there(team: Team) -> None:
    file = team.write("joke.py", WORKING)
    before = file.read_text()
    result = run("new", "joke")
    assert result.exit_code == 1
    assert "joke.py" in result.stderr
    assert "exists" in result.stderr
    assert file.read_text() == before


def test_serve_reports_broken_modules_and_stops(team: Team) -> None:
    bad = team.write("bad.py", "import no_such_module\n")
    worse = team.write("worse.py", "raise ValueError('no')\n")
    done = subprocess.run(
        [sys.executable, "-m", "streamserve.cli", "serve", "--port", "0"],
        cwd=team.root,
        capture_output=True,
        text=True,
        timeout=START_LIMIT,
    )
    assert done.returncode != 0
    assert f"{bad}:1: ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert f"{worse}:1: ValueError: no" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_serve_refuses_a_port_that_is_none(port: str) -> None:
    assert run("serve", "--port", port).exit_code == 2


def run_apart(team: Team, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, in the team's folder."""
    return subprocess.run(
        [sys.executable, "-m", "streamserve.cli", *arguments],
        cwd=team.root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=2 * START_LIMIT,
    )


@pytest.mark.parametrize("server", [SERVER, None], ids=["server.py", "no server.py"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_public_address_needs_authentication(team: Team, server: str | None, workers: str) -> None:
    team.write("joke.py", WORKING)
    if server:
        (team.root / "server.py").write_text(server)
    done = run_apart(team, "serve", "--host", "0.0.0.0", "--port", "0", "--workers", workers)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: STREAMSERVE_HOST=0.0.0.0: This server has no authentication")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "list", "check"])
def test_a_wrong_setting_is_one_line_that_names_it(team: Team, command: str) -> None:
    done = run_apart(team, command, STREAMSERVE_PORT="http", STREAMSERVE_WORKERS="0")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: STREAMSERVE_PORT: Input should be a valid integer")
    assert "; STREAMSERVE_WORKERS: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_application_that_is_missing_is_named(team: Team) -> None:
    done = run_apart(team, "serve", "--app", "nowhere:app")
    assert (done.returncode, done.stderr) == (1, "Error: --app nowhere:app: No module named 'nowhere'\n")


READS_ENVIRONMENT = WORKING.replace(
    "from streamserve", "import os; assert os.environ['TEAM_KEY'] == 'k'; from streamserve"
)


def test_variables_of_the_env_file_reach_the_chains(team: Team) -> None:
    team.write("joke.py", READS_ENVIRONMENT)
    assert run_apart(team, "list").returncode == 1
    (team.root / ".env").write_text("TEAM_KEY=k\n")
    assert run_apart(team, "list").returncode == 0
    assert run_apart(team, "list", TEAM_KEY="the environment wins").returncode == 1


# Real processes


@contextmanager
def started(team: Team, command: list[str], port: int) -> Iterator[httpx.Client]:
    """Run a server in the team's folder; it must stop by itself on a signal."""
    environment = {**os.environ, "STREAMSERVE_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=team.root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_until_it_listens(process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_LIMIT) as client:
            yield client
    finally:
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=START_LIMIT)
    assert "Traceback" not in rest


def _wait_until_it_listens(process: subprocess.Popen[str]) -> None:
    assert process.stderr
    said = ""
    for line in process.stderr:  # ends when the process does; the test's own time limit covers the rest
        said += line
        if "Uvicorn running on" in said and "Application startup complete" in said:
            return
    pytest.fail(said)


COMMANDS = {
    "python server.py": ["server.py"],
    "uvicorn server:app": ["-m", "uvicorn", "server:app", "--port"],
    "streamserve serve": ["-m", "streamserve.cli", "serve", "--port"],
    "streamserve serve --dev": ["-m", "streamserve.cli", "serve", "--dev", "--port"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_server_starts_and_stops(team: Team, command: list[str]) -> None:
    run("new", "joke")
    (team.root / "server.py").write_text(SERVER)
    port = free_port()
    with started(team, [*command, str(port)] if command[-1] == "--port" else command, port) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.post("/joke/stream", json={"input": {"text": "cats"}})
        assert len(chunks(answer)) > 3


def test_the_server_file_passes_the_env_file_on(team: Team) -> None:
    team.write("joke.py", READS_ENVIRONMENT)
    (team.root / ".env").write_text("TEAM_KEY=k\n")
    (team.root / "server.py").write_text(SERVER)
    port = free_port()
    with started(team, ["-m", "uvicorn", "server:app", "--port", str(port)], port) as client:
        assert client.get("/healthz").status_code == 200


def test_a_folder_without_a_server_file_is_served(team: Team) -> None:
    run("new", "joke")
    port = free_port()
    with started(team, ["-m", "streamserve.cli", "serve"], port) as client:
        assert client.get("/joke/input_schema").status_code == 200


def test_the_development_server_serves_what_loads(team: Team) -> None:
    run("new", "joke")
    team.write("bad.py", "import no_such_module\n")
    port = free_port()
    with started(team, ["-m", "streamserve.cli", "serve", "--dev"], port) as client:
        assert client.get("/joke/input_schema").status_code == 200
        assert client.get("/bad/input_schema").status_code == 404
