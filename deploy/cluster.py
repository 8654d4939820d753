"""The shape of compose.yaml without Docker: `python -m deploy.cluster`, or `make cluster`.

Two replicas, nginx in front, Redis and Postgres, all on 127.0.0.1, with their data in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self

from deploy.services import HOST, ROOT, Missing, Service, answers, free_port, identity, program

REPLICAS = 2


class Replica(Service):
    """A server of the chains in a process of its own.

    Args:
        number: number in its name.
        port: port to listen on.
        folder: folder of its log.
        settings: variables of its environment.
        cwd: folder of the application.
    """

    def __init__(self, number: int, port: int, folder: Path, settings: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "streamserve.cli", "serve", "--host", HOST, "--port", str(port)]
        name = f"replica-{number}"
        super().__init__(name, command, lambda: answers(f"{self.url}/readyz"), folder, environment=settings, cwd=cwd)


def postgres(folder: Path) -> tuple[Service, str]:
    """Return Postgres with new data, reached by a socket in its folder, and its URL."""
    account = unprivileged()
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    if account:
        shutil.chown(data, account)
    initialise = [program("initdb"), "-D", str(data), "-U", "streamserve", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run([*initialise, "--locale=C"], cwd="/", check=True, stdout=subprocess.DEVNULL, **identity(account))
    command = [program("postgres"), "-D", str(data), "-k", str(data), "-c", "listen_addresses="]
    service = Service(
        "postgres", command, lambda: _is_ready(data), folder, cwd=Path("/"), account=account, end=signal.SIGINT
    )
    return service, f"postgres:///postgres?host={data}&user=streamserve"


def unprivileged() -> str | None:
    """Return the account for Postgres, which refuses to run as root; None: the account of this process."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _is_ready(data: Path) -> bool:
    # The postmaster writes its state into the last line of this file.
    try:
        lines = (data / "postmaster.pid").read_text("ascii").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"


def redis(folder: Path) -> tuple[Service, str]:
    """Return an empty Redis and its URL."""
    port = free_port()
    command = [program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(folder), "--save", ""]
    return Service("redis", command, lambda: _pongs(port), folder), f"redis://{HOST}:{port}/0"


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
    except OSError:
        return False


def nginx(port: int, replicas: Sequence[int], folder: Path) -> Service:
    """Return nginx with the configuration of compose.yaml, in front of replicas on these ports."""
    folder.chmod(0o711)  # workers of nginx are not root
    configuration = folder / "nginx.conf"
    configuration.write_text(nginx_configuration(port, replicas, folder), "utf-8")
    command = [program("nginx"), "-p", str(folder), "-c", str(configuration), "-g", "daemon off;"]
    return Service("nginx", command, lambda: answers(f"http://{HOST}:{port}/healthz"), folder, end=signal.SIGQUIT)


def nginx_configuration(port: int, replicas: Sequence[int], folder: Path) -> str:
    """Return the text of nginx.conf with other addresses and paths."""
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    text = text.replace("listen 8080;", f"listen {HOST}:{port};").replace(" /tmp/", f" {folder}/")
    for number, replica in enumerate(replicas, 1):
        text = text.replace(f"server replica-{number}:8000", f"server {HOST}:{replica}")
    return text


class Cluster:
    """The replicas, nginx, Redis and Postgres, until the `with` block ends.

    Args:
        port: port of nginx; the replicas have the next ones. 0: free ports.
        settings: variables of the replicas' environment, which override the cluster's own.
        cwd: folder of the application.
    """

    def __init__(self, port: int = 0, settings: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.replicas: list[Replica] = []
        self.folder = Path()
        self._ports = [port + number if port else free_port() for number in range(1, REPLICAS + 1)]
        self._settings = dict(settings or {})
        self._cwd = cwd
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        """Start all services.

        Raises:
            Missing: a program is not installed.
            RuntimeError: a service did not start.
        """
        with ExitStack() as ending:
            self.folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="streamserve-")))
            self.redis, store = redis(self.folder)
            self.folder.chmod(0o711)  # for the account of Postgres
            self.postgres, checkpoints = postgres(self.folder)
            # nginx listens on loopback, but what it forwards counts as coming from anywhere.
            own = {
                "STREAMSERVE_STORE": store,
                "STREAMSERVE_CHECKPOINTS": checkpoints,
                "STREAMSERVE_INSECURE_PUBLIC": "1",
            }
            settings = own | self._settings
            self.replicas = [
                Replica(number, port, self.folder, settings, self._cwd) for number, port in enumerate(self._ports, 1)
            ]
            self.nginx = nginx(self.port, self._ports, self.folder)
            for stage in ([self.redis, self.postgres], self.replicas, [self.nginx]):
                self._start(stage, ending)
            self._ending = ending.pop_all()
        return self

    def _start(self, services: Sequence[Service], ending: ExitStack) -> None:
        for service in services:
            ending.callback(service.stop)
            service.begin()
        for service in services:
            service.wait_until_ready()

    def __exit__(self, *_error: object) -> None:
        # The replicas drain together, while nginx still passes their streams on.
        for replica in self.replicas:
            replica.ask_to_end()
        for replica in self.replicas:
            replica.stop()
        self._ending.close()

    @property
    def services(self) -> list[Service]:
        """All services that were started."""
        return [self.redis, self.postgres, *self.replicas, self.nginx]

    def restart(self, replica: Replica) -> None:
        """Stop a replica by SIGTERM, and start it again."""
        replica.stop()
        replica.start()


def main() -> None:
    """Run the cluster until Ctrl-C, SIGTERM, or the end of one of its processes."""
    parser = argparse.ArgumentParser(prog="python -m deploy.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="port of nginx; the replicas have the next two [8000]")
    port = parser.parse_args().port
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with Cluster(port) as cluster:
            print(f"StreamServe on {cluster.url}: nginx, Redis, Postgres and two replicas:")
            print(*(f"  {replica.name} {replica.url}" for replica in cluster.replicas), sep="\n")
            print(f"logs in {cluster.folder}; Ctrl-C stops all of it", flush=True)
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            sys.exit("a process of the cluster ended, so the cluster stops")
    except (Missing, RuntimeError) as error:
        sys.exit(str(error))


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Only the first signal counts: a second Ctrl-C must not leave processes behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
