"""Events of version 3 are restored from their compact form."""

import pytest
from streamserve_sdk import ProtocolError
from streamserve_sdk.events.compact import Expander
from streamserve_sdk.events.compact_form import pack, unpack


def delta(**fields):
    return {"event": "content-block-delta", "index": 1, "delta": fields}


FURTHER = delta(type="text-delta", text="a", further=1)
FINISH = {"event": "message-finish", "reason": "stop"}
EVENTS = {
    "text": (delta(type="text-delta", text="a"), [12, 3, 1, "a"]),
    "reasoning": (delta(type="reasoning-delta", reasoning="a"), [12, 3, 1, "a", "reasoning-delta"]),
    "tool call": (delta(type="tool-call-delta", args="{"), [12, 3, 1, "{", "tool-call-delta"]),
    "delta with a further field": (FURTHER, [12, 3, FURTHER]),
    "no delta": (FINISH, [12, 3, FINISH]),
}


@pytest.mark.parametrize(("event", "packed"), EVENTS.values(), ids=EVENTS)
def test_an_event_is_packed_and_unpacked(event, packed):
    assert pack(12, 3, event) == packed
    assert unpack(packed) == event


@pytest.mark.parametrize(
    "value", [[], [12], [12, 0], [12, 0, 1, "a", "no-delta"], [12, 1, 0, "a"], "text", 7, None, {}]
)
def test_a_value_that_is_not_an_event_is_a_protocol_error(value):
    with pytest.raises(ProtocolError, match="not an event of version 3"):
        Expander(0).run_event(value)
