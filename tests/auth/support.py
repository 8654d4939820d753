"""Two applications with the same callers: one knows them by API keys, the other by JSON Web Tokens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from streamserve import Chain
from streamserve.app import create_app
from streamserve.auth.keys import KeyFile
from streamserve.settings import Settings
from tests.fakes import Topic, echo_graph, greeting, registry_of

ISSUER, AUDIENCE = "https://issuer.example", "chains"
SCOPE = "talk"
SECRET = "s" * 40
PRIVATE = rsa.generate_private_key(65537, 2048)
CHAINS = {
    "bot": Chain(runnable=echo_graph(), scopes=[SCOPE], playground="default"),
    "greeting": Chain(runnable=greeting(), input_type=Topic),
}


def app_with(**settings: Any) -> FastAPI:
    return create_app(registry_of(CHAINS), Settings(_env_file=None, secret=SECRET, metrics="guarded", **settings))


def keys_in(folder: Path) -> tuple[FastAPI, dict[str, str]]:
    """Return an application that knows API keys, and the keys by what is wrong with each."""
    file = KeyFile(folder / "keys.json")
    found = {
        "a wrong key": f"streamserve_{'0' * 12}_{'x' * 43}",
        "an expired one": file.add("ann", [SCOPE], time.time() - 1),
        "without the scope": file.add("ann"),
        "of another principal": file.add("bob", [SCOPE]),
        "the right one": file.add("ann", [SCOPE, "more"]),
    }
    return app_with(auth=f"keys:{file.path}"), found


def tokens_from(url: str) -> tuple[FastAPI, dict[str, str]]:
    """Return an application that knows an issuer's tokens, and the tokens by what is wrong with each."""
    found = {
        "a wrong key": token(key=rsa.generate_private_key(65537, 2048), scope=SCOPE),
        "an expired one": token(exp=time.time() - 3600, scope=SCOPE),
        "without the scope": token(),
        "of another principal": token(sub="bob", scope=SCOPE),
        "the right one": token(scope=f"{SCOPE} more"),
    }
    return app_with(auth="jwt:", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks_url=url), found


def token(key: Any = PRIVATE, kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
    """Return a token of ann for an hour. `claims` replace its own; None removes one."""
    whole = {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 3600, **claims}
    said = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(said, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class Issuer:
    """The public keys that an issuer serves, and the number of requests for them."""

    def __init__(self) -> None:
        self.keys = {"one": PRIVATE.public_key()}
        self.requests = 0
        self.url = ""

    def document(self) -> bytes:
        self.requests += 1
        keys = [
            json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key)) | {"kid": name, "use": "sig", "alg": "RS256"}
            for name, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()


@contextmanager
def issuing() -> Iterator[Issuer]:
    """Serve an issuer's keys on a real socket."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = issuer.document()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
        try:
            yield issuer
        finally:
            server.shutdown()
