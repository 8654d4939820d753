"""The log: the fields of its records, for all libraries in the process, and the secrets that it hides."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from streamserve.settings import Settings
from streamserve.telemetry.logs import configure, formatter, log_config
from streamserve.telemetry.redact import LONGEST, Redactor
from tests.runs.support import app_of, client_of
from tests.servers import serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
KEY = "a-key-that-nobody-may-read"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def fail(_inputs: Any) -> str:
    raise ValueError(f"refused: {KEY}")


async def break_off(inputs: Any) -> Any:
    async for _ in inputs:
        yield "one"
        raise ValueError("broken")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Collect the records of all loggers as JSON, as `streamserve serve` configures them."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(formatter(as_json=True, redactor=Redactor({"PROVIDER_API_KEY": KEY})))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel("INFO")
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def records(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_failed_run_is_one_record_with_all_its_ids(written: io.StringIO) -> None:
    with client_of(app_of({"bad": RunnableGenerator(break_off)})) as client:
        headers = {"X-Request-ID": "order-7", "traceparent": PARENT}
        answer = client.post("/bad/stream", json={"input": "x"}, headers=headers)
    (failed,) = [record for record in records(written) if record["level"] == "error"]
    shown = {name: failed[name] for name in ("request_id", "run_id", "trace_id", "chain")}
    assert shown == {"request_id": "order-7", "run_id": answer.headers["Run-Id"], "trace_id": TRACE, "chain": "bad"}
    assert "ValueError: broken" in failed["exception"]
    assert failed["logger"].startswith("streamserve.")


def test_a_failed_call_is_one_record_with_its_ids(written: io.StringIO) -> None:
    with client_of(app_of({"bad": RunnableLambda(fail)})) as client:
        answer = client.post("/bad/invoke", json={"input": "x"})
    (failed,) = [record for record in records(written) if record["level"] == "error"]
    assert (failed["run_id"], failed["request_id"]) == (answer.headers["Run-Id"], answer.headers["X-Request-ID"])


def test_a_missing_or_unsafe_request_id_is_replaced() -> None:
    with client_of(app_of({"bad": RunnableLambda(fail)})) as client:
        given = [
            client.get("/healthz", headers={"X-Request-ID": said} if said else {}).headers["X-Request-ID"]
            for said in ("", "fit.for:a_log-1", "x" * 129, "two words")
        ]
    assert given[1] == "fit.for:a_log-1"
    assert len(set(given)) == 4
    assert {len(made) for made in (given[0], given[2], given[3])} == {32}


def test_the_access_log_has_the_request_and_the_run(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of({"echo": RunnableLambda(lambda text: text)})
    with serving(app, log_config=None, access_log=True) as url:
        logging.getLogger("uvicorn.access").setLevel("INFO")
        for name in ("uvicorn", "uvicorn.access"):
            monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        answer = httpx.post(f"{url}/echo/stream?token={KEY}", json={"input": "x"})
    (line,) = [record for record in records(written) if record["logger"] == "uvicorn.access"]
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert line["run_id"] == answer.headers["Run-Id"]
    assert "/echo/stream" in line["event"]
    assert KEY not in line["event"]


@pytest.mark.parametrize(
    "text",
    [
        f"the environment's: {KEY}",
        "Authorization: Bearer abcdefgh12345678",
        "Incorrect API key provided: sk-abcdefgh12345678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
        "redis://user:abcdefgh12345678@redis:6379/0 is away",
        "GET /runs/1/stream?share=abcdefgh12345678&after=5",
        "GET /runs/1/stream?to%6ben=abcdefgh12345678&after=5",
        "GET /runs/1/stream?%73hare=abcdefgh12345678&after=5",
    ],
)
def test_a_credential_is_hidden_wherever_it_stands(text: str, written: io.StringIO) -> None:
    logger = logging.getLogger("streamserve.test")
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("it said %s", text, extra={"detail": {"inner": [text]}, "api_key": "short"})
    logged = written.getvalue()
    assert "***" in logged
    for secret in (KEY, "abcdefgh12345678", "c2lnbmF0dXJl", '"short"'):
        assert secret not in logged
    assert "after=5" in logged if "after=5" in text else True


def test_other_text_stays_readable() -> None:
    redactor = Redactor({"PROVIDER_API_KEY": "on", "PATH": "/usr/bin"})
    said = "tokens: 5 of http://127.0.0.1:8000/joke/stream?after=5, read by user@example.org from /usr/bin"
    assert redactor.text(said) == said
    assert redactor.value("tokens", 5) == 5


@pytest.mark.parametrize("before", [0, 1, LONGEST - 4, LONGEST - 1, LONGEST, LONGEST + 100])
def test_a_long_text_is_cut_and_shows_no_part_of_a_secret(before: int) -> None:
    text = "x" * before + f" {KEY} eyJhbGciOi.abcdefgh.abcdefgh " + "y" * 10**6
    shown = Redactor({"PROVIDER_API_KEY": KEY}).text(text)
    assert LONGEST - 300 < len(shown) < LONGEST + 100
    assert shown.endswith(" characters more)")
    assert KEY[:6] not in shown
    assert "eyJ" not in shown


def test_settings_do_not_show_the_password_of_a_store() -> None:
    url = "redis://:abcdefgh12345678@127.0.0.1/0"
    assert "abcdefgh" not in repr(Settings(store=url, checkpoints="postgres://u:abcdefgh12345678@db/x"))


@pytest.mark.parametrize(("log_format", "begins"), [("json", "{"), ("console", "20")])
def test_the_format_is_a_setting(log_format: Any, begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [logging.getLogger(name) for name in ("", "streamserve", "uvicorn", "uvicorn.access")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        configure(Settings(log_format=log_format, log_level="warning"))
        logging.getLogger("streamserve.test").info("not shown")
        logging.getLogger("streamserve.test").warning("shown")
        logging.getLogger("uvicorn.error").info("of the server")
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert [line[: len(begins)] for line in lines] == [begins, begins]
    assert "shown" in lines[0]
    assert "of the server" in lines[1]


def test_the_configuration_reaches_worker_processes() -> None:
    config = log_config(Settings())
    assert pickle.loads(pickle.dumps(config)) == config
