"""Errors for the failures of a model's provider."""

import math
from http import HTTPStatus
from typing import Any

from langchain_core import exceptions
from langchain_core.exceptions import ModelConnectionError

from streamserve.errors import tree
from streamserve.errors.texts import text_of
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

# Upper bound for a provider's Retry-After, in seconds.
MAX_RETRY_AFTER = 3600.0

# By name, because an import of the SDKs would cost every server without them. These SDKs share their class names.
PACKAGES = {"openai", "langchain_openai", "anthropic", "langchain_anthropic", "groq"}

# The providers' own codes take precedence over the classes, which only know the status.
CODES: dict[str, type[ServeError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    # A 429 that does not pass with time.
    "insufficient_quota": UpstreamRejected,
}

# For errors without a status of their own: inside a stream, or in an answer with status 200.
UNNUMBERED: dict[str, type[ServeError]] = {
    "rate_limit_exceeded": UpstreamRateLimited,
    "rate_limit_error": UpstreamRateLimited,
    "invalid_api_key": UpstreamAuthentication,
    "authentication_error": UpstreamAuthentication,
    "permission_error": UpstreamAuthentication,
    "exceed_context_size_error": ContextLengthExceeded,
    "model_not_found": UpstreamRejected,
    "not_found_error": UpstreamRejected,
    "invalid_request_error": UpstreamRejected,
}

# Statuses that no class of the SDKs stands for; any other 4xx is a refusal.
STATUSES: dict[int, type[ServeError]] = {
    401: UpstreamAuthentication,
    403: UpstreamAuthentication,
    408: UpstreamTimeout,
    409: UpstreamFailed,
    425: UpstreamFailed,
    429: UpstreamRateLimited,
}


class UpstreamTruncated(ModelConnectionError, ConnectionError):
    """A stream that stopped before the model had finished, so its text is not a complete answer."""


# The first match counts; the providers' classes inherit from these.
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

# Names of the SDKs' classes; the nearest known base class counts.
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

# Anthropic has no code for a prompt beyond the context, only this text.
TOO_LONG = "prompt is too long"


def classify(error: BaseException) -> ServeError | None:
    """Return the error to show for a failure of a model's provider, or None for any other exception."""
    shown = _kind(error)
    return shown(retry_after=_retry_after(error)) if shown else None


def _kind(error: BaseException) -> type[ServeError] | None:
    names = names_of(error, PACKAGES)
    code = getattr(error, "code", None) if names else None
    if isinstance(code, str) and code in CODES:
        return CODES[code]
    for kind, shown in KINDS.items():
        if isinstance(error, kind):
            return shown
    if "BadRequestError" in names and TOO_LONG in text_of(error):
        return ContextLengthExceeded
    named = next((NAMES[name] for name in names if name in NAMES), None)
    return _of_answer(error, code) if named is UpstreamFailed else named


def _of_answer(error: Any, code: object) -> type[ServeError]:
    """Return the kind of an error whose class does not tell it."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < HTTPStatus.BAD_REQUEST:
        for word in (code, getattr(error, "type", None)):
            if isinstance(word, str) and word in UNNUMBERED:
                return UNNUMBERED[word]
        status = int(code) if isinstance(code, str) and code.isdecimal() else 0
    refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return STATUSES.get(status, UpstreamRejected if refused else UpstreamFailed)


def names_of(error: BaseException, packages: set[str]) -> list[str]:
    """Return the names of an error's classes that some packages define, the nearest first."""
    return [base.__name__ for base in type(error).__mro__ if base.__module__.partition(".")[0] in packages]


def _retry_after(error: BaseException) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if hasattr(headers, "get") else None
    try:
        seconds = float(value) if value is not None else math.nan
    except ValueError:  # a date: clocks differ, and callers have a back-off of their own
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
