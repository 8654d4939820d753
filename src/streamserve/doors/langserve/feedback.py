"""LangServe's feedback endpoints, by LangSmith's client: /feedback, /token_feedback and /public_trace_link.

The client waits for LangSmith, so it works in OS threads.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import Any

from langsmith import Client
from langsmith.utils import tracing_is_enabled

from streamserve.catalog.chain import Chain
from streamserve.errors import NotFound
from streamserve.runs.runs import Runs

logger = logging.getLogger(__name__)

# The last part of a path that LangServe answers by LangSmith's client.
ENDPOINTS = ("feedback", "token_feedback", "public_trace_link")


def options_of(chain: Chain) -> dict[str, Any]:
    """Return the arguments of LangServe's `add_routes` for the feedback of a chain."""
    key = chain.token_feedback
    return {
        "enable_feedback_endpoint": chain.feedback,
        "token_feedback_config": {"key_configs": [{"key": key}]} if key else None,
        "enable_public_trace_link_endpoint": chain.public_trace_link,
    }


async def feedback_answer(
    endpoint: Callable[..., Coroutine[Any, Any, Any]], given: Mapping[str, Any], runs: Runs, principal: str
) -> Any:
    """Return what LangServe's endpoint answers.

    Args:
        given: the endpoint's arguments.

    Raises:
        HTTPException: LangSmith is off.
        NotFound: the run that the body names belongs to another principal.
    """
    for body in given.values():
        if run_id := getattr(body, "run_id", None):
            record = await runs.store.get(str(run_id))
            if record is not None and record.principal != principal:
                raise NotFound
    return await asyncio.to_thread(lambda: asyncio.run(endpoint(**given)))


async def tokens_of(chain: Chain, run_id: str) -> list[dict[str, Any]]:
    """Return the tokens with which a caller gives feedback on one run; none if LangSmith is off or away."""
    if not chain.token_feedback or not tracing_is_enabled():
        return []
    try:
        token = await asyncio.to_thread(_client().create_presigned_feedback_token, run_id, chain.token_feedback)
    except Exception:
        logger.warning("no feedback token: LangSmith does not answer", exc_info=True)
        return []
    ends = token.expires_at.isoformat() if token.expires_at else None
    return [{"key": chain.token_feedback, "token_url": token.url, "expires_at": ends}]


@cache
def _client() -> Client:
    return Client()
