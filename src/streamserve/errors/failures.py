"""Errors to show for a chain's exceptions, and one log record for each."""

import logging
from traceback import walk_tb

from langgraph.errors import GraphRecursionError, UnknownInterruptError, is_invalid_resume
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from streamserve.call import Call
from streamserve.errors import ChainAnswer, Internal, InvalidInput, ServeError, StoreUnavailable, providers
from streamserve.errors.places import entry, invalid
from streamserve.errors.texts import text_of

logger = logging.getLogger(__name__)

# Maximum characters of a chain's own text, which may quote a whole input.
MAX_TEXT = 2000


def explain(error: BaseException, call: Call) -> ServeError:
    """Return the error to show for an exception of a call's chain.

    Returns:
        InvalidInput if the caller's config caused the exception; else the result of `classify`, with the chain's own
        text if the call may show it. Internal if code of the exception's own class fails.
    """
    try:
        return _explain(error, call)
    except BaseException:  # such code may exit, too, and an end that nobody shows is an end that nobody gets
        logger.exception("the error of a run cannot be shown", extra={"run_id": call.run_id, "chain": call.chain})
        return Internal()


def _explain(error: BaseException, call: Call) -> ServeError:
    if _is_configured(call) and _is_of_template(error):
        return invalid(("body", "config", "configurable"), _first_line(error), "template_error")
    if isinstance(error, GraphRecursionError) and any("recursion_limit" in config for config in call.configs):
        place = ("body", "config", "recursion_limit")
        return invalid(place, "The graph takes more steps than this limit", "too_small")
    shown = classify(error)
    if type(shown) is Internal and call.expose_errors and (text := text_of(error)):
        return Internal(text[:MAX_TEXT])
    return shown


def record(shown: ServeError, cause: BaseException | None, run_id: str, chain: str) -> None:
    """Log the error that the caller sees, with the exception that caused it."""
    extra = {"run_id": run_id, "chain": chain, "code": shown.code, "cause": type(cause).__name__ if cause else None}
    logger.error("run failed: %s", shown.code, extra=extra, exc_info=cause)


def _is_configured(call: Call) -> bool:
    return any(isinstance(config.get("configurable"), dict) and config["configurable"] for config in call.configs)


def _is_of_template(error: BaseException) -> bool:
    # Two cases: `configurable_fields` rejects the caller's template, or the input lacks a variable of the template.
    # A template that no caller can configure fails because of the input, whatever else the config has.
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    raised = [name for name in names if name.startswith("langchain_core.")]
    inner = raised[-1] if raised else ""
    of_prompt = inner.startswith(("langchain_core.prompts.", "langchain_core.utils.formatting"))
    return "langchain_core.runnables.configurable" in names and (of_prompt or isinstance(error, ValidationError))


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(str(at["msg"]) for at in error.errors())[:300]
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.splitlines()[0][:300] if text else type(error).__name__


def classify(error: BaseException) -> ServeError:
    """Return the error to show for a chain's exception.

    Returns:
        The exception itself if it is a ServeError; the chain's own status for an HTTPException; an upstream error for
        failures of the model's provider; StoreUnavailable if the database of a checkpoint saver failed; else Internal.
    """
    if isinstance(error, ServeError):
        return error
    if isinstance(error, HTTPException):
        return ChainAnswer(error.status_code, error.detail, error.headers)
    if _is_database_away(error):
        return StoreUnavailable("The store of the conversations cannot be reached")
    if type(error).__name__ == "EmptyInputError":  # of LangGraph: the input is `null` and the thread has no checkpoint
        return invalid(("body",), "Cannot resume: the thread has no checkpoint", "missing")
    if refused := _refused_resume(error):
        return refused
    return providers.classify(error) or Internal()


def _refused_resume(error: BaseException) -> InvalidInput | None:
    """Return the error for a `Command(resume=...)` that does not answer the thread's interrupts."""
    place = ("body", "input", "resume")
    if isinstance(error, ValidationError) and is_invalid_resume(error):
        found = error.errors(include_url=False)
        return InvalidInput([entry((*place, *at["loc"]), at["msg"], at["type"]) for at in found])
    # Only this error is made a text: that of a validation error with thousands of places takes a second.
    ambiguous = type(error) is RuntimeError and str(error).startswith(_AMBIGUOUS)
    if isinstance(error, UnknownInterruptError) or ambiguous:
        return invalid(place, "Input should be an object that maps the interrupts' ids to answers", "ambiguous_resume")
    return None


# Outside its strict mode, LangGraph raises a plain RuntimeError.
_AMBIGUOUS = "When there are multiple pending interrupts, you must specify the interrupt id"


def _is_database_away(error: BaseException) -> bool:
    # A chain may use the same drivers for its own data, so a saver must be in the traceback.
    return not _AWAY.isdisjoint(providers.names_of(error, _DRIVERS)) and any(
        frame.f_globals.get("__name__", "").startswith(_SAVERS) for frame, _ in walk_tb(error.__traceback__)
    )


# LangGraph's savers, their drivers (psycopg is an extra), and the drivers' errors for a database that is unreachable,
# full, locked or read-only. An InterfaceError means that the connection was closed.
_SAVERS = "langgraph.checkpoint."
_DRIVERS = {"psycopg", "psycopg_pool", "sqlite3"}
_AWAY = {"OperationalError", "InterfaceError", "ReadOnlySqlTransaction"}
