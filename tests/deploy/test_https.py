"""Tests of deploy/nginx-https.conf in front of a replica: HTTPS, HTTP/2 and a path of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.cluster import ROOT, Replica, nginx
from deploy.services import Missing, Service, free_port, program
from tests.limits import LIMIT
from tests.stores.test_redis_tls import Authority

PACE = 0.05  # seconds between two tokens
SETTINGS = {
    "STREAMSERVE_ROOT_PATH": "/ai",
    "STREAMSERVE_TRUSTED_PROXIES": "127.0.0.1",
    "STREAMSERVE_INSECURE_PUBLIC": "1",
    "STREAMSERVE_MODEL": "offline",
    "STREAMSERVE_OFFLINE_PACE": str(PACE),
    "STREAMSERVE_STORE": "memory:",
}


class Site:
    """The application as a client outside sees it.

    Args:
        port: port of HTTPS.
        certificate: file of the server's certificate.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self._command = [program("curl"), "--silent", "--no-buffer", "--max-time", str(LIMIT), "--http2"]
        self._command += ["--cacert", str(certificate), "--dump-header", "-"]

    def ask(self, path: str, *options: str) -> subprocess.Popen[str]:
        """Start a request; its standard output has head and body as they arrive."""
        return subprocess.Popen(
            [*self._command, *options, self.url + path], stdout=subprocess.PIPE, text=True, errors="replace"
        )

    def answer(self, path: str, *options: str) -> str:
        """Return the whole answer."""
        return self.ask(path, *options).communicate(timeout=LIMIT)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("https")
    with ExitStack() as stack:
        try:
            program("curl")
            balancer = _configured(folder)
        except Missing as missing:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
        replica, port, service = balancer
        for started in (Replica(1, replica, folder, SETTINGS), service):
            stack.callback(started.stop)
            started.start()
        yield Site(port, folder / "https" / "certificate.pem")


def _configured(folder: Path) -> tuple[int, int, Service]:
    replica, port = free_port(), free_port()
    service = nginx(free_port(), [replica, replica], folder)
    https = folder / "https"
    https.mkdir()
    authority = Authority.made_in(https, "made")
    shutil.move(authority.certificate, https / "certificate.pem")
    shutil.move(authority.key, https / "key.pem")
    text = (ROOT / "deploy" / "nginx-https.conf").read_text("utf-8")
    (https / "streamserve.conf").write_text(text.replace("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"), "utf-8")
    return replica, port, service


def test_a_stream_over_http_2_comes_by_token_and_can_resume(site: Site) -> None:
    question = ("--json", json.dumps({"input": {"topic": "a programmer"}}), "--header", "Idempotency-Key: k")
    process, lines = site.ask("/ai/joke/stream", *question), []
    assert process.stdout
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("id: 5"):
            break
    running = site.answer(f"/ai/runs/{_header(lines, 'run-id')}")
    process.kill()
    process.communicate()
    assert lines[0].startswith("HTTP/2 200")
    assert '"status":"running"' in running  # five tokens were here before the last was made
    place = _header(lines, "location")
    assert re.fullmatch(r"/ai/runs/[0-9a-f-]{36}/stream", place)
    rest = site.answer(place, "--header", "Last-Event-ID: 5")
    assert "id: 5\n" not in rest
    assert "id: 6\n" in rest
    assert "event: end" in rest


def test_pages_find_everything_under_the_path(site: Site) -> None:
    page = site.answer("/ai/joke/playground/")
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', page)
    assert assets
    for asset in assets:
        assert asset.startswith("/ai/")
        assert site.answer(asset).startswith("HTTP/2 200"), asset
    assert site.answer("/ai/").startswith("HTTP/2 200")


def _header(lines: list[str], name: str) -> str:
    (value,) = [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}: ")]
    return value
