"""Choice of the chat model: OpenAI, a compatible server, a local GGUF file, or the offline model."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamserve.models.offline import OfflineChatModel

if TYPE_CHECKING:
    from streamserve.models.gguf import EmbeddedServer

# The smallest OpenAI model that every account may use and that streams without a pause for reasoning.
DEFAULT_OPENAI_MODEL = "gpt-4.1-mini"
# llama.cpp and LM Studio serve their loaded model under any name.
DEFAULT_LOCAL_MODEL = "default"
# Local servers check no key, but the client requires one.
NO_KEY = "not-needed"
# Seconds after which a host without an answer counts as down; the client's retries come on top.
CONNECT_TIMEOUT = 10.0
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
GGUF_PREFIX = "gguf:"
OFFLINE = "offline"


class ModelSettings(BaseSettings):
    """Environment variables that choose the model; an empty one is treated as unset.

    Args:
        model: `STREAMSERVE_MODEL` or `OPENAI_MODEL`: a model's name, `gguf:PATH`, or `offline`.
        openai_api_key: `OPENAI_API_KEY`: the key, if the server asks for one.
        openai_base_url: `OPENAI_BASE_URL`: base URL of an OpenAI-compatible server, such as http://localhost:11434/v1.
        openai_proxy: `OPENAI_PROXY`: URL of a proxy for model servers, such as http://proxy.internal:3128. All
            requests then go over httpx and the proxy, those to this machine, too.
        model_timeout: `STREAMSERVE_MODEL_TIMEOUT`: maximum silence of a model server, in seconds (default 120: a
            small machine may read a long prompt for a minute before the first token).
        fast_openai: `STREAMSERVE_FAST_OPENAI`: whether to read a model server's stream without building an object for
            every part of every chunk (default true). If false, ChatOpenAI reads it; the chunks are the same.
        require_finish: `STREAMSERVE_REQUIRE_FINISH`: whether a model server's stream without a finish reason fails with
            `upstream_truncated` (default true). Set it to false only for a server that never sends one: an answer
            that breaks off may then look complete.
        openai_transport: `STREAMSERVE_OPENAI_TRANSPORT`: HTTP client for model servers: `httpx`, or `aiohttp` (extra
            `aiohttp`), which takes less CPU per token. `auto` uses aiohttp if it is installed (default auto).
        offline_pace: `STREAMSERVE_OFFLINE_PACE`: seconds per token of the offline model (default 0.03).
    """

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    model: str | None = Field(None, validation_alias=AliasChoices("STREAMSERVE_MODEL", "OPENAI_MODEL"))
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, validation_alias=AliasChoices("OPENAI_BASE_URL", "OPENAI_API_BASE"))
    openai_proxy: str | None = Field(None, validation_alias="OPENAI_PROXY")
    model_timeout: float = Field(120.0, gt=0, validation_alias="STREAMSERVE_MODEL_TIMEOUT")
    fast_openai: bool = Field(True, validation_alias="STREAMSERVE_FAST_OPENAI")
    require_finish: bool = Field(True, validation_alias="STREAMSERVE_REQUIRE_FINISH")
    openai_transport: Literal["auto", "httpx", "aiohttp"] = Field(
        "auto", validation_alias="STREAMSERVE_OPENAI_TRANSPORT"
    )
    offline_pace: float = Field(0.03, ge=0, validation_alias="STREAMSERVE_OFFLINE_PACE")


def chat_model(**kwargs: Any) -> BaseChatModel:
    """Return the chat model that the environment names, without a key check or a connection.

    Args:
        kwargs: arguments of ChatOpenAI, such as `temperature`; the offline model ignores them.

    Raises:
        FileNotFoundError: the file of `STREAMSERVE_MODEL=gguf:PATH` does not exist.
        ModuleNotFoundError: the extra `local` or `aiohttp` is required but not installed.
    """
    settings = ModelSettings()
    name = settings.model or ""
    if name.startswith(GGUF_PREFIX):
        return _embedded(Path(name.removeprefix(GGUF_PREFIX)).expanduser(), settings, kwargs)
    if name != OFFLINE and (settings.openai_api_key or settings.openai_base_url):
        return _openai(settings, kwargs)
    return OfflineChatModel(pace=settings.offline_pace)


def _openai(settings: ModelSettings, kwargs: dict[str, Any]) -> BaseChatModel:
    url = settings.openai_base_url
    if url is None:
        return _client(
            settings, {"model": settings.model or DEFAULT_OPENAI_MODEL} | _clients(settings, kwargs) | kwargs
        )
    compatible = {
        "base_url": url,
        "model": settings.model or DEFAULT_LOCAL_MODEL,
        # The client would choose OpenAI's newer API by the model's name, and other servers lack that API.
        "use_responses_api": False,
    }
    return _client(settings, compatible | _clients(settings, kwargs) | kwargs)


def _clients(settings: ModelSettings, kwargs: dict[str, Any]) -> dict[str, Any]:
    if proxy := kwargs.get("openai_proxy", settings.openai_proxy):
        return {"openai_proxy": proxy}  # ChatOpenAI makes the clients of its proxy itself and refuses others
    if urlsplit(settings.openai_base_url or "").hostname in LOOPBACK:
        return _loopback_clients() | _transport(settings, trust_env=False)
    return _transport(settings, trust_env=True)


def _transport(settings: ModelSettings, *, trust_env: bool) -> dict[str, Any]:
    chosen = settings.openai_transport
    if chosen == "httpx" or (chosen == "auto" and find_spec("aiohttp") is None):
        return {}
    from streamserve.models.openai.transport import aiohttp_client

    return {"http_async_client": aiohttp_client(trust_env=trust_env)}


def _embedded(path: Path, settings: ModelSettings, kwargs: dict[str, Any]) -> BaseChatModel:
    from streamserve.models.gguf import embedded_server

    server = embedded_server(path)
    local = {
        "base_url": server.base_url,
        "model": path.stem,
        "api_key": server.key,
        "use_responses_api": False,
        "openai_proxy": None,
        **_loopback_clients(server),
    }
    return _client(settings, local | kwargs)


def _loopback_clients(server: "EmbeddedServer | None" = None) -> dict[str, Any]:
    from openai import DEFAULT_CONNECTION_LIMITS, DefaultAsyncHttpxClient, DefaultHttpxClient

    # No proxies from the environment, because a proxy cannot reach loopback. No kept connections, because they
    # would outlive their event loop, and a new one costs nothing here.
    limits = type(DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    common: dict[str, Any] = {"trust_env": False, "limits": limits}
    hooks = {"request": [server.redirect]} if server else {}
    async_hooks = {"request": [server.aredirect]} if server else {}
    return {
        "http_client": DefaultHttpxClient(event_hooks=hooks, **common),
        "http_async_client": DefaultAsyncHttpxClient(event_hooks=async_hooks, **common),
    }


def _client(settings: ModelSettings, kwargs: dict[str, Any]) -> BaseChatModel:
    from openai import Timeout

    from streamserve.models.openai.chat import CompatibleChatOpenAI

    defaults = {
        "api_key": settings.openai_api_key or NO_KEY,
        "stream_usage": True,
        "fast_stream": settings.fast_openai,
        "require_finish": settings.require_finish,
        "timeout": Timeout(settings.model_timeout, connect=CONNECT_TIMEOUT),
        # `timeout` limits the wait for bytes, this one the wait for chunks: comments must not hide a stalled model.
        "stream_chunk_timeout": settings.model_timeout,
    }
    return CompatibleChatOpenAI(**(defaults | kwargs))
