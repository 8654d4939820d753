"""Long polling: the blocks of a run as JSON, one request after another, where no event stream comes through."""

from collections.abc import Iterator
from dataclasses import replace

import orjson

from streamserve_sdk.transport.links import from_cursor, with_wait
from streamserve_sdk.transport.sse import BlockError, ServerSentEvent
from streamserve_sdk.transport.wire import JSON_HEADERS, Request

# Chunks may come as patches.
ACCEPT = "application/json; patch=append"
# Seconds without the head or body of an answer after which the client asks whether only the stream is held back, and
# seconds that it waits for them once more: they may have been under way.
HELD_AFTER, LATE = 3.0, 0.5
# A proxy that passes on fewer bytes than this before the end holds nothing back: buffers are larger.
PASSED = 1024
# Seconds that the server waits for a block, and seconds beyond it that mean a dead connection.
WAIT, SILENCE = 20.0, 30.0
# Seconds between two polls that bring blocks: tokens arrive faster than requests are worth.
PAUSE = 0.05


class HeldBack(Exception):
    """The server answers, and the stream does not come through."""


def first_poll(first: Request) -> Request:
    """Return the request that starts or joins a run by its key, and asks for the first blocks."""
    url = with_wait(first.url, 0.0)
    return replace(first, url=url, headers={**first.headers, "Accept": ACCEPT}, silence=SILENCE)


def next_poll(location: str, last_id: int, *, joins: bool = False) -> Request:
    """Return the request for the blocks after a cursor.

    Args:
        location: the URL of the run's stream.
        last_id: the cursor.
        joins: whether the chunk at the cursor is unknown; default False.
    """
    url, _, query = location.partition("?")
    blocks = f"{url.removesuffix('/stream')}/blocks{'?' if query else ''}{query}"
    url, cursor = from_cursor(with_wait(blocks, WAIT), last_id, joins=joins)
    return Request("GET", url, {**JSON_HEADERS, "Accept": ACCEPT, **cursor}, silence=WAIT + SILENCE)


class PollParser:
    """A parser of the whole answer to a poll, with the methods of EventParser."""

    comments = 0

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the blocks of an answer.

        Args:
            data: the answer.

        Raises:
            BlockError: the answer does not hold blocks.
        """
        try:
            for block in orjson.loads(data)["blocks"]:
                types = block.get("types")
                number, text = str(block["id"]), block["data"].encode()
                yield ServerSentEvent(block["event"], text, number, None, types and types.encode())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BlockError(f"a poll was answered without blocks: {error!r}") from error
