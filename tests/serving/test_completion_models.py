"""A completion model that is the chain itself."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.llms import LLM

from tests.runs.support import app_of, client_of

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")


class Echo(LLM):
    """A completion model that repeats its prompt."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return f"echo {prompt}"


@pytest.mark.parametrize("config", [{}, {"tags": ["a"], "metadata": {"b": 1}}])
def test_a_completion_model_answers_on_every_endpoint(config: dict[str, Any]) -> None:
    body = {"input": "hi", "config": config}
    with client_of(app_of({"echo": Echo()})) as client:
        for endpoint in ("stream", "stream_log", "stream_events"):
            text = client.post(f"/echo/{endpoint}", json=body).text
            assert "echo hi" in text, endpoint
            assert "event: end" in text, endpoint
        assert client.post("/echo/invoke", json=body).json()["output"] == "echo hi"
        answer = client.post("/echo/batch", json={"inputs": ["hi"], "config": config})
        assert answer.json()["output"] == ["echo hi"]
