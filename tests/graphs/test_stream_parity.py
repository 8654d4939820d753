"""The stream of a graph through the server and the SDK equals the one in process, item by item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streamserve.app import create_app
from streamserve.catalog.chain import StreamMode
from tests.fakes import registry_of
from tests.graphs.examples import EXAMPLES, STEPS
from tests.graphs.streams import MODES, Stream, assert_parity, chains, local, remote_async, remote_sync
from tests.servers import serving

LISTS: list[list[StreamMode]] = [["updates"], ["messages", "updates"], ["custom", "tasks", "values"], list(MODES)]

pytestmark = pytest.mark.parametrize("stream", [remote_sync, remote_async], ids=["sync", "async"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(registry_of(chains()))) as address:
        yield address


def name_of(mode: Any) -> str:
    return mode if isinstance(mode, str) else f"[{' '.join(mode)}]"


@pytest.mark.parametrize("subgraphs", [False, True], ids=["outermost", "subgraphs"])
@pytest.mark.parametrize("mode", [*MODES, *LISTS], ids=name_of)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_remote_stream_equals_the_one_in_process(
    url: str, name: str, mode: Any, subgraphs: bool, stream: Stream
) -> None:
    assert_parity(url, name, stream, {"stream_mode": mode, "subgraphs": subgraphs})


@pytest.mark.parametrize("mode", [*MODES, ["values", "updates", "custom"]], ids=name_of)
@pytest.mark.parametrize("name", ["tools", "nested", "interrupts", "letter"])
def test_the_parts_of_version_2_equal_those_in_process(url: str, name: str, mode: Any, stream: Stream) -> None:
    assert_parity(url, name, stream, {"stream_mode": mode, "subgraphs": True, "version": "v2"})


def test_the_examples_loop_nest_and_interrupt(stream: Stream) -> None:
    del stream
    assert len(local("loop", {"stream_mode": "values", "subgraphs": False})) == STEPS + 1
    assert max(len(ns) for ns, _ in local("nested", {"stream_mode": "custom", "subgraphs": True})) == 2
    interrupted = [item for item in local("interrupts", {"stream_mode": "updates"}) if "__interrupt__" in item]
    assert len(interrupted) == 3
    assert len([item for item in local("questions", {"stream_mode": "updates"}) if "__interrupt__" in item]) == 2
