"""langchain-core: `_api.suppress_langchain_beta_warning`. Without it, events of version 3 warn that they are a beta."""

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import cast


def without_beta_warning() -> AbstractContextManager[None]:
    """Return a context in which LangChain does not warn that an API is a beta."""
    try:
        suppress = import_module("langchain_core._api").suppress_langchain_beta_warning
    except (ImportError, AttributeError):
        return nullcontext()
    return cast("AbstractContextManager[None]", suppress())
