"""Failures of a model's provider, as the errors to show for them."""

from __future__ import annotations

import math
from typing import Any

from langchain_core import exceptions
from langchain_core.exceptions import ModelConnectionError

from streamserve.errors import tree
from streamserve.errors.tree import (
    ContentFiltered,
    ContextLengthExceeded,
    ServeError,
    UpstreamAuthentication,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)

# A provider that asks for a longer pause is believed no further, in seconds.
MAX_RETRY_AFTER = 3600.0

# By name: importing the SDKs here would cost every server that does not use them. These share their classes' names.
PACKAGES = {"openai", "langchain_openai", "anthropic", "langchain_anthropic", "groq"}

# What the providers' own codes say goes before the classes, which know the status only.
CODES: dict[str, type[ServeError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    # A 429 that no pause mends.
    "insufficient_quota": UpstreamRejected,
}


class UpstreamTruncated(ModelConnectionError, ConnectionError):
    """The model server's stream stopped before the model had finished: the text so far is no answer."""


# The first that fits; the providers' classes inherit from these.
KINDS: dict[type[Exception], type[ServeError]] = {
    UpstreamTruncated: tree.UpstreamTruncated,
    exceptions.ContextOverflowError: ContextLengthExceeded,
    exceptions.ModelRateLimitError: UpstreamRateLimited,
    exceptions.ModelAuthenticationError: UpstreamAuthentication,
    exceptions.ModelPermissionDeniedError: UpstreamAuthentication,
    exceptions.ModelInvalidRequestError: UpstreamRejected,
    exceptions.ModelNotFoundError: UpstreamRejected,
    exceptions.ModelTimeoutError: UpstreamTimeout,
    exceptions.ModelConnectionError: UpstreamUnreachable,
    exceptions.ModelError: UpstreamFailed,
}

# Names of the SDKs' classes; the nearest base that is known counts.
NAMES: dict[str, type[ServeError]] = {
    "RateLimitError": UpstreamRateLimited,
    "AuthenticationError": UpstreamAuthentication,
    "PermissionDeniedError": UpstreamAuthentication,
    "ContentFilterFinishReasonError": ContentFiltered,
    "BadRequestError": UpstreamRejected,
    "NotFoundError": UpstreamRejected,
    "UnprocessableEntityError": UpstreamRejected,
    "APITimeoutError": UpstreamTimeout,
    "StreamChunkTimeoutError": UpstreamTimeout,
    "APIConnectionError": UpstreamUnreachable,
    "APIError": UpstreamFailed,
    "OpenAIError": UpstreamFailed,
    "AnthropicError": UpstreamFailed,
    "GroqError": UpstreamFailed,
}

# Anthropic has no code for it.
TOO_LONG = "prompt is too long"


def classify(error: BaseException) -> ServeError | None:
    """The error to show for a failure of a model's provider; None if it is none.

    Args:
        error: what a chain raised.
    """
    shown = _kind(error)
    return shown(retry_after=_retry_after(error)) if shown else None


def _kind(error: BaseException) -> type[ServeError] | None:
    names = [base.__name__ for base in type(error).__mro__ if base.__module__.partition(".")[0] in PACKAGES]
    code = getattr(error, "code", None)
    if names and isinstance(code, str) and code in CODES:
        return CODES[code]
    for kind, shown in KINDS.items():
        if isinstance(error, kind):
            return shown
    if "BadRequestError" in names and TOO_LONG in str(error):
        return ContextLengthExceeded
    return next((NAMES[name] for name in names if name in NAMES), None)


def _retry_after(error: BaseException) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    said = headers.get("retry-after") if hasattr(headers, "get") else None
    try:
        seconds = float(said) if said is not None else math.nan
    except ValueError:  # a date: clocks differ, and the caller's own back-off does as well
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
