"""Call a chain on a StreamServe or LangServe server as if it were local."""

from importlib.metadata import version

from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.errors import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionFailed,
    ConnectionTimeout,
    InvalidOutput,
    ProtocolError,
    RequestRejected,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunLogFull,
    RunLost,
    RunTimeout,
    ServerError,
    ServerShuttingDown,
    StreamServeError,
    StreamTruncated,
    ThreadBusy,
    UpstreamError,
    UpstreamRateLimited,
)
from streamserve_sdk.remote import RemoteRunnable
from streamserve_sdk.transport.retry import RetryPolicy

__version__ = version("streamserve-sdk")

__all__ = [
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionFailed",
    "ConnectionTimeout",
    "InvalidOutput",
    "ProtocolError",
    "RemoteRunnable",
    "RequestRejected",
    "RetryPolicy",
    "RunCancelled",
    "RunExpired",
    "RunFailed",
    "RunLogFull",
    "RunLost",
    "RunTimeout",
    "Serializer",
    "ServerError",
    "ServerShuttingDown",
    "StreamServeError",
    "StreamTruncated",
    "ThreadBusy",
    "UpstreamError",
    "UpstreamRateLimited",
    "WireSerializer",
]
