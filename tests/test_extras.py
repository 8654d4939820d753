"""The errors of a server that needs an extra which is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import LIMIT

ROOT = Path(__file__).parents[1]
# A server without a package: a module that is None in sys.modules cannot be imported.
START = """
import asyncio, sys
sys.modules.update(dict.fromkeys({missing!r}))
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import echo_graph, Conversation, registry_of
from streamserve import Chain

async def main():
    app = create_app(registry_of({{"bot": Chain(runnable=echo_graph(), input_type=Conversation)}}), Settings())
    async with app.router.lifespan_context(app):
        print("started")

asyncio.run(main())
"""


def start_without(missing: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{f"STREAMSERVE_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-c", START.format(missing=missing)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.parametrize("scheme", ["redis", "rediss+cluster"])
def test_redis_without_its_extra_names_what_to_install(scheme: str) -> None:
    done = start_without(["redis", "redis.asyncio"], store=f"{scheme}://127.0.0.1:1/0", checkpoints="memory:")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: STREAMSERVE_STORE: redis://...")
    assert "pip install 'streamserve[redis]'" in last


def test_redis_limits_without_the_extra_name_what_to_install() -> None:
    done = start_without(["redis"], store="memory:", limits_store="redis://127.0.0.1:1/0", checkpoints="memory:")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: STREAMSERVE_LIMITS_STORE: redis://...")
    assert "pip install 'streamserve[redis]'" in last


@pytest.mark.parametrize("missing", [["psycopg"], ["psycopg_pool"]])
def test_postgres_without_its_extra_names_what_to_install(missing: list[str]) -> None:
    done = start_without(missing, store="memory:", checkpoints="postgres://somebody:secret@127.0.0.1:1/none")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "RuntimeError: Checkpoints in Postgres need an extra: pip install 'streamserve[postgres]'"
    assert "secret" not in done.stderr


def test_a_server_starts_without_extras(tmp_path: Path) -> None:
    missing = ["redis", "redis.asyncio", "psycopg", "psycopg_pool", "langgraph.checkpoint.postgres"]
    done = start_without(missing, store=f"sqlite:///{tmp_path}/runs.sqlite")
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
