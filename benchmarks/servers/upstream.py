"""A model server of little cost: `python -m benchmarks.servers.upstream TOKENS` prints its port and serves."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop

# Fields of OpenAI's chunks beside their text.
META = {
    "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx",
    "object": "chat.completion.chunk",
    "created": 1730000000,
    "model": "gpt-4.1-mini-2025-04-14",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PACE = b"x-pace:"


def _sent(*bodies: dict[str, Any]) -> bytes:
    events = b"".join(
        b"data: " + json.dumps({**META, **body}, separators=(",", ":")).encode() + b"\n\n" for body in bodies
    )
    return b"%x\r\n%b\r\n" % (len(events), events)


def answer(tokens: int) -> list[bytes]:
    """Return the HTTP chunks of an answer: one for each token, and the end."""
    rest = {"logprobs": None, "finish_reason": None}
    parts = [
        _sent({"choices": [{"index": 0, "delta": {"content": f" {n}"}, **rest}], "usage": None}) for n in range(tokens)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
    end = _sent({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage})
    return [*parts, end, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: list[bytes]) -> None:
    try:
        while True:
            fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            await reader.readexactly(int(_value(fields, b"content-length:")))
            await _write(writer, parts, float(_value(fields, PACE)))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _value(fields: list[bytes], name: bytes) -> bytes:
    return next(field.removeprefix(name) for field in fields if field.startswith(name))


async def _write(writer: asyncio.StreamWriter, parts: list[bytes], pause: float) -> None:
    writer.write(HEAD)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause)
        await writer.drain()


async def main() -> None:
    """Serve until the process is killed."""
    parts = answer(int(sys.argv[1]))
    server = await asyncio.start_server(lambda reader, writer: _serve(reader, writer, parts), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
