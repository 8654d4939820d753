"""Whether the installed langchain-core is one whose streaming is known: only then is it streamed in another way."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import logging
from functools import cache
from importlib.metadata import version
from types import FunctionType
from typing import Any

from langchain_core.callbacks import manager
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models._utils import _normalize_messages
from langchain_core.language_models.chat_models import _gen_info_and_msg_metadata
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.output_parsers import BaseTransformOutputParser, StrOutputParser
from langchain_core.output_parsers.base import BaseOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableSequence, config, utils
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tracers import context

logger = logging.getLogger(__name__)

PACKAGE = "langchain-core"

# What fast_chain.py, silent_steps.py and traced_stream.py write anew, and what they rely on to stay as it is.
METHODS: tuple[Any, ...] = (
    Runnable.atransform,
    Runnable.get_name,
    Runnable._atransform_stream_with_config,
    RunnableSequence.astream,
    RunnableSequence.atransform,
    RunnableSequence._atransform,
    RunnableBindingBase.astream,
    RunnableBindingBase.atransform,
    RunnableBindingBase._merge_configs,
    BaseTransformOutputParser.atransform,
    BaseTransformOutputParser._atransform,
    BaseOutputParser.parse_result,
    StrOutputParser.parse,
    BaseChatModel.astream,
    BaseChatModel._should_stream,
    BaseChatModel._convert_input,
    _gen_info_and_msg_metadata,
    _normalize_messages,
    BasePromptTemplate.ainvoke,
    BasePromptTemplate._aformat_prompt_with_error_handling,
    BasePromptTemplate._format_prompt_with_error_handling,
    AIMessageChunk.__add__,
    add_ai_message_chunks,
    manager._configure,
    context._tracing_v2_is_enabled,
    config.patch_config,
    config.ensure_config,
    utils.coro_with_context,
)
KNOWN = frozenset({"c5ffd85c1873e68554e2e347a6876bcbf9bab9184b64e00bcdd078d8aa87cb0e"})  # 1.7.2


def digest() -> str:
    """Of the methods' source texts; a method that somebody has wrapped or replaced counts as what it is now."""
    return hashlib.sha256("".join(map(_source, METHODS)).encode()).hexdigest()


@cache
def is_known() -> bool:
    """Whether langchain-core is as it was when its streaming was written anew; if not, the log says so once."""
    known = digest() in KNOWN
    if not known:
        logger.info("unknown langchain-core %s: chains stream as it does, at its cost per token", version(PACKAGE))
    return known


def _source(method: Any) -> str:
    # By its code, so that `functools.wraps` does not show the method inside; a proxy of a function is no function.
    if not isinstance(method, FunctionType):
        return ""
    # As `inspect.getsource`, which takes ten times as long to find the file.
    code = method.__code__
    return "".join(inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))
