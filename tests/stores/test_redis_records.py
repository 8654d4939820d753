"""Records, blocks and messages as bytes, and the times after which Redis drops them."""

from __future__ import annotations

from dataclasses import fields

import orjson
import pytest

from streamserve.stores import RunRecord
from streamserve.stores.base import Slice
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import records
from streamserve.stores.redis.records import Pieces, fields_of, message_of, pack, record_of, unpack
from streamserve.stores.redis.retention import blocks_ttl, record_ttl

WHOLE = RunRecord("run", "chain", "stream", "ann", 1.5, key="key", fingerprint="f", attempt=3, thread="thread")
SMALL = RunRecord("run", "chain", "stream", "ann", 1.5)


def as_bytes(flat: list[object]) -> list[bytes]:
    return [part if isinstance(part, bytes) else str(part).encode() for part in flat]


@pytest.mark.parametrize("run", [WHOLE, SMALL])
def test_a_new_record_comes_back_as_it_was(run: RunRecord) -> None:
    assert record_of(as_bytes([*fields_of(run, "worker")])) == run


def test_an_ended_record_comes_back_whole() -> None:
    end = {"status": "error", "last_id": 9, "purged": 1, "ended_at": 2.5, "expires_at": 3.5, "error": '{"code":"x"}'}
    flat = as_bytes([*fields_of(WHOLE, "worker"), *(part for pair in end.items() for part in pair), "output", b"\xff"])
    found = record_of(flat)
    assert found is not None
    assert (found.status, found.last_id, found.purged, found.ended_at, found.expires_at) == ("error", 9, True, 2.5, 3.5)
    assert (found.error, found.output) == (orjson.loads(b'{"code":"x"}'), b"\xff")
    kept = {field.name for field in fields(RunRecord)} - {"status", "last_id", "purged", "ended_at", "expires_at"}
    assert all(getattr(found, name) == getattr(WHOLE, name) for name in kept - {"error", "output"})


def test_nothing_is_no_record() -> None:
    assert record_of([]) is None
    assert record_of([b"worker", b"x"]) is None
    with pytest.raises(ValueError):
        record_of([b"run_id"])


def test_a_message_is_cut_into_its_blocks() -> None:
    assert message_of(b"7 0 3,0,2\nabcde") == (7, False, [b"abc", b"", b"de"])
    assert message_of(b"1 1 4\na\nb ") == (1, True, [b"a\nb "])


def test_a_piece_keeps_its_blocks() -> None:
    blocks = [b"a", b"", b"\n", b"1,2\n" * 1000]
    assert unpack(pack(blocks)) == blocks
    assert len(pack(blocks)) < 200


def test_pieces_answer_within_their_blocks_only() -> None:
    pieces = Pieces()
    assert pieces.read("run", 0, 10) is None
    pieces.put("run", 7, 3, pack([b"3", b"4", b"5"]))
    pieces.put("last", 5, 3, pack([b"3", b"4", b"5"]))
    assert [pieces.read("run", after, 2) for after in (0, 1, 5, 6)] == [None] * 4
    assert pieces.read("run", 2, 2) == Slice([b"3", b"4"], False)
    assert pieces.read("run", 3, 2) == Slice([b"4", b"5"], False)
    assert pieces.read("last", 2, 2) == Slice([b"3", b"4"], False)
    assert pieces.read("last", 2, 3) == Slice([b"3", b"4", b"5"], True)
    pieces.drop("run")
    pieces.drop("run")
    assert pieces.read("run", 2, 2) is None


def test_the_pieces_put_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT_PIECES", 2)
    pieces = Pieces()
    for run_id in ("a", "b", "a", "c"):
        pieces.put(run_id, 1, 1, pack([run_id.encode()]))
    assert [pieces.read(run_id, 0, 1) is not None for run_id in "abc"] == [True, False, True]


def test_redis_drops_later_than_the_reaper() -> None:
    bounds = Bounds(retention=100.0, tombstone=1_000.0)
    assert (blocks_ttl(bounds), record_ttl(bounds)) == (160_000, 1_160_000)
