"""States of threads decode with langgraph and without it."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph import types as langgraph_types
from streamserve_sdk.codec import decode
from streamserve_sdk.codec.serializer import WireSerializer
from streamserve_sdk.errors import ProtocolError
from streamserve_sdk.graphs import snapshots

ASKED = {"value": {"question": "Send it?"}, "id": "ask", "response_schema": None}
CHECKPOINT = {"thread_id": "one", "checkpoint_ns": "", "checkpoint_id": "2"}


def state(**changes: Any) -> dict[str, Any]:
    return {
        "values": {"messages": [{"type": "human", "content": "hi", "id": "a"}], "pair": [1, 2]},
        "next": ["ask"],
        "tasks": [],
        "metadata": {"step": 1},
        "created_at": "2026-01-02T03:04:05+00:00",
        "checkpoint": CHECKPOINT,
        "parent_checkpoint": None,
        "interrupts": [ASKED],
        "types": {"/values/pair": "tuple", "/interrupts/0": "interrupt", "/tasks/0/interrupts/0": "interrupt"},
        **changes,
    }


def task(**changes: Any) -> dict[str, Any]:
    made = {"id": "t", "name": "ask", "path": ["pull", ["a", 1]], "error": None, "interrupts": [ASKED]}
    return {**made, "checkpoint": None, "state": None, "result": None, **changes}


@pytest.fixture
def without_langgraph(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(decode, "import_module", refuse)
    monkeypatch.setattr(snapshots, "import_module", refuse)


def read(made: dict[str, Any]) -> Any:
    return snapshots.snapshot(WireSerializer(), made)


def test_a_snapshot_is_langgraphs_own() -> None:
    asked = langgraph_types.Interrupt(**ASKED)
    assert read(state(tasks=[task()])) == langgraph_types.StateSnapshot(
        values={"messages": [HumanMessage("hi", id="a")], "pair": (1, 2)},
        next=("ask",),
        config={"configurable": CHECKPOINT},
        metadata={"step": 1},
        created_at="2026-01-02T03:04:05+00:00",
        parent_config=None,
        tasks=(langgraph_types.PregelTask("t", "ask", ("pull", ("a", 1)), interrupts=(asked,)),),
        interrupts=(asked,),
    )


def test_a_subgraph_is_a_config_or_a_snapshot() -> None:
    found = read(state(tasks=[task(checkpoint={"checkpoint_ns": "sub"}), task(state=state(next=[]))]))
    assert found.tasks[0].state == {"configurable": {"checkpoint_ns": "sub"}}
    assert type(found.tasks[1].state) is langgraph_types.StateSnapshot
    assert found.tasks[1].state.next == ()


@pytest.mark.usefixtures("without_langgraph")
def test_without_langgraph_a_snapshot_has_the_same_fields() -> None:
    found = read(state(tasks=[task()]))
    assert type(found) is snapshots.StateSnapshot
    assert type(found.tasks[0]) is snapshots.PregelTask
    assert found.interrupts == found.tasks[0].interrupts == (snapshots.Interrupt(**ASKED),)
    assert found.interrupts[0].value == {"question": "Send it?"}
    assert found.values == {"messages": [HumanMessage("hi", id="a")], "pair": (1, 2)}
    assert type(snapshots.empty({})) is snapshots.StateSnapshot


@pytest.mark.parametrize("kind", ["StateSnapshot", "PregelTask"])
def test_substitutes_have_langgraphs_fields_and_defaults(kind: str) -> None:
    ours, theirs = getattr(snapshots, kind), getattr(langgraph_types, kind)
    assert ours._fields == theirs._fields
    assert ours._field_defaults == theirs._field_defaults


@pytest.mark.parametrize("made", [[], None, {}, {"values": {}}, state(tasks=[{}]), state(next=None)])
def test_an_answer_without_a_state_is_a_protocol_error(made: Any) -> None:
    with pytest.raises(ProtocolError):
        read(made)


def test_a_dict_that_only_looks_like_a_message_stays_a_dict() -> None:
    look_alike = {"type": "human", "content": "hi"}
    assert read(state(values=look_alike, types={"/values": "dict"})).values == look_alike
