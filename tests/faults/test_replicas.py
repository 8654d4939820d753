"""Two replicas behind nginx on one Redis: every reader gets every block once, though each of its connections is cut
somewhere and the next one goes to whatever replica.

Short in `make test`; `make faults` gives the same seeds longer runs.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.cluster import nginx
from deploy.services import Missing, free_port
from tests.faults.campaign import RunPlan, Totals, carry_out
from tests.faults.server import counting
from tests.stores.servers import redis_server

SEEDS = range(16)
SHORT, LONG = 250, 6_000  # blocks of one run
PROMISED = 200_000  # deliveries of the long campaign
MANY = 20  # reads of one run, of which some certainly go to either replica


@dataclass
class Balanced:
    """Replicas behind nginx.

    Args:
        port: nginx's.
        log: nginx's, with the replica and the path of each request.
    """

    port: int
    log: Path

    def requests(self) -> list[tuple[str, str]]:
        """The replica and the path of each request so far."""
        lines = [line.split() for line in self.log.read_text("ascii").splitlines()]
        return [(line[-1], line[0]) for line in lines]  # between them, replicas that were passed over


@pytest.fixture(scope="module")
def balanced() -> Iterator[Balanced]:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replicas = [
            stack.enter_context(counting({"STREAMSERVE_STORE": redis.url, "STREAMSERVE_INSECURE_PUBLIC": "1"}))
            for _ in range(2)
        ]
        port, log = free_port(), folder / "access.log"
        try:
            balancer = nginx(port, [replica.port for replica in replicas], folder)
        except Missing as missing:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
        configuration = folder / "nginx.conf"
        text = configuration.read_text("utf-8").replace("least_conn;", "random;")
        logged = f"log_format replica '$uri $upstream_addr'; access_log {log} replica;"
        configuration.write_text(text.replace("access_log off;", logged), "utf-8")
        stack.callback(balancer.stop)
        balancer.start()
        yield Balanced(port, log)


@pytest.fixture
def blocks(pytestconfig: pytest.Config) -> int:
    return LONG if pytestconfig.getoption("--long") else SHORT


@pytest.mark.parametrize("seed", SEEDS)
async def test_cut_readers_get_every_block_once_from_any_replica(
    seed: int, blocks: int, balanced: Balanced, totals: Totals
) -> None:
    before = len(balanced.requests())
    tallies = await carry_out(RunPlan.of(seed, blocks), balanced.port, totals)
    requests = balanced.requests()[before:]
    totals.served += Counter(replica for replica, _path in requests)
    for tally in tallies:
        flaws = {"lost": tally.lost, "repeated": tally.repeated, "misordered": tally.misordered}
        assert tally.flawless, (tally.how, flaws, tally.terminals)
    paths = [path for _replica, path in requests]
    for path in {path for path in paths if paths.count(path) > MANY}:
        assert len({replica for replica, asked in requests if asked == path}) == 2


def test_the_long_campaign_is_as_long_as_promised() -> None:
    assert sum(RunPlan.of(seed, LONG).deliveries for seed in SEEDS) >= PROMISED
