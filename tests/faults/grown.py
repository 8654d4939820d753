"""One request in which one part has grown: its texts, its sizes, and how long it holds the server's loop."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, RemoteDisconnected
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.faults.attacks import request

HEAD = 31 * 2**10  # bytes that a head may have beside the grown part
FILLERS = [
    "a", "1", " x", "key", "?token", "&a=", "{:", "{a}", "eyJ-", "eyJ.", "a=b; ", "a,", "://", "x://:", ".", "-",
    "/", "|", ":", "%6b", "Bearer ", '"', "(", "[", ";q=0.1,", "\t",
]  # fmt: skip
TEXTS = [
    "a", "{", "{:", "{a}", "{{", "a1:", "\\", '"', "\n", "\n[1] a", " ", "question:", "about ", "1+", "(", "-", "\x00",
    "|", "a|", "/", "\u2028", "\u4e2d", "\U0001f600", "eyJ-", "?key", "://:", "e\u0301", "<script>", "&amp;", "%6b",
    "\t",
]  # fmt: skip
# Characters of a grown text, and items of a grown list.
LENGTHS = (20_000, 250_000, 4_150_000)
COUNTS = (1_000, 3_900)
LIMIT = 60.0  # seconds for an answer
ENOUGH = 0.02  # seconds: a gap that needs no second try


# Stands in a request for the number of its try, so that none finds what another one has made; the first is `FIRST`.
TRY, FIRST = "-try-", "0"


@dataclass(frozen=True)
class Grown:
    """One request.

    Args:
        name: the part that has grown.
        size: its characters or items.
        sent: all bytes, with `TRY` in place of the number of a try.
    """

    name: str
    size: int
    sent: bytes


class Hold(NamedTuple):
    """The longest gaps between two turns of the server's loop, in seconds.

    Args:
        held: the shorter one of the time and the CPU time of the server's process: others on the machine do not count.
        own: the CPU time of the loop's OS thread: also the other threads of the process do not count.
        wall: the time.
    """

    held: float
    own: float
    wall: float


def filled(filler: str, length: int) -> str:
    """Return a text of about that length."""
    return filler * (length // len(filler))


def copies(item: Any, count: int) -> list[Any]:
    """Return as many copies of a value as fit into a body of `count` values, with some room for what is around them."""
    text = json.dumps(item)
    return [item] * ((count - 20) // (sum(map(text.count, ",[{")) + 1))


def posted(path: str, body: Any, *headers: str) -> bytes:
    """Return the bytes of a request with a body."""
    # The escapes of JSON make a body larger than its text.
    return request(path, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), *headers)


def held(url: str, grown: Grown, tries: int = 4) -> tuple[Hold, int]:
    """Send a request; return the longest times for which it held the server's loop, and its last status.

    A busy machine makes a gap longer, never shorter: the shortest of several tries counts.
    """
    gaps: list[Hold] = []
    place = urlsplit(url)
    assert place.hostname
    with closing(HTTPConnection(place.hostname, place.port, timeout=LIMIT)) as connection:
        for number in range(tries):
            _pulse(connection)
            status = _status(place.hostname, place.port, grown.sent.replace(TRY.encode(), b"%d" % number))
            gaps.append(_pulse(connection))
            if gaps[-1].held < ENOUGH:
                break
    return Hold(*map(min, zip(*gaps, strict=True))), status


def _pulse(connection: HTTPConnection) -> Hold:
    try:
        connection.request("GET", "/pulse")
        return Hold(*json.loads(connection.getresponse().read()))
    except RemoteDisconnected:  # the loop was held for longer than the server keeps a connection
        connection.close()
        return _pulse(connection)


def _status(host: str, port: int | None, sent: bytes) -> int:
    answer = b""
    with socket.create_connection((host, port), timeout=LIMIT) as connection:
        try:
            connection.sendall(sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            while part := connection.recv(65536):
                answer = answer or part
        except OSError:
            pass
    return int(answer[9:12] or 0)
