"""The choice of the chat model by the environment."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from streamserve.models import chat_model
from streamserve.models.offline import OfflineChatModel
from tests.upstream.scripted import DONE, Reply, chat, scripted_server


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_API_BASE",
        "OPENAI_MODEL",
        "OPENAI_PROXY",
        "STREAMSERVE_MODEL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def openai_model(**kwargs: Any) -> ChatOpenAI:
    model = chat_model(**kwargs)
    assert isinstance(model, ChatOpenAI)
    return model


def test_without_any_setting_the_offline_model_serves() -> None:
    assert isinstance(chat_model(), OfflineChatModel)


def test_an_empty_key_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert isinstance(chat_model(), OfflineChatModel)


def test_the_offline_model_can_be_chosen_despite_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("STREAMSERVE_MODEL", "offline")
    assert isinstance(chat_model(), OfflineChatModel)


def test_the_offline_pace_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSERVE_OFFLINE_PACE", "0.5")
    model = chat_model(temperature=0)
    assert isinstance(model, OfflineChatModel)
    assert model.pace == 0.5


def test_a_key_means_openai_with_usage_and_its_own_choice_of_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = openai_model()
    assert model.openai_api_base is None
    assert model.stream_usage is True
    assert model.use_responses_api is None


def test_a_base_url_needs_no_key_and_stays_with_chat_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_MODEL", "some-codex")
    model = openai_model()
    assert model.openai_api_base == "http://127.0.0.1:9/v1"
    assert (model.model_name, model.use_responses_api, model.stream_usage) == ("some-codex", False, True)


def test_streamserve_model_overrides_openai_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_MODEL", "one")
    monkeypatch.setenv("STREAMSERVE_MODEL", "other")
    assert openai_model().model_name == "other"


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = openai_model(model="mine", temperature=0.25, stream_usage=False)
    assert (model.model_name, model.temperature, model.stream_usage) == ("mine", 0.25, False)


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("STREAMSERVE_MODEL_TIMEOUT", "7")
    model = openai_model()
    assert model.request_timeout.read == 7  # type: ignore[union-attr]
    assert model.request_timeout.connect == 10  # type: ignore[union-attr]
    assert model.stream_chunk_timeout == 7


@pytest.mark.parametrize(("value", "fast"), [(None, True), ("false", False)])
def test_a_setting_turns_the_cheaper_stream_off(monkeypatch: pytest.MonkeyPatch, value: str | None, fast: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    if value:
        monkeypatch.setenv("STREAMSERVE_FAST_OPENAI", value)
    assert openai_model().fast_stream is fast  # type: ignore[attr-defined]


def test_a_missing_gguf_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMSERVE_MODEL", f"gguf:{tmp_path / 'none.gguf'}")
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        chat_model()


def test_a_missing_llama_cpp_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.setenv("STREAMSERVE_MODEL", f"gguf:{tmp_path / 'model.gguf'}")
    monkeypatch.setattr("streamserve.models.gguf.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"streamserve\[local\]"):
        chat_model()


def test_the_factory_alone_loads_no_server_and_no_provider() -> None:
    unwanted = {"langserve", "fastapi", "openai", "langchain_openai", "xllamacpp"}
    code = f"import sys, streamserve.models as m; m.chat_model(); print({unwanted} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_requests_go_over_aiohttp_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    installed: list[object] = [None, object()]
    monkeypatch.setattr("streamserve.models.choice.find_spec", lambda name: installed[0])
    carried = [type(chat_model().http_async_client).__name__]  # type: ignore[attr-defined]
    installed.reverse()
    carried.append(type(chat_model().http_async_client).__name__)  # type: ignore[attr-defined]
    assert "LoopBoundClient" not in carried[0]
    assert carried[1] == "LoopBoundClient"


@pytest.mark.usefixtures("each_transport")
@pytest.mark.parametrize("host", ["model.invalid", "127.0.0.1:9"])
async def test_requests_go_over_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    body = chat({"role": "assistant", "content": "hi"}) + chat(finish="stop") + DONE
    with scripted_server(Reply([body])) as proxy:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}/v1")
        monkeypatch.setenv("OPENAI_PROXY", proxy.base_url.removesuffix("/v1"))
        model = openai_model(max_retries=0)
        assert "".join(chunk.text for chunk in model.stream("hi")) == "hi"
        assert "".join([chunk.text async for chunk in model.astream("hi")]) == "hi"
        await model.root_async_client.close()
    assert [path for path, _, _ in proxy.seen] == [f"http://{host}/v1/chat/completions"] * 2


def test_openai_itself_is_reached_over_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_PROXY", "http://127.0.0.1:9")
    assert openai_model().openai_proxy == "http://127.0.0.1:9"
    assert openai_model(openai_proxy="http://127.0.0.1:10").openai_proxy == "http://127.0.0.1:10"


def test_a_gguf_file_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    (tmp_path / "model.gguf").touch()
    monkeypatch.setenv("STREAMSERVE_MODEL", f"gguf:{tmp_path / 'model.gguf'}")
    monkeypatch.setenv("OPENAI_PROXY", "http://127.0.0.1:9")
    assert openai_model().openai_proxy is None
