"""Traces: a run is a span, its steps are spans below it, and no span holds input, output or error texts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from streamserve.settings import Settings
from streamserve.telemetry import Telemetry
from tests.limits import LIMIT
from tests.telemetry.collector import attributes, black_hole, collecting

ROOT = Path(__file__).parents[2]
START = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
QUESTION = "what-nobody-may-read"
SERVER = """
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from streamserve import Chain
from streamserve.models import chat_model
from tests.fakes import Topic
from tests.runs.support import app_of

async def fail(inputs):
    raise ValueError(str(inputs))

prompt = ChatPromptTemplate.from_template("About {topic}")
joke = Chain(runnable=prompt | chat_model() | StrOutputParser(), input_type=Topic)
app = app_of({"joke": joke, "bad": RunnableLambda(fail)})
"""


@contextmanager
def traced_server(folder: Path, **variables: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    (folder / "traced_server.py").write_text(SERVER)
    command = [sys.executable, "-m", "uvicorn", "traced_server:app", "--port", "0", "--app-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(found[1] for line in process.stderr if (found := START.search(line)))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT) as client:
                yield client, process
        finally:
            process.kill()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said


def test_a_run_is_a_span_below_the_callers_trace(tmp_path: Path) -> None:
    with collecting() as collector:
        variables = {"STREAMSERVE_OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with traced_server(tmp_path, **variables) as (client, process):
            answer = client.post("/joke/stream", json={"input": {"topic": QUESTION}}, headers={"traceparent": PARENT})
            client.post("/bad/invoke", json={"input": QUESTION})
            stop(process)
        spans = collector.spans()
    run = spans["stream joke"]
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
    shown = attributes(run)
    assert shown["streamserve.run_id"] == answer.headers["Run-Id"]
    assert (shown["streamserve.chain"], shown["streamserve.state"]) == ("joke", "done")
    assert shown["enduser.id"] == "anonymous"
    sequence = spans["/joke"]
    assert sequence.parent_span_id == run.span_id
    model = spans["OfflineChatModel"]
    assert (model.trace_id, model.parent_span_id) == (run.trace_id, sequence.span_id)
    assert attributes(model)["gen_ai.usage.output_tokens"] > 0
    failed = spans["invoke bad"]
    assert (attributes(failed)["error.type"], failed.status.code) == ("internal", 2)
    assert attributes(spans["/bad"])["error.type"] == "ValueError"
    assert spans["/bad"].parent_span_id == failed.span_id
    assert QUESTION not in collector.text()
    assert 'string_value: "streamserve"' in collector.text()


def test_a_silent_collector_delays_neither_streams_nor_the_end(tmp_path: Path) -> None:
    with black_hole() as url:
        variables = {"STREAMSERVE_OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with traced_server(tmp_path, **variables) as (client, process):
            answer = client.post("/joke/stream", json={"input": {"topic": "x"}})
            assert "event: end" in answer.text
            stop(process)


def test_without_the_setting_no_exporter_is_loaded() -> None:
    code = """
import sys
from streamserve.settings import Settings
from streamserve.telemetry import Telemetry
Telemetry(Settings())
print([name for name in sys.modules if name in ("streamserve.telemetry.tracing", "opentelemetry.sdk.trace.export")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_missing_extra_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "streamserve.telemetry.tracing", raising=False)
    with pytest.raises(RuntimeError, match=r"pip install 'streamserve\[otel\]'"):
        Telemetry(Settings(otel=True))


# LangSmith works as in LangServe: its variables switch on LangChain's own tracer.


def langsmith(url: str) -> dict[str, str]:
    return {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "lsv2_pt_0000000000000000", "LANGSMITH_ENDPOINT": url}


@pytest.mark.parametrize("endpoint", ["away", "silent"])
def test_an_unreachable_langsmith_delays_no_stream(endpoint: str, tmp_path: Path) -> None:
    with black_hole() as url:
        variables = langsmith(url if endpoint == "silent" else "http://127.0.0.1:9")
        with traced_server(tmp_path, **variables) as (client, process):
            for _ in range(3):
                answer = client.post("/joke/stream", json={"input": {"topic": "x"}})
                assert "event: end" in answer.text
                assert client.get("/healthz", timeout=1).status_code == 200
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=LIMIT)
            assert process.returncode == 0
