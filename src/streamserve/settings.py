"""The server's settings: environment variables with the prefix STREAMSERVE_, or a `.env` file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings of the server; docs/settings.md lists them. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="STREAMSERVE_", env_file=".env", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    chains: str = Field("chains", description="Importable package that holds the chain modules.")
    dev: bool = Field(
        False, description="Serve the chains that load, show the broken ones on the home page, reload on change."
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes; more than one share the runs' store. Unset: WEB_CONCURRENCY, as uvicorn has it, "
        "or 1.",
    )
    root_path: str = Field("", description="Path under which a proxy serves the application.")

    keepalive: float = Field(
        15.0,
        gt=0,
        description="A stream that is silent for so long gets a comment line: proxies drop idle ones.",
    )
    on_disconnect: Literal["continue", "cancel"] | None = Field(
        None,
        description="What happens to a run when its last reader leaves: `continue` to its end, or `cancel`: at once "
        "or, if the reader can come back (it sent an Idempotency-Key), after `orphan_grace`. Unset: continue for "
        "background runs, else cancel. A chain's record and a request's header go first.",
    )
    orphan_grace: float = Field(
        60.0,
        ge=0,
        description="A run to be cancelled without readers waits so long for one that can come back.",
    )
    run_timeout: float = Field(
        900.0, gt=0, description="A run ends with `timeout` after so long: a model that hangs must not run for ever."
    )
    cancel_grace: float = Field(
        5.0, gt=0, description="A cancelled chain gets so long to close what it opened before its stream ends."
    )
    drain_time: float = Field(
        25.0, ge=0, description="After SIGTERM, runs may finish for so long; Kubernetes kills after 30."
    )
    max_run_events: int = Field(
        200_000, gt=1, description="Blocks of one run; past it the run ends with `log_full`: it must fit into memory."
    )
    max_run_bytes: int = Field(64 * 2**20, gt=0, description="Bytes of one run's blocks; past it `log_full`.")
    max_readers: int = Field(64, gt=0, description="Readers of one run at a time: each costs a socket and its buffer.")
    unread_timeout: float = Field(
        60.0, gt=0, description="A reader that takes nothing for so long is dropped: it holds a socket buffer."
    )
    store: str = Field(
        "",
        description="Where runs are kept: `memory:` (one process; dies with it), `sqlite:///PATH` (one machine) or "
        "`redis://HOST:PORT/DB` (many; `rediss:` and `redis+cluster:` too). Unset: memory, "
        "or with several workers `sqlite:///.streamserve/runs.sqlite`.",
    )
    checkpoints: str = Field(
        "",
        description="Where graphs keep conversations: `memory:`, `sqlite:///PATH` or `postgres://USER@HOST/DB` (extra "
        "`postgres`). Unset: memory or SQLite, as the runs' store; with a Redis store, graphs need it to be set.",
    )
    lease: float = Field(
        10.0, gt=0.5, description="A worker that gives no sign of life for so long has lost its runs to the others."
    )
    store_strict: bool = Field(
        True,
        description="Show a block only once it is stored. Off, readers at the run's own worker see it a write sooner; "
        "if that worker dies, they may have seen tokens that are nowhere else, and a cursor that nobody knows.",
    )
    store_patience: float = Field(
        30.0, ge=0, description="A run waits so long for a store that is away, then it is given up."
    )
    retention: float = Field(3600.0, ge=0, description="Blocks of an ended run are kept so long.")
    tombstone: float = Field(86_400.0, ge=0, description="After that, its record is kept so long, to answer 410.")
    max_retained_runs: int = Field(10_000, gt=0, description="Ended runs kept; the oldest go first.")
    max_retained_bytes: int = Field(256 * 2**20, gt=0, description="Bytes of ended runs kept; the oldest go first.")
    threads: int = Field(
        64, gt=0, description="Threads for sync models and tools; each call waits in one as long as it runs."
    )
