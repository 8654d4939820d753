"""The server's settings: environment variables with the prefix STREAMSERVE_, or a `.env` file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# Measured with 50 streams: docs/operations.md.
GC_THRESHOLD = 10_000


class Settings(BaseSettings):
    """All settings of the server; docs/settings.md lists them. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="STREAMSERVE_", env_file=".env", extra="ignore", hide_input_in_errors=True
    )

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

    auth: str = Field(
        "",
        description="How callers are known: `keys:PATH` (a file of API keys), `jwt:` (JSON Web Tokens, extra `jwt`) or "
        "`MODULE:FUNCTION` (a FastAPI dependency of your own). Unset: not at all, and only this machine is answered.",
    )
    insecure_public: bool = Field(
        False,
        description="Answer everybody without authentication: whoever reaches the server runs chains at your cost.",
    )
    public_docs: bool = Field(False, description="Show /docs and /openapi.json to callers without a credential too.")
    secret: SecretStr | None = Field(
        None,
        description="Signs sessions and share tokens: 32 characters or more, the same for all workers. Unset: random, "
        "so they end with the server.",
    )
    session_time: float = Field(28_800.0, gt=0, description="A browser that has sent a key is known for so long.")
    jwt_issuer: str = Field("", description="The `iss` of tokens.")
    jwt_audience: str = Field("", description="The `aud` of tokens: this server's name at the issuer.")
    jwt_jwks_url: str = Field("", description="Where the issuer has its public keys (`jwks_uri`).")
    jwt_secret: SecretStr | None = Field(
        None, description="In place of public keys: a secret shared with the issuer, 32 bytes or more."
    )
    jwt_algorithms: str = Field(
        "", description="Signatures that count, by commas. Unset: `RS256,ES256`, with a shared secret `HS256`."
    )
    jwt_leeway: float = Field(30.0, ge=0, le=300, description="The issuer's clock may be so far from this one.")
    jwt_principal: str = Field("sub", description="The claim that names the principal.")
    jwt_scopes: str = Field("scope", description="The claim that has the scopes: a text with spaces, or a list.")

    keepalive: float = Field(
        15.0,
        gt=0,
        description="A stream that is silent for so long gets a comment line: proxies drop idle ones.",
    )
    write_interval: float = Field(
        0.016,
        ge=0,
        le=1,
        description="Seconds between two writes to one reader at least, after the first few: blocks that come faster "
        "go out together, which a screen of 60 pictures a second cannot show. 0: each block as soon as it is there.",
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
        repr=False,  # it may hold a password
        description="Where runs are kept: `memory:` (one process; dies with it), `sqlite:///PATH` (one machine) or "
        "`redis://HOST:PORT/DB` (many; `rediss:` and `redis+cluster:` too). Unset: memory, "
        "or with several workers `sqlite:///.streamserve/runs.sqlite`.",
    )
    checkpoints: str = Field(
        "",
        repr=False,  # it may hold a password
        description="Where graphs keep conversations: `memory:`, `sqlite:///PATH` or `postgres://USER@HOST/DB` (extra "
        "`postgres`). Unset: memory or SQLite, as the runs' store; with a Redis store, graphs need it to be set.",
    )
    lease: float = Field(
        10.0, gt=0.5, description="A worker that gives no sign of life for so long has lost its runs to the others."
    )
    max_attempts: int = Field(
        3, ge=1, description="A run that is recovered is begun so often at most: what kills its workers must end."
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
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="Bytes of a request's body; past it 413.")
    max_header_bytes: int = Field(
        32 * 2**10, gt=0, description="Bytes of a request's address and headers together; past it 431."
    )
    body_timeout: float = Field(30.0, gt=0, description="A request's head, and then its body, must come within this.")
    max_json_depth: int = Field(256, gt=0, description="Levels of nesting in a body; past it 422.")
    max_json_items: int = Field(
        20_000,
        gt=0,
        description="Values in a body, counted before it is parsed; past it 422: checking them takes the event loop.",
    )
    max_batch: int = Field(256, gt=0, description="Inputs of one /batch; past it 422.")
    max_config_hash: int = Field(
        4096, gt=0, description="Characters of a config in a path; past it 400: a short one can unpack to megabytes."
    )
    rate_limit: str = Field(
        "",
        description="Requests of one caller to one chain, such as `60/minute` or `5/second; 1000/day`; a chain's "
        "record goes first. Unset: any number.",
    )
    max_concurrency: int | None = Field(
        None,
        ge=1,
        description="Runs of one caller of one chain under way in one worker; a chain's record goes first. "
        "Unset: any number.",
    )
    max_runs: int = Field(1000, gt=0, description="Runs and calls under way in one worker; past it 503.")
    limits_store: str = Field(
        "",
        description="Where requests are counted: `memory:` (each worker by itself) or a Redis as for `store`. "
        "Unset: the Redis of `store`, else memory.",
    )
    cors_origins: str = Field(
        "",
        description="Web origins whose scripts may call the server, separated by commas, such as "
        "`https://app.example.com`; `*` for all. Unset: the server's own only.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Addresses and networks, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed.",
    )
    gc_threshold: int = Field(
        GC_THRESHOLD,
        ge=0,
        description="Objects made between two rounds of the garbage collector. More: less CPU per token, and garbage "
        "in cycles stays longer. Python's own is 700; 0 turns the rounds off, and such garbage is never freed.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Log records as `json`, or `console` for people. `auto`: console on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The server's own records from this level on are logged."
    )
    metrics: Literal["auto", "public", "guarded", "off"] = Field(
        "auto",
        description="Who may read /metrics: everybody (`public`), callers that the guard lets pass (`guarded`), or "
        "nobody (`off`). `auto`: everybody if the server listens on loopback, else guarded.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="/metrics on this port instead, for everybody who reaches it."
    )
    otel: bool = Field(
        False,
        description="OpenTelemetry traces (extra `otel`), sent where the variables OTEL_EXPORTER_OTLP_* say.",
    )
