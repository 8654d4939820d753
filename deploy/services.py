"""Processes that are started until they are ready, and stopped by their own ids only."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START_LIMIT = 60.0
# Above the replicas' drain time and the grace after it.
STOP_LIMIT = 45.0
LOOK_AGAIN = 0.05
# Folders of Debian that are not on every PATH; the newest Postgres first.
FOLDERS = [Path("/usr/sbin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


class Missing(Exception):
    """A program or a free port is missing on this machine."""


def program(name: str) -> str:
    """Return the path of a program of the system.

    Raises:
        Missing: the program is not installed.
    """
    found = shutil.which(name) or next((str(path / name) for path in FOLDERS if (path / name).exists()), None)
    if found is None:
        raise Missing(f"{name} is not installed; `make system` installs it or names it")
    return found


# Below the ports that Linux gives to connections (net.ipv4.ip_local_port_range): a connection could take such a port
# before its server does, or while a test keeps the server down.
PORTS = range(10_000, 32_768)
# A random order, so that two sessions on one machine want different ports; none is given twice.
_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """Return a port that nobody listens on, and that this function has not returned before.

    Raises:
        Missing: no port is free.
    """
    for port in itertools.islice(_ports, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise Missing("no port is free")


class Service:
    """A process that is started until it is ready, and stopped by its own id only.

    Args:
        name: name of the service, and of its log file.
        command: command to run; it must stay in the foreground.
        ready: function that tells if the service can be used.
        folder: folder of its log.
        environment: variables beside those of this process.
        cwd: working directory.
        account: user that it runs as; None: the user of this process.
        end: signal for an orderly stop.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[], bool],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        account: str | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._ready = ready
        self._environment = dict(environment or {})
        self._cwd = cwd
        self._account = account
        self._end = end
        self._asked = False
        self.overdue = False

    def start(self) -> Self:
        """Start the service and wait until it is ready.

        Raises:
            RuntimeError: the service ended, or was not ready in time; the message has the end of its log.
        """
        self.begin()
        self.wait_until_ready()
        return self

    def begin(self) -> None:
        """Start the service without waiting, so that several can start together."""
        self._asked = False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which stops the others in order
                **identity(self._account),
            )

    def wait_until_ready(self) -> None:
        """Wait until the service can be used.

        Raises:
            RuntimeError: as for `start`.
        """
        assert self.process
        limit = time.monotonic() + START_LIMIT
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > limit:
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text('utf-8')[-2000:]}")
            time.sleep(LOOK_AGAIN)

    def ask_to_end(self) -> None:
        """Send the signal for an orderly stop, once: a second signal would mean an immediate one."""
        if self.process is not None and not self._asked and self.process.poll() is None:
            self._asked = True
            self.process.send_signal(self._end)

    def stop(self) -> int | None:
        """Stop the service in order, or kill it after the time limit; return its exit code."""
        self.ask_to_end()
        if self.process is None:
            return None
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.overdue = True
            print(f"{self.name} did not stop within {STOP_LIMIT:.0f} s", file=sys.stderr)
            return self.kill()

    def kill(self) -> int:
        """Kill the service, as a power cut would."""
        assert self.process
        self.process.kill()
        return self.process.wait()


def identity(account: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` for another account."""
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def answers(url: str) -> bool:
    """Return whether a URL answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
