"""Tests that a hostile link can do nothing in a reader's browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamserve import Chain
from tests.browser.pages import Server, Visit, registered, registry_of
from tests.fakes import Topic, greeting
from tests.frames import config_hash

ATTACKS = [
    "</script><script>document.title = 'owned'</script>",
    "</script><img src=x onerror=\"document.title = 'owned'\">",
    "'; document.title = 'owned'; //",
    "\u2028document.title = 'owned'",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(registry_of(registered("greeting", Chain(runnable=greeting(), input_type=Topic)))) as server:
        yield server


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_prompt_in_a_link_to_the_playground_runs_no_script(visit: Visit, server: Server, attack: str) -> None:
    page = visit.page
    link = f"{server.url}/greeting/c/{config_hash({'configurable': {'template': attack}})}/playground/"
    answer = page.goto(link, wait_until="networkidle")
    assert answer
    assert answer.status == 200
    assert attack not in answer.text()
    assert page.title() == "Playground"
    assert page.get_by_role("button", name="Start").is_visible()
    visit.assert_clean()


def test_an_injected_script_does_not_run(visit: Visit, server: Server) -> None:
    page = visit.page
    page.goto(f"{server.url}/greeting/playground/", wait_until="networkidle")
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
    }""")
    assert page.title() == "Playground"
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)


def test_another_page_cannot_show_the_playground_in_a_frame(visit: Visit, server: Server) -> None:
    visit.page.goto("about:blank")
    visit.page.set_content(f'<iframe src="{server.url}/greeting/playground/"></iframe>')
    visit.page.wait_for_timeout(0)
    visit.page.wait_for_load_state("networkidle")
    assert all("Playground" not in frame.title() for frame in visit.page.frames[1:] if frame.url.startswith("http"))


def test_the_reference_of_the_api_asks_no_other_server(visit: Visit, server: Server) -> None:
    visit.page.goto(f"{server.url}/docs#/greeting", wait_until="networkidle")
    visit.page.locator("#operations-greeting-greeting_stream_greeting_stream_post").wait_for()
    visit.assert_clean()


def test_a_request_can_be_tried_in_the_reference(visit: Visit, server: Server) -> None:
    page = visit.page
    page.goto(f"{server.url}/docs#/greeting", wait_until="networkidle")
    page.locator("#operations-greeting-greeting_invoke_greeting_invoke_post .opblock-summary-control").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("textarea.body-param__text").fill('{"input": {"topic": "cats"}}')
    with page.expect_response("**/greeting/invoke") as answered:
        page.get_by_role("button", name="Execute").click()
    assert answered.value.status == 200
    visit.assert_clean()


def test_the_reference_fits_on_a_phone(visit: Visit, server: Server) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 740})
    visit.page.goto(f"{server.url}/docs", wait_until="networkidle")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
