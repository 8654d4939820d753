"""The server's settings: environment variables with the prefix STREAMSERVE_, or a `.env` file."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# Measured with 50 streams: docs/operations.md.
GC_THRESHOLD = 10_000


class Settings(BaseSettings):
    """Hold all settings of the server; docs/settings.md lists them. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="STREAMSERVE_",
        env_file=".env",
        extra="ignore",
        hide_input_in_errors=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on. 0 picks a free port."""
    chains: str = "chains"
    """Importable package that holds the chain modules."""
    dev: bool = False
    """Development mode: serve the chains that load, show the broken ones on the home page, and reload when a file
    changes."""
    workers: int | None = Field(None, ge=1)
    """Number of worker processes. Several workers share one store of runs. Unset: WEB_CONCURRENCY, the variable that
    uvicorn reads, else 1."""
    root_path: str = ""
    """Path under which a proxy serves the application."""

    auth: str = ""
    """Authentication of callers: `keys:PATH` (a file of API keys), `jwt:` (JSON Web Tokens, extra `jwt`) or
    `MODULE:FUNCTION` (a FastAPI dependency of your own). Unset: no authentication, and only callers on this machine are
    answered."""
    insecure_public: bool = False
    """Answer all callers without authentication. Everybody who can reach the server can then run chains at your
    cost."""
    public_docs: bool = False
    """Show /docs and /openapi.json with all chains to everybody. Otherwise a caller sees those that it may call."""
    secret: SecretStr | None = None
    """Key that signs sessions and share tokens: 32 characters or more, the same for all workers. Unset: a random key,
    so sessions and tokens do not survive a restart."""
    credential_check: float | None = Field(None, gt=0)
    """Seconds between two checks of an open stream's credential. A stream whose key was revoked, or whose token has
    expired, then ends with `unauthenticated`. Unset: it goes on to the end of its run."""
    session_time: float = Field(28_800.0, gt=0)
    """Seconds until a browser must sign in again."""
    jwt_issuer: str = ""
    """Required `iss` claim of tokens."""
    jwt_audience: str = ""
    """Required `aud` claim of tokens: the name of this server at the issuer."""
    jwt_jwks_url: str = ""
    """URL of the issuer's public keys (`jwks_uri`)."""
    jwt_secret: SecretStr | None = None
    """Secret shared with the issuer, in place of public keys: 32 bytes or more."""
    jwt_algorithms: str = ""
    """Accepted signature algorithms, separated by commas. Unset: `RS256,ES256`, or `HS256` with a shared secret."""
    jwt_leeway: float = Field(30.0, ge=0, le=300)
    """Allowed clock skew, in seconds."""
    jwt_principal: str = "sub"
    """Claim that names the principal."""
    jwt_scopes: str = "scope"
    """Claim that holds the scopes: a text with spaces, or a list of texts."""

    keepalive: float = Field(15.0, gt=0)
    """Seconds of silence after which a stream sends a comment line. Proxies drop idle connections."""
    write_interval: float = Field(0.016, ge=0, le=1)
    """Minimum seconds between two writes to one reader, after its first few writes. Blocks that arrive faster go out
    together; a screen that refreshes 60 times per second cannot show the difference. 0 writes each block at once."""
    on_disconnect: Literal["continue", "cancel"] | None = None
    """Policy for a run whose last reader leaves. `continue`: it runs to its end. `cancel`: it is cancelled at once,
    or after `orphan_grace` if the reader can come back (an Idempotency-Key, a background run, `recover`). Unset:
    `continue` for background runs, else `cancel`. A chain's record and a request's header override it."""
    orphan_grace: float = Field(60.0, ge=0)
    """Seconds that a run without readers waits for a reader that can come back before it is cancelled."""
    run_timeout: float = Field(900.0, gt=0)
    """Maximum seconds per run; then it ends with `timeout`. A model that hangs must not run for ever."""
    cancel_grace: float = Field(5.0, gt=0)
    """Seconds that a cancelled chain has to close what it opened before its stream ends."""
    drain_time: float = Field(25.0, ge=0)
    """Seconds after SIGTERM in which runs may finish. Kubernetes kills a process after 30."""
    max_run_events: int = Field(200_000, gt=1)
    """Maximum blocks per run; then it ends with `log_full`. The blocks of a run must fit into memory."""
    max_run_bytes: int = Field(64 * 2**20, gt=0)
    """Maximum bytes of a run's blocks; then it ends with `log_full`."""
    max_readers: int = Field(64, gt=0)
    """Maximum readers of one run at a time. Each reader costs a socket and its buffer."""
    unread_timeout: float = Field(60.0, gt=0)
    """Seconds after which a reader that takes no data is dropped, because it holds a socket buffer."""
    store: str = Field("", repr=False)  # it may hold a password
    """Store of the runs: `memory:` (one process; lost when it ends), `sqlite:///PATH` (one machine) or
    `redis://HOST:PORT/DB` (several machines; also `rediss:` and `redis+cluster:`). Unset: memory, or
    `sqlite:///.streamserve/runs.sqlite` with several workers."""
    checkpoints: str = Field("", repr=False)  # it may hold a password
    """Store of the graphs' threads: `memory:`, `sqlite:///PATH` or `postgres://USER@HOST/DB` (extra `postgres`). Unset:
    memory or SQLite, the same as for the runs. With a Redis store, graphs require this setting."""
    lease: float = Field(10.0, gt=0.5)
    """Seconds without a heartbeat before another worker takes over a worker's runs."""
    max_attempts: int = Field(3, ge=1)
    """Maximum attempts per run, for runs that recover. A run that kills its workers must end."""
    store_strict: bool = True
    """Show a block only after it is stored. If false, readers connected to the run's owner get a block one write
    earlier; if that worker dies, they may have seen tokens that are stored nowhere, and hold a cursor that no worker
    knows."""
    store_patience: float = Field(30.0, ge=0)
    """Seconds that a run waits for an unreachable store before it is given up."""
    retention: float = Field(3600.0, ge=0)
    """Seconds that the blocks of an ended run are kept."""
    tombstone: float = Field(86_400.0, ge=0)
    """Seconds that its record is kept after that; requests for the run get 410."""
    max_retained_runs: int = Field(10_000, gt=0)
    """Maximum ended runs kept; the oldest are removed first."""
    max_retained_bytes: int = Field(256 * 2**20, gt=0)
    """Maximum bytes of ended runs kept; the oldest are removed first."""
    threads: int = Field(64, gt=0)
    """OS threads for synchronous models and tools. Each call occupies one thread until it returns."""
    max_body_bytes: int = Field(4 * 2**20, gt=0)
    """Maximum bytes of a request body; a larger one gets 413. Each copy and each check of a large one takes time of all
    streams."""
    max_incoming_bytes: int = Field(64 * 2**20, gt=0)
    """Maximum bytes of all bodies above 64 KiB that a worker receives or parses at the same time; the body that exceeds
    it gets 503. One body alone is always taken."""
    max_header_bytes: int = Field(32 * 2**10, gt=0)
    """Maximum bytes of a request's address and headers together; a larger request gets 431."""
    body_timeout: float = Field(30.0, gt=0)
    """Seconds within which the head of a request must arrive, and then its body."""
    max_json_depth: int = Field(256, gt=0)
    """Maximum nesting depth of a body; a deeper one gets 422."""
    max_json_items: int = Field(4_000, gt=0)
    """Maximum values in a body, counted before it is parsed; more get 422. A chain's own work with
    them takes time of the event loop."""
    max_batch: int = Field(256, gt=0)
    """Maximum inputs of one /batch call; more get 422."""
    max_config_hash: int = Field(4096, gt=0)
    """Maximum characters of a config in a path; a longer one gets 400. A short one can unpack to megabytes."""
    rate_limit: str = ""
    """Requests allowed per caller and chain, such as `60/minute` or `5/second; 1000/day`. A chain's record overrides
    it. Unset: unlimited."""
    max_concurrency: int | None = Field(None, ge=1)
    """Maximum live runs per caller and chain in one worker. Each item of a batch that runs counts; the others wait. A
    chain's record overrides it. Unset: unlimited."""
    max_runs: int = Field(1000, gt=0)
    """Maximum live runs and calls in one worker, with each item of a batch that runs; more get 503."""
    limits_store: str = ""
    """Store of the request counts: `memory:` (in each worker separately) or a Redis URL as for `store`. Unset: the
    Redis of `store`, else memory."""
    cors_origins: str = ""
    """Web origins whose scripts may call the server, separated by commas, such as `https://app.example.com`; `*` allows
    all. Unset: only the server's own origin."""
    trusted_proxies: str = "127.0.0.1"
    """Addresses and networks of trusted proxies, separated by commas. The server believes only their X-Forwarded-For
    and X-Forwarded-Proto."""
    gc_threshold: int = Field(GC_THRESHOLD, ge=0)
    """Objects created between two rounds of the garbage collector. A higher value costs less CPU per token, but garbage
    in cycles stays longer. Python's own value is 700; 0 turns the rounds off, and such garbage is never freed."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of log records: `json`, or `console` for people. `auto`: console on a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the server's own records that is logged."""
    metrics: Literal["auto", "public", "guarded", "off"] = "auto"
    """Access to /metrics: everybody (`public`), authenticated callers (`guarded`) or nobody (`off`). `auto`: everybody
    if the server listens on loopback, else authenticated callers."""
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """Separate port for /metrics, open to everybody who can reach it. Unset: the server's own port."""
    otel: bool = False
    """Send OpenTelemetry traces (extra `otel`) to the address in the OTEL_EXPORTER_OTLP_* variables."""
