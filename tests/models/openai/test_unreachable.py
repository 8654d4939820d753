"""Model servers that cannot be reached or break the connection: one error, whatever the HTTP library."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from langchain_core.language_models import BaseChatModel
from openai import APIConnectionError, APITimeoutError

from deploy.services import free_port
from streamserve.errors import UpstreamTimeout, UpstreamUnreachable
from streamserve.errors.failures import classify
from streamserve.models import chat_model
from tests.runs.support import app_of, client_of
from tests.upstream.faulty import resetting_server
from tests.upstream.scripted import Reply, scripted_server

pytestmark = pytest.mark.usefixtures("each_transport")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
DAY = dt.timedelta(days=1)
Place = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STREAMSERVE_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def model_at(base_url: str, monkeypatch: pytest.MonkeyPatch, max_retries: int = 0) -> BaseChatModel:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    return chat_model(max_retries=max_retries)


async def ask(model: BaseChatModel, how: str) -> None:
    """Ask a model for an answer and throw the answer away."""
    if how == "invoke":
        await model.ainvoke("hi")
    elif how == "sync":
        list(model.stream("hi"))
    else:
        _ = [chunk async for chunk in model.astream("hi")]


@contextmanager
def refused(_: Path) -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def unresolved(_: Path) -> Iterator[str]:
    yield "http://model.invalid"


@contextmanager
def without_tls(_: Path) -> Iterator[str]:
    with scripted_server(Reply()) as server:
        yield server.base_url.replace("http:", "https:")


@contextmanager
def unknown_certificate(folder: Path) -> Iterator[str]:
    with resetting_server(tls=self_signed(folder)) as address:
        yield f"https://{address}"


def resets(said: bytes) -> Place:
    @contextmanager
    def place(_: Path) -> Iterator[str]:
        with resetting_server(said) as address:
            yield f"http://{address}"

    return place


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's context with a certificate that no client trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
    signed = made.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


PLACES: dict[str, Place] = {
    "refused": refused,
    "unresolved": unresolved,
    "no TLS": without_tls,
    "unknown certificate": unknown_certificate,
    "reset before the answer": resets(b""),
    "reset in the headers": resets(HEAD),
    "reset in a chunked body": resets(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndata:"),
    "no HTTP": resets(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
}


@pytest.mark.parametrize("how", ["sync", "async", "invoke"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
async def test_a_broken_connection_is_unreachable(
    place: Place, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place(tmp_path) as base_url, pytest.raises(APIConnectionError) as caught:
        await ask(model_at(base_url, monkeypatch), how)
    shown = classify(caught.value)
    assert type(shown) is UpstreamUnreachable, (caught.value, caught.value.__cause__)


async def test_a_silent_server_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSERVE_MODEL_TIMEOUT", "0.2")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(APITimeoutError) as caught:
        await model_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch).ainvoke("hi")
    assert type(classify(caught.value)) is UpstreamTimeout


async def test_a_broken_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    with resetting_server(seen=seen) as address, pytest.raises(APIConnectionError):
        await model_at(f"http://{address}", monkeypatch, max_retries=1).ainvoke("hi")
    assert len(seen) == 2


def test_a_caller_is_told_that_the_model_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of({"chain": model_at(f"http://127.0.0.1:{free_port()}", monkeypatch)})
    with client_of(app) as client:
        answer = client.post("/chain/invoke", json={"input": "hello"})
        stream = client.post("/chain/stream", json={"input": "hello"}).text
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")
    assert '"code":"upstream_unreachable"' in stream
