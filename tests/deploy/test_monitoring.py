"""Tests that the dashboard and the alerts name existing metrics, and that Prometheus reads both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
import yaml
from langchain_core.runnables import RunnableLambda

from deploy.services import free_port
from streamserve.telemetry.metrics import Metrics
from tests.limits import LIMIT
from tests.runs.support import app_of
from tests.servers import serving

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "streamserve.json"
PAGE = DEPLOY.parent / "docs" / "operations.md"
# Metrics of Prometheus and of its process collector.
NOT_OURS = {"up", "process_resident_memory_bytes"}


def exported() -> dict[str, set[str]]:
    """Return the names of our metrics as queries use them, with their labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        for family in metric.describe() if hasattr(metric, "describe") else ():
            ends = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
            found |= {family.name + end: set(metric._labelnames) for end in ends}
    return found


def queries() -> Iterator[str]:
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        leave_out = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        leave_out(f"{name} is not installed")
    return str(found)


def test_a_metric_is_exported_with_its_labels() -> None:
    assert exported()["streamserve_runs_total"] == {"chain", "endpoint", "state"}
    assert len(exported()) > 20


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_names_only_metrics_and_labels_that_exist(query: str) -> None:
    known = exported()
    named = set(re.findall(r"\b(?:streamserve|process)_\w+|\bup\b", query))
    assert named
    assert named <= known.keys() | NOT_OURS
    labels = set().union(*(known.get(name, set()) for name in named)) | {"instance", "job", "le"}
    grouped = re.findall(r"\bby \(([^)]*)\)", query)
    used = {label.strip() for group in grouped for label in group.split(",")}
    assert used | set(re.findall(r"(\w+)(?:=~|!=|=\")", query)) <= labels


@pytest.mark.parametrize("name", sorted({re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()}))
def test_every_metric_is_documented_with_its_labels(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([^|]*) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert row, name
    labels = next(labels for known, labels in exported().items() if re.sub(r"_(bucket|sum|count)$", "", known) == name)
    assert set(re.findall(r"`(\w+)`", row[1])) == labels


def test_prometheus_accepts_the_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "config", "prometheus.yml"], cwd=ALERTS.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def asked(url: str, query: str) -> list[Any]:
    try:
        response = httpx.get(f"{url}/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it listens before it is ready
        return []
    answer = response.json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def test_prometheus_scrapes_a_server_and_answers_every_query(tmp_path: Path) -> None:
    port = free_port()
    app = app_of({"echo": RunnableLambda(lambda text: text)})
    with serving(app) as target:
        httpx.post(f"{target}/echo/stream", json={"input": "x"})
        config = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text("utf-8"))
        config["global"]["scrape_interval"] = "1s"
        config["rule_files"] = [str(ALERTS)]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target.removeprefix("http://")]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            program("prometheus"),
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                url, deadline = f"http://127.0.0.1:{port}", monotonic() + LIMIT
                while not (runs := asked(url, "streamserve_runs_total")) and monotonic() < deadline:
                    pass
                (run,) = runs
                for query in queries():
                    asked(url, query.replace("$job", "streamserve").replace("$__rate_interval", "1m"))
            finally:
                process.terminate()
    labels = {name: run["metric"][name] for name in ("job", "chain", "endpoint", "state")}
    assert labels == {"job": "streamserve", "chain": "echo", "endpoint": "stream", "state": "done"}
    assert run["value"][1] == "1"
