"""schemathesis on the whole OpenAPI document: no server error, and no answer outside the document.

schemathesis and LangGraph's server want different versions of one package, so it has an environment of its own, which
`make test` makes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import Conversation, Topic, greeting, registry_of
from tests.servers import serving

SHORT, LONG = 3, 100
ENVIRONMENT = Path(__file__).parents[2] / ".venv" / "schemathesis" / "bin"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


def count(inputs: Any) -> str:
    """Answer any conversation, even an empty one, which the document allows."""
    return str(len(inputs["messages"]))


def counting_graph() -> Any:
    """Return a graph that answers with the number of messages."""

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(count(state))]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
def test_every_answer_is_documented_and_none_is_a_server_error(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=f"{ENVIRONMENT}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        leave_out = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        leave_out("schemathesis is not installed: `make test` installs it")
    examples = LONG if request.config.getoption("--long") else SHORT
    chains = {
        "greeting": Chain(runnable=greeting(), input_type=Topic),
        "chat": Chain(runnable=RunnableLambda(count), input_type=Conversation, output_type=str),
        "graph": Chain(runnable=counting_graph()),
    }
    app = create_app(registry_of(chains), Settings(body_timeout=5, _env_file=None))
    options = ["--max-examples", str(examples), "--seed", "1", "--checks", CHECKS, "--phases", "fuzzing"]
    with serving(app) as url:
        found = subprocess.run(
            [program, "run", f"{url}/openapi.json", *options, "--no-color"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert re.search(r"[1-9]\d* generated", found.stdout), found.stdout[-2000:]
