"""A remote chain adds its chunks up as the same chain does in process: as a step, in events and in logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers.log_stream import RunLog
from pydantic import BaseModel
from streamserve_sdk import RemoteRunnable

from tests.observed import without_ids
from tests.runs.support import app_of
from tests.runs.test_output import CHAINS
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")
# In process, the whole of snapshots in a map depends on the order of the branches' chunks.
LOCAL = {name: chain for name, (chain, given) in CHAINS.items() if given == "x" and name != "parallel snapshots"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(app_of(dict(LOCAL))) as url:
        yield url


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, dict):
        return without_ids({key: plain(item) for key, item in value.items()})
    if hasattr(value, "__dataclass_fields__"):
        return plain(vars(value))
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


async def as_step(chain: Runnable[Any, Any]) -> Any:
    """Return what the next step is given while the chain streams."""
    given: list[Any] = []
    async for _ in (chain | RunnableLambda(given.append)).astream("x"):
        pass
    return [plain(value) for value in given]


async def in_events(chain: Runnable[Any, Any]) -> Any:
    """Return the output in the last event."""
    events = [event async for event in chain.astream_events("x", version="v2")]
    return plain(events[-1]["data"]["output"])


async def in_log(chain: Runnable[Any, Any]) -> Any:
    """Return the final output of the log."""
    log = RunLog(state=None)  # type: ignore[arg-type]
    async for patch in chain.astream_log("x"):
        log = log + patch
    return plain(log.state["final_output"])


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("whole_of", [as_step, in_events, in_log])
async def test_a_remote_chain_has_the_same_whole(url: str, name: str, whole_of: Any) -> None:
    async with RemoteRunnable(f"{url}/{name}") as remote:
        assert await whole_of(remote) == await whole_of(LOCAL[name])
