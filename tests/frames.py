"""The wire in tests: event streams decoded, bodies as LangServe's playground makes them."""

from __future__ import annotations

import json
from typing import Any

import httpx
from langserve.lzstring import LZString

ERROR_FIELDS = {"detail", "code", "retryable", "run_id"}


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return the blocks of an event stream as (event, data)."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.replace("\r\n", "\n").split("\n\n")
    return [event for block in blocks if (event := _event(block))]


def chunks(response: httpx.Response) -> list[Any]:
    """Return the data of a whole stream; fail for a stream without an end block."""
    found = events(response)
    assert found[-1][0] == "end", found[-1]
    return [data for kind, data in found if kind == "data"]


def config_hash(config: Any) -> str:
    """Return a config as the playground encodes it in a path; a text is encoded unchanged."""
    text = config if isinstance(config, str) else json.dumps(config)
    return LZString.compressToEncodedURIComponent(text)


def _event(block: str) -> tuple[str, Any] | None:
    fields = [line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":")]
    found = dict(fields)
    if "event" not in found:
        return None
    return found["event"], json.loads(found["data"]) if found.get("data") else None
