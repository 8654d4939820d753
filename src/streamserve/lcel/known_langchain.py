"""The pieces of LangChain's streaming that are rewritten here: each is on only where the installed one is known."""

import hashlib
import inspect
import linecache
import logging
from functools import cache
from importlib.metadata import version
from types import FunctionType
from typing import Any

from streamserve.private_names.langchain_core import WATCHED, watched

logger = logging.getLogger(__name__)

PACKAGE = "langchain-core"
# The digests of each piece with which its rewrite has been compared.
KNOWN: dict[str, frozenset[str]] = {
    "sequence": frozenset({"bc079528e088e7d14a7816b074c88e5d8783418db0a46fb303a0a0561e8557e5"}),  # 1.7.2
    "binding": frozenset({"5474adc5c319ecae9f32799f9be43bb19cdc28477f455f2d13be393724f96267"}),
    "parser": frozenset({"a44ee8bf3ac4bb493102368a9a29d8d42abc225de3660bc45e766b2fe7ab2ae8"}),
    "prompt": frozenset({"47098d1eb2801a4b2946be93bb64a7b77e49200e5818c48e041bf5b7755c3b2e"}),
    "model": frozenset({"0deed7558215a7304a4f7402b5fc827a53676e7445596ab85f2e1f5daf400742"}),
}


def digest(piece: str) -> str:
    """Return the digest of the source texts that a piece rewrites or relies on.

    A wrapped or replaced function counts as what it is now, a missing one as an empty text.
    """
    return hashlib.sha256("".join(map(_source, watched(piece))).encode()).hexdigest()


@cache
def pieces() -> frozenset[str]:
    """Return the pieces that are on; the log names the others once."""
    known = frozenset(piece for piece in WATCHED if digest(piece) in KNOWN[piece])
    if unknown := sorted(WATCHED.keys() - known):
        names = ", ".join(unknown)
        logger.info("unknown %s %s: it streams by itself, at its cost per token: %s", PACKAGE, version(PACKAGE), names)
    return known


def _source(method: Any) -> str:
    # Read by the code, so that `functools.wraps` does not show the method inside; a proxy is not a function.
    if not isinstance(method, FunctionType):
        return ""
    # As `inspect.getsource`, which takes ten times as long to find the file.
    code = method.__code__
    return "".join(inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))
