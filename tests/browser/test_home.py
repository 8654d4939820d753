"""Tests of the home page in a real browser: its list of chains, and a chain run on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableGenerator
from playwright.sync_api import Locator, expect

from chains import chat, joke
from streamserve import Chain
from streamserve.catalog.registry import BrokenModule
from tests.browser.pages import Gate, GatedModel, Server, Visit, instead_of_model, registered, registry_of

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # raised by langserve

BROKEN = BrokenModule("chains.poem", "/app/chains/poem.py", 12, "ImportError: no <poems> here")


@pytest.fixture
def server(gate: Gate) -> Iterator[Server]:
    model = GatedModel(gate=gate, tokens=["Why", " so", " many", " <b>bugs</b>?"])
    registry = registry_of(
        registered("chat", instead_of_model(chat.chain, chat.prompt | model)),
        registered("joke", instead_of_model(joke.chain, joke.prompt | model | StrOutputParser())),
        registered("growing", dicts(gate, {"a": "x"}, {"a": "xy"}, {"a": "xy", "b": [1]})),
        registered("adding", dicts(gate, {"sources": [1]}, {"answer": "a"}, {"answer": "ab"}, {"answer": "c"})),
        registered("plain", plain, "Says <nothing> & more.\n\nIn two paragraphs."),
        broken=(BROKEN,),
    )
    with Server(registry, gate) as server:
        yield server


plain = Chain(runnable=StrOutputParser(), playground=None, tags=["quick", "R&D"], examples=['it\'s "me"'])


def dicts(gate: Gate, *chunks: dict[str, Any]) -> Chain:
    async def say(_input: Any) -> Any:
        for chunk in chunks:
            await gate.step()
            yield chunk

    return Chain(runnable=RunnableGenerator(say), examples=[{}])


class Panel:
    """The panel of one chain on the page."""

    def __init__(self, visit: Visit, chain: str) -> None:
        self.form: Locator = visit.page.locator(f"form[data-chain={chain}]")
        self.input = self.form.get_by_label("Input")
        self.run = self.form.get_by_role("button", name="Run")
        self.stop = self.form.get_by_role("button", name="Stop")
        self.state = self.form.get_by_role("status")
        self.output = self.form.get_by_role("log")


@pytest.fixture
def at_home(visit: Visit, server: Server) -> Visit:
    visit.page.goto(f"{server.url}/")
    return visit


def test_the_page_lists_chains_with_description_tags_and_links(at_home: Visit) -> None:
    article = at_home.page.get_by_role("article", name="plain")
    expect(article).to_contain_text("Says <nothing> & more.")
    expect(article.get_by_role("listitem")).to_have_text(["quick", "R&D"])
    expect(article.get_by_role("link", name="API docs")).to_have_attribute("href", "/docs#/plain")
    expect(article.get_by_role("link", name="Playground")).to_have_count(0)
    expect(at_home.page.get_by_role("article")).to_have_count(5)
    playground = at_home.page.get_by_role("article", name="joke").get_by_role("link", name="Playground")
    expect(playground).to_have_attribute("href", "/joke/playground/")
    at_home.assert_clean()


def test_the_page_names_broken_modules_with_place_and_cause(at_home: Visit) -> None:
    expect(at_home.page.locator(".broken")).to_contain_text("/app/chains/poem.py:12")
    expect(at_home.page.locator(".broken")).to_contain_text("ImportError: no <poems> here")


def test_the_snippets_carry_the_address_of_the_page(at_home: Visit, server: Server) -> None:
    curl, python = at_home.page.get_by_role("article", name="joke").locator("code").all_inner_texts()
    assert f"curl -N {server.url}/joke/stream" in curl
    assert '{"input": {"topic": "a programmer"}}' in curl
    assert f'RemoteRunnable("{server.url}/joke")' in python
    compile(python, "snippet", "exec")


def test_copy_puts_the_snippet_on_the_clipboard(at_home: Visit) -> None:
    at_home.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    at_home.page.get_by_role("button", name="Copy Python for plain").click()
    expect(at_home.page.get_by_text("Copied")).to_be_visible()
    copied = at_home.page.evaluate("navigator.clipboard.readText()")
    assert copied == at_home.page.get_by_role("article", name="plain").locator("code").nth(1).inner_text()


@pytest.mark.parametrize("chain", ["joke", "chat"])
def test_tokens_are_visible_while_the_model_still_speaks(at_home: Visit, gate: Gate, chain: str) -> None:
    panel = Panel(at_home, chain)
    panel.run.click()
    expect(panel.state).to_have_text("Waiting for the first token")
    gate.open(2)
    expect(panel.output).to_have_text("Why so")
    expect(panel.state).to_have_text("Streaming")
    assert not gate.closed.is_set()
    gate.open(2)
    expect(panel.output).to_have_text("Why so many <b>bugs</b>?")
    expect(panel.state).to_contain_text("Done in")
    expect(panel.run).to_be_enabled()
    expect(panel.stop).to_be_disabled()
    at_home.assert_clean()


def test_stop_ends_the_run_and_marks_the_answer_as_incomplete(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "joke")
    panel.run.click()
    gate.open()
    expect(panel.output).to_have_text("Why")
    panel.stop.click()
    expect(panel.state).to_have_text("Stopped: the answer is not complete")
    assert gate.closed.wait(10)
    expect(panel.output).to_have_text("Why")
    expect(panel.run).to_be_enabled()
    at_home.assert_clean()


def test_a_failing_chain_shows_the_error_after_what_it_said(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "joke")
    panel.run.click()
    gate.open()
    expect(panel.output).to_have_text("Why")
    gate.fail(RuntimeError("a secret"))
    expect(panel.state).to_contain_text("Error: Internal")
    expect(panel.output).to_have_text("Why")
    expect(at_home.page.locator("body")).not_to_contain_text("a secret")


def test_a_stream_that_breaks_is_resumed_without_loss_or_repeat(at_home: Visit, gate: Gate) -> None:
    cut = 'retry: 10\nid: 1\nevent: metadata\ndata: {}\n\nid: 2\nevent: data\ndata: "Cut"\n\nid: 3\neve'
    at_home.page.route(
        "**/runs/*/stream", lambda route: route.fulfill(content_type="text/event-stream", body=cut), times=1
    )
    panel = Panel(at_home, "joke")
    panel.run.click()
    gate.open(4)
    expect(panel.output).to_have_text("Cut so many <b>bugs</b>?")
    expect(panel.state).to_contain_text("Done")


def test_a_reload_shows_the_run_from_its_start_and_continues(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "joke")
    panel.input.fill('{"topic": "reloads"}')
    panel.run.click()
    gate.open(2)
    expect(panel.output).to_have_text("Why so")
    at_home.page.reload()
    expect(panel.output).to_have_text("Why so")
    expect(panel.input).to_have_value('{"topic": "reloads"}')
    gate.open(2)
    expect(panel.output).to_have_text("Why so many <b>bugs</b>?")
    expect(panel.state).to_have_text("Done")
    at_home.assert_clean()


def test_a_server_that_goes_away_is_a_lost_connection(at_home: Visit, server: Server) -> None:
    server.stop()
    panel = Panel(at_home, "joke")
    panel.run.click()
    expect(panel.state).to_have_text("Connection lost: the answer is not complete")


def test_the_page_says_that_a_forgotten_run_is_gone(at_home: Visit) -> None:
    at_home.page.evaluate("""sessionStorage.setItem("run /joke", '{"id": "gone", "input": "{}"}')""")
    at_home.page.reload()
    panel = Panel(at_home, "joke")
    expect(panel.state).to_have_text("The server no longer has this run")
    expect(panel.run).to_be_enabled()


def test_input_that_does_not_fit_is_refused_with_its_place(at_home: Visit) -> None:
    panel = Panel(at_home, "joke")
    panel.input.fill('{"topic": 1}')
    panel.run.click()
    expect(panel.state).to_contain_text("422 body.input.topic")
    panel.input.fill("{")
    panel.run.click()
    expect(panel.state).to_contain_text("The input is not JSON")
    expect(panel.input).to_have_attribute("aria-invalid", "true")


def test_objects_that_grow_are_shown_once(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "growing")
    panel.run.click()
    gate.open(2)
    expect(panel.output).to_have_text('{ "a": "xy" }')
    gate.open()
    expect(panel.output).to_have_text('{ "a": "xy", "b": [ 1 ] }')


def test_objects_that_add_up_are_shown_as_their_sum(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "adding")
    panel.run.click()
    gate.open(4)
    expect(panel.output).to_have_text('{ "sources": [ 1 ], "answer": "aabc" }')


def test_the_keyboard_alone_runs_and_stops_a_chain(at_home: Visit, gate: Gate) -> None:
    panel = Panel(at_home, "joke")
    panel.input.press("Control+Enter")
    gate.open()
    expect(panel.output).to_have_text("Why")
    panel.stop.press("Enter")
    expect(panel.state).to_contain_text("Stopped")
    expect(panel.run).to_be_focused()


def test_the_page_fits_a_phone(at_home: Visit) -> None:
    at_home.page.set_viewport_size({"width": 320, "height": 640})
    assert at_home.page.evaluate("document.documentElement.scrollWidth") == 320


def test_the_page_works_behind_a_proxy_that_strips_a_path(visit: Visit, gate: Gate) -> None:
    entry = registered("joke", instead_of_model(joke.chain, joke.prompt | GatedModel(gate=gate, tokens=["Hi"])))
    with Server(registry_of(entry), gate, root_path="/ai") as server:
        visit.page.goto(f"{server.url}/ai/")
        assert f"{server.url}/ai/joke/stream" in visit.page.locator("code").first.inner_text()
        panel = Panel(visit, "joke")
        panel.run.click()
        gate.open()
        expect(panel.output).to_have_text("Hi")
        expect(panel.state).to_contain_text("Done")
        visit.assert_clean()
