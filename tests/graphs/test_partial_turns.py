"""A later turn of a graph whose state is a model or a dataclass names only what is new, as in process."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import httpx
import pytest
from fastapi import FastAPI
from langgraph.graph import START, StateGraph
from pydantic import BaseModel, Field, model_validator

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.frames import events

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events")
STATES = ("model", "checked", "dataclass")
FIRST = {"question": "a", "language": "French"}

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)
each_state = pytest.mark.parametrize("state", STATES)


class Model(BaseModel):
    question: str
    language: str
    turns: int = Field(default=0, ge=0)


class Checked(Model):
    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.language.lower() not in ("french", "german"):
            raise ValueError("unknown language")
        return self


class Turn(BaseModel):
    question: str
    language: str


@dataclasses.dataclass
class Data:
    question: str
    language: str
    turns: int = 0


def graph_of(state: Any, given: Any = None) -> Any:
    def count(state: Any) -> dict[str, Any]:
        return {"turns": state.turns + 1}

    count.__annotations__["state"] = state
    return StateGraph(state, input_schema=given).add_node("count", count).add_edge(START, "count").compile()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {
        "model": Chain(runnable=graph_of(Model)),
        "checked": Chain(runnable=graph_of(Checked)),
        "dataclass": Chain(runnable=graph_of(Data)),
        "declared": Chain(runnable=graph_of(Model), input_type=Model),
        "schema": Chain(runnable=graph_of(Model, Turn)),
        "another": Chain(runnable=graph_of(Model), input_type=Turn),
    }
    return create_app(registry_of(chains))


def ask(client: httpx.Client, chain: str, endpoint: str, given: Any, thread: str | None) -> httpx.Response:
    body = {"inputs": [given]} if endpoint == "batch" else {"input": given}
    config = {"configurable": {"thread_id": thread}} if thread else {}
    return client.post(f"/{chain}/{endpoint}", json={**body, "config": config})


def state_of(client: httpx.Client, chain: str, thread: str) -> Any:
    return client.get(f"/{chain}/threads/{thread}/state").json()["values"]


@each_endpoint
@each_state
def test_a_later_turn_names_only_what_is_new(client: httpx.Client, endpoint: str, state: str) -> None:
    thread = f"turn-{endpoint}"
    assert ask(client, state, "invoke", FIRST, thread).status_code == 200
    answer = ask(client, state, endpoint, {"question": "b"}, thread)
    assert answer.status_code == 200, answer.text
    assert endpoint in ("invoke", "batch") or events(answer)[-1][0] == "end"
    assert state_of(client, state, thread) == {"question": "b", "language": "French", "turns": 2}


@each_endpoint
@each_state
@pytest.mark.parametrize("thread", [None, "new"])
def test_a_first_turn_names_all_required_keys(
    client: httpx.Client, endpoint: str, state: str, thread: str | None
) -> None:
    answer = ask(client, state, endpoint, {"question": "b"}, thread)
    assert answer.status_code == 422, answer.text
    place = ["body", "inputs", 0] if endpoint == "batch" else ["body", "input"]
    assert answer.json()["detail"] == [{"loc": [*place, "language"], "msg": "Field required", "type": "missing"}]


@each_endpoint
@each_state
@pytest.mark.parametrize("given", [{}, {"bogus": 1}, {"question": 3}, {"question": None}, {"turns": "x"}])
def test_a_later_turn_is_still_validated(client: httpx.Client, endpoint: str, state: str, given: Any) -> None:
    assert ask(client, state, "invoke", FIRST, "valid").status_code == 200
    kept = state_of(client, state, "valid")
    assert ask(client, state, endpoint, given, "valid").status_code == 422
    assert state_of(client, state, "valid") == kept


def test_a_later_turn_keeps_a_field_s_bounds(client: httpx.Client) -> None:
    assert ask(client, "model", "invoke", FIRST, "bounds").status_code == 200
    refused = ask(client, "model", "invoke", {"turns": -1}, "bounds")
    assert [item["loc"] for item in refused.json()["detail"]] == [["body", "input", "turns"]]


@pytest.mark.parametrize(("chain", "status"), [("declared", 200), ("another", 422), ("schema", 422)])
def test_an_input_type_of_its_own_is_required_as_a_whole(client: httpx.Client, chain: str, status: int) -> None:
    assert ask(client, chain, "invoke", {"question": "b"}, "declared").status_code == 422
    assert ask(client, chain, "invoke", FIRST, "declared").status_code == 200
    assert ask(client, chain, "invoke", {"question": "b"}, "declared").status_code == status


def test_background_turns_name_what_is_new(client: httpx.Client) -> None:
    for number, given in enumerate([FIRST, {"question": "b"}, {"language": "German"}], 1):
        run = ask(client, "model", "runs", given, "background")
        assert run.status_code == 202, run.text
        output = client.get(f"/runs/{run.json()['run_id']}/output?wait=10").json()["output"]
        assert output["turns"] == number
    assert output == {"question": "b", "language": "German", "turns": 3}
