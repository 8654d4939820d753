"""Tests that hostile requests are answered in time, never with 500, while the streams of others continue.

The long form sends 20,000. A failure names its seed: `tests.faults.attacks.attack(SEED)`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.attacks import answer_to, attack, fault_of
from tests.faults.hostile_server import attacked
from tests.faults.rhythm import watched

SHORT, LONG = 400, 20_000
AT_A_TIME = 16
STREAMS = 5
LIMIT = 20.0  # seconds for any answer; the server gives a body two


async def _campaign(url: str, count: int) -> tuple[Counter[str], list[str]]:
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    host, port = place.hostname, place.port
    told: Counter[str] = Counter()
    faults: list[str] = []
    seeds = iter(range(count))

    async def work() -> None:
        for seed in seeds:
            made = attack(seed)
            try:
                async with asyncio.timeout(LIMIT):
                    answer = await answer_to(made, host, port)
            except TimeoutError:
                faults.append(f"seed {seed}, {made.name}: no answer in {LIMIT} s")
                continue
            told[f"{made.name}: {answer[9:12].decode() or 'closed'}"] += 1
            if fault := fault_of(made, answer):
                faults.append(f"seed {seed}, {made.name}: {fault}")

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return told, faults


@pytest.mark.timeout(1800)
def test_hostile_requests_get_answers_and_others_stream_on(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = LONG if request.config.getoption("--long") else SHORT
    with attacked(tmp_path / "log") as url, watched(url, STREAMS) as rhythm:
        told, faults = asyncio.run(_campaign(url, count))
    with capsys.disabled():
        print(f"\n{count} hostile requests: longest gap of {STREAMS} streams {rhythm.longest * 1000:.0f} ms", end=" ")
        print(", ".join(f"{name} x{number}" for name, number in sorted(told.items())))
    assert not faults, "\n".join(faults[:20])
    assert rhythm.broken == 0
    assert rhythm.tokens > 0
    logged = (tmp_path / "log").read_text()
    assert "Traceback" not in logged, logged[-4000:]
