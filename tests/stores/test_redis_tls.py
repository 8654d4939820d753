"""Redis behind TLS (rediss://): the store checks its certificate."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.services import free_port
from streamserve.settings import Settings
from streamserve.stores import Outcome, StoreDown, store_at
from streamserve.stores.redis import RedisStore
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, find, redis_server, wait_for_cluster
from tests.stores.test_redis import a_run, follow


@dataclass(frozen=True)
class Authority:
    """A self-signed certificate for 127.0.0.1.

    Args:
        certificate: PEM file.
        key: PEM file.
    """

    certificate: Path
    key: Path

    @classmethod
    def made_in(cls, folder: Path, name: str) -> Authority:
        """Make one with OpenSSL."""
        made = cls(folder / f"{name}.pem", folder / f"{name}-key.pem")
        command = [find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
        return made


@contextmanager
def redis_behind_tls(authority: Authority, *options: str) -> Iterator[tuple[RedisServer, int]]:
    """Run a redis-server; give its port for TLS, too."""
    port = free_port()
    files = ("--tls-cert-file", str(authority.certificate), "--tls-key-file", str(authority.key))
    trust = ("--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no")
    with redis_server("--tls-port", str(port), *files, *trust, *options) as server:
        yield server, port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.made_in(tmp_path_factory.mktemp("tls"), "redis")


@pytest.fixture(scope="module")
def port(authority: Authority) -> Iterator[int]:
    with redis_behind_tls(authority) as (_, port):
        yield port


def store_of(url: str) -> RedisStore:
    store = store_at(Settings(store=url, lease=2.0, _env_file=None))
    assert isinstance(store, RedisStore)
    return store


async def assert_a_run_is_kept(url: str) -> None:
    owner, other = store_of(url), store_of(url)
    async with asyncio.timeout(LIMIT):
        for store in (owner, other):
            await store.open()
        try:
            await owner.check()
            await owner.acquire(a_run())
            # The other store receives messages on a connection of its own.
            reading = asyncio.create_task(follow(other))
            blocks = [b"%d" % number for number in range(200)]
            for first in range(0, 200, 10):
                outcome = Outcome("done") if first == 190 else None
                await owner.append("run", 1, first + 1, blocks[first : first + 10], outcome)
            assert await reading == blocks
            assert other._subscriber.connected.is_set()
        finally:
            for store in (owner, other):
                await store.close()


async def test_runs_are_kept_in_a_redis_behind_tls(port: int, authority: Authority) -> None:
    await assert_a_run_is_kept(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}")


async def test_a_self_signed_certificate_is_refused(port: int) -> None:
    await assert_refused(f"rediss://127.0.0.1:{port}/0", "(?i)certificate")


async def test_a_certificate_of_another_authority_is_not_trusted(port: int, tmp_path: Path) -> None:
    stranger = Authority.made_in(tmp_path, "stranger")
    await assert_refused(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={stranger.certificate}", "(?i)certificate")


async def test_a_certificate_for_another_name_is_not_trusted(port: int, authority: Authority) -> None:
    await assert_refused(
        f"rediss://localhost:{port}/0?ssl_ca_certs={authority.certificate}", "(?i)certificate|hostname"
    )


async def test_plain_redis_to_a_tls_port_raises_store_down(port: int) -> None:
    await assert_refused(f"redis://127.0.0.1:{port}/0", "Redis")


async def assert_refused(url: str, why: str) -> None:
    store = store_of(url)
    async with asyncio.timeout(LIMIT):
        await store.open()
        try:
            with pytest.raises(StoreDown, match=why):
                await store.check()
        finally:
            await store.close()


async def test_runs_are_kept_in_a_cluster_behind_tls(authority: Authority) -> None:
    cluster = ("--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_port()))
    with redis_behind_tls(authority, *cluster) as (server, port):
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        wait_for_cluster(server)
        await assert_a_run_is_kept(f"rediss+cluster://127.0.0.1:{port}?ssl_ca_certs={authority.certificate}")
