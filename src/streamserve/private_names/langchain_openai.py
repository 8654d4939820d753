"""langchain-openai: what ChatOpenAI would send. Without it, chat completions stream at ChatOpenAI's cost."""

from typing import Any

from langchain_openai import ChatOpenAI


def is_plain_completion(model: ChatOpenAI, arguments: dict[str, Any]) -> bool:
    """Return whether a call is known to stream chat completions: no Responses API, no structured output."""
    defaults, uses_responses = getattr(model, "_default_params", None), getattr(model, "_use_responses_api", None)
    if not isinstance(defaults, dict) or uses_responses is None:
        return False
    return "response_format" not in defaults | arguments and not uses_responses({**arguments, **model.model_kwargs})
