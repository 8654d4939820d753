"""A record's own serializer gives values of the team's classes their JSON, wherever a value is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from langchain_core.runnables import RunnableLambda
from langserve import RemoteRunnable as StockRunnable
from langserve.serialization import WellKnownLCSerializer
from streamserve_sdk import RemoteRunnable

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.frames import chunks
from tests.runs.support import LIMIT, ended
from tests.servers import serving


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


class Points(WellKnownLCSerializer):  # type: ignore[misc, unused-ignore]
    def dumps(self, obj: Any) -> bytes:
        return orjson.dumps({"x": obj.x}) if isinstance(obj, Point) else super().dumps(obj)

    def loadd(self, obj: Any) -> Any:
        return Point(obj["x"]) if isinstance(obj, dict) and obj.keys() == {"x"} else super().loadd(obj)


class Refusing(Points):
    def dumps(self, obj: Any) -> bytes:
        raise ZeroDivisionError("a secret")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chains = {
        "point": Chain(runnable=RunnableLambda(Point), input_type=int, output_type=Any, serializer=Points()),
        "deep": Chain(runnable=RunnableLambda(lambda x: {"a": [Point(x)]}), input_type=int, serializer=Points()),
        "refusing": Chain(runnable=RunnableLambda(Point), input_type=int, output_type=Any, serializer=Refusing()),
        "plain": Chain(runnable=RunnableLambda(Point), input_type=int, output_type=Any),
    }
    with serving(create_app(registry_of(chains))) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


@pytest.mark.parametrize(("chain", "output"), [("point", {"x": 5}), ("deep", {"a": [{"x": 5}]})])
def test_every_answer_has_the_serializers_json(client: httpx.Client, chain: str, output: Any) -> None:
    body = {"input": 5}
    assert client.post(f"/{chain}/invoke", json=body).json()["output"] == output
    assert client.post(f"/{chain}/batch", json={"inputs": [5]}).json()["output"] == [output]
    assert chunks(client.post(f"/{chain}/stream", json=body)) == [output]
    assert chunks(client.post(f"/{chain}/stream_events", json=body))[-1]["data"]["output"] == output
    assert {"op": "replace", "path": "/final_output", "value": output} in [
        change for patch in chunks(client.post(f"/{chain}/stream_log", json=body)) for change in patch["ops"]
    ]
    run_id = client.post(f"/{chain}/runs", json=body).json()["run_id"]
    assert ended(client, run_id)["status"] == "done"
    assert client.get(f"/runs/{run_id}/output").json()["output"] == output


@pytest.mark.parametrize("kind", [RemoteRunnable, StockRunnable])
def test_a_client_with_the_serializer_makes_the_value_again(client: httpx.Client, kind: Any) -> None:
    remote = kind(f"{client.base_url}/point", serializer=Points())
    assert remote.invoke(5) == Point(5)
    assert list(remote.stream(5)) == [Point(5)]


@pytest.mark.parametrize("chain", ["plain", "refusing"])
def test_a_value_without_json_stays_an_invalid_output(client: httpx.Client, chain: str) -> None:
    answer = client.post(f"/{chain}/invoke", json={"input": 5})
    assert (answer.status_code, answer.json()["code"]) == (500, "invalid_output")
    assert "secret" not in answer.text
