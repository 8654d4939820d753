"""The fast stream of chat completions is used only while it gives what ChatOpenAI gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai.resources.chat import AsyncCompletions

from streamserve import fast_paths
from streamserve.fast_paths import FastPath, noted
from streamserve.models.openai import chat, self_check, stream
from streamserve.models.openai.chat import CompatibleChatOpenAI
from streamserve.models.openai.self_check import NAME, SAVES, is_on


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fast_paths, "_noted", {})
    is_on.cache_clear()
    yield
    is_on.cache_clear()


def _model() -> CompatibleChatOpenAI:
    return CompatibleChatOpenAI(model="gpt-4.1", api_key="-", base_url="http://127.0.0.1:9")


def _can_be_fast(model: CompatibleChatOpenAI) -> bool:
    return model._can_be_fast(model.async_client, AsyncCompletions, {})


def test_it_is_on_with_the_installed_packages() -> None:
    assert _can_be_fast(_model())
    assert FastPath(NAME, SAVES, None) in noted()


def _shouted(data: Any) -> Any:
    for choice in data.get("choices", []):
        choice["delta"]["content"] = str(choice["delta"].get("content") or "").upper()
    return data


def test_a_stream_that_differs_is_off_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "chunk_of", _shouted)
    model = _model()
    assert "fast path off: openai stream" in caplog.text
    assert "CATS" in caplog.text
    assert not _can_be_fast(model)


def test_a_stream_that_raises_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "ChatOpenAI", lambda **_: 1 / 0)
    assert not is_on()
    assert [path.difference for path in noted() if path.name == NAME] == ["ZeroDivisionError('division by zero')"]


def test_a_model_without_it_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "is_on", lambda: pytest.fail("it was checked"))
    CompatibleChatOpenAI(model="gpt-4.1", api_key="-", fast_stream=False)
