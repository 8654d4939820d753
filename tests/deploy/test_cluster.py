"""Tests of `make cluster`: streams through nginx, resumed on the other replica, and a story played on both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamserve_sdk import RemoteRunnable

from deploy.services import Missing, program

ROOT = Path(__file__).parents[2]
STOPS_WITHIN = 40
ENVIRONMENT = {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0.005"}
CHOICE = {"__type__": "command", "resume": "1"}
TOPIC = {"input": {"topic": "a programmer"}}


@dataclass
class Running:
    """A cluster in a process of its own, as `make cluster` starts it."""

    process: subprocess.Popen[str]
    url: str
    replicas: list[str]
    folder: Path

    @property
    def services(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text("ascii").split()]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    try:
        for name in ("nginx", "redis-server", "postgres", "initdb"):
            program(name)
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
    command = [sys.executable, "-m", "deploy.cluster", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        yield read_addresses(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOPS_WITHIN)


def read_addresses(process: subprocess.Popen[str]) -> Running:
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if "Ctrl-C" in line:
            url, *replicas = re.findall(r"http://\S+:\d+", text)
            return Running(process, url, replicas, Path(re.findall(r"logs in (\S+);", text)[0]))
    raise AssertionError(f"the cluster ended: {text}")


def ids(lines: list[str]) -> list[int]:
    return [int(line[4:]) for line in lines if line.startswith("id: ")]


def test_a_stream_through_nginx_resumes_on_the_other_replica(cluster: Running) -> None:
    with httpx.Client(timeout=20) as client:
        with client.stream("POST", f"{cluster.url}/joke/stream", json=TOPIC, headers={"Idempotency-Key": "k"}) as begun:
            run_id, lines = begun.headers["Run-Id"], []
            for line in begun.iter_lines():
                lines.append(line)
                if len(ids(lines)) == 5:
                    break
            states = {client.get(f"{replica}/runs/{run_id}").json()["status"] for replica in cluster.replicas}
        assert states == {"running"}
        rests = [
            client.get(f"{replica}/runs/{run_id}/stream", headers={"Last-Event-ID": "4"}).text
            for replica in cluster.replicas
        ]
    assert rests[0].partition("id: ")[2] == rests[1].partition("id: ")[2]
    rest = ids(rests[0].splitlines())
    assert rest == list(range(5, rest[-1] + 1))
    assert len(rest) > 20


def test_a_run_is_cancelled_on_the_other_replica(cluster: Running) -> None:
    one, other = cluster.replicas
    with httpx.stream("POST", f"{one}/joke/stream", json=TOPIC, headers={"Idempotency-Key": "c"}) as begun:
        assert httpx.post(f"{other}/runs/{begun.headers['Run-Id']}/cancel").status_code < 300
        assert "cancelled" in "".join(begun.iter_text())


def test_a_story_is_played_on_both_replicas(cluster: Running) -> None:
    config: Any = {"configurable": {"thread_id": "played"}}
    stories = [RemoteRunnable[Any, Any](f"{replica}/story") for replica in cluster.replicas]
    for number, given in enumerate([{"premise": "a lighthouse"}, CHOICE, CHOICE, CHOICE], 1):
        with stories[number % 2] as story:
            chunks = list(story.stream(given, config))
        assert ("__interrupt__" in chunks[-1]) == (number < 4)
        assert len(chunks) > 5


def test_the_cluster_leaves_nothing_behind(cluster: Running) -> None:
    services = cluster.services
    assert len(services) == 5
    assert cluster.folder.exists()
    cluster.process.send_signal(signal.SIGINT)
    assert cluster.process.wait(STOPS_WITHIN) == 0
    assert [pid for pid in services if Path(f"/proc/{pid}").exists()] == []
    assert not cluster.folder.exists()
