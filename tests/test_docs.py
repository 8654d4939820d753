"""Every code block of the documentation runs, in the order of its page, against a real server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.report.rows import ROWS, tables
from deploy.services import free_port
from scripts.settings_page import PAGE, render, variables
from streamserve.app import create_app
from streamserve.catalog.chain import Chain
from streamserve.catalog.registry import discover
from streamserve.errors import ServeError
from streamserve.settings import Settings
from tests.docs import OUTPUT, ROOT, Block, assert_output, blocks, pages
from tests.servers import serving

ADDRESS = "http://127.0.0.1:8000"
TIME_LIMIT = 60  # seconds for one block
STARTS_WITHIN = 60  # seconds: a server imports two frameworks, on a busy machine too
APPLICATION = ("chains", "docs", "server.py", "langgraph.json", "README.md")
# A slow model, so that a page's next command still finds the run live.
ENVIRONMENT = {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0.005"}
MAKE = re.compile(
    r"^(?P<settings>(?:[A-Z_]+=\S+ )*)make (?P<verbs>[a-z]+(?: [a-z]+)*)(?P<given>(?: [A-Z]+=(?:'[^']*'|[^'\s]+))*)$"
)
PIP = re.compile(r"^(?:\S+/)?pip install -e '\.(?:\[(?P<extras>[a-z,-]+)\])?'?$")
SERVE = re.compile(r"^(?P<settings>(?:[A-Z_]+=\S+ )*)(?:\S+/)?streamserve serve(?P<options>.*)$")


class Reader:
    """A person who types a page's commands in a copy of the application.

    Args:
        folder: folder of the copy.
        url: address of a server with the chains of the repository.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.server: subprocess.Popen[bytes] | None = None
        for name in APPLICATION:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)

    def run(self, block: Block) -> str:
        """Run a block; return its output."""
        code = block.code.replace(ADDRESS, self.url)
        return {"python": self._python, "bash": self._bash, "js": self._js, "ini": self._ini}[block.language](
            block, code
        )

    def _python(self, block: Block, code: str) -> str:
        # Padded, so that a traceback names the line of the page.
        compiled = compile("\n" * (block.line - 1) + code, str(block.page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compiled, {"__name__": "__main__"})
        return printed.getvalue()

    def _bash(self, block: Block, code: str) -> str:
        printed, pending = "", ""
        for line in code.splitlines(keepends=True):
            if self._is_shell(line.partition(" #")[0].strip()):
                pending += line
            else:
                printed += self._shell(block, pending)
                pending = ""
                self._do(block, line.partition(" #")[0].strip())
        return printed + self._shell(block, pending)

    def _shell(self, block: Block, code: str) -> str:
        if not code.strip():
            return ""
        # Variables live on in the next block of the page, as in a reader's shell.
        state = self.folder / ".variables"
        script = f"touch {state}; . {state}; set -a\n{code}\nset +a; export -p >{state}\n"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=os.environ | ENVIRONMENT | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        assert done.returncode == 0, f"{block}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _is_shell(self, command: str) -> bool:
        return not any(known.match(command) for known in (MAKE, PIP, SERVE))

    def _do(self, block: Block, command: str) -> None:
        if make := MAKE.match(command):
            assert_verbs(block, make["verbs"].split())
            assert_paths(block, make["given"])
            assert_known(block, *settings_of(make["settings"]))
        elif pip := PIP.match(command):
            assert_installable(block, "streamserve", pip["extras"])
        elif serve := SERVE.match(command):
            settings = settings_of(serve["settings"])
            assert_known(block, *settings)
            self._serve(serve["options"].split(), settings)

    def _serve(self, options: list[str], settings: dict[str, str]) -> None:
        self.close()
        port = free_port()
        command = [sys.executable, "-m", "streamserve.cli", "serve", *options, "--port", str(port)]
        environment = os.environ | ENVIRONMENT | settings
        self.server = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.url = f"http://127.0.0.1:{port}"
        wait_until_listening(self.server)

    def _js(self, block: Block, code: str) -> str:
        from playwright.sync_api import sync_playwright

        from tests.browser.conftest import SWITCHES

        program = shutil.which("chromium")
        if program is None:
            leave_out = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            leave_out(f"{block}: chromium is not installed")
        lines: list[str] = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
            page = browser.new_page()
            page.on("console", lambda message: lines.append(message.text))
            page.goto(self.url)
            page.set_default_timeout(TIME_LIMIT * 1000)
            page.evaluate(f"async () => {{ {code} }}")
            browser.close()
        return "\n".join(lines)

    def _ini(self, block: Block, code: str) -> str:
        found = dict(line.split("=", 1) for line in code.splitlines() if line and not line.startswith("#"))
        assert_known(block, *found)
        prefix = "STREAMSERVE_"
        own = {name.removeprefix(prefix).lower(): value for name, value in found.items() if name.startswith(prefix)}
        Settings.model_validate({name: value for name, value in own.items() if name in Settings.model_fields})
        return ""

    def close(self) -> None:
        """End the server that the page started."""
        if self.server is not None:
            self.server.terminate()
            self.server.communicate(timeout=TIME_LIMIT)
            self.server = None


def settings_of(words: str) -> dict[str, str]:
    """Return the variables in front of a command."""
    return dict(word.split("=", 1) for word in words.split())


def wait_until_listening(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout
    log = []
    for line in server.stdout:
        log.append(line.decode())
        if "Uvicorn running on" in log[-1]:
            return
    raise AssertionError("the server ended:\n" + "".join(log))


def assert_verbs(block: Block, verbs: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for verb in verbs:
        assert re.search(rf"^{verb}:.*## ", makefile, re.MULTILINE), f"{block}: the Makefile has no {verb}"


def assert_paths(block: Block, given: str) -> None:
    for path in re.findall(r"[\w./-]+/[\w./-]+", given):
        assert (ROOT / path).exists(), f"{block}: {path}"


def assert_installable(block: Block, name: str, extras: str | None) -> None:
    projects = [tomllib.loads(path.read_text("utf-8"))["project"] for path in ROOT.glob("**/pyproject.toml")]
    (project,) = [project for project in projects if project["name"] == name] or [None]
    assert project is not None, f"{block}: there is no distribution {name}"
    unknown = set(extras.split(",") if extras else ()) - set(project.get("optional-dependencies", {}))
    assert not unknown, f"{block}: {name} has no extra {unknown}"


def assert_known(block: Block, *names: str) -> None:
    unknown = set(names) - variables()
    assert not unknown, f"{block}: no such setting: {unknown}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        app = create_app(discover("chains"))
    with serving(app) as address:
        yield address


@pytest.fixture
def reader(tmp_path: Path, url: str) -> Iterator[Reader]:
    reader = Reader(tmp_path, url)
    yield reader
    reader.close()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_does_what_it_says(page: Path, reader: Reader) -> None:
    found = blocks(page)
    assert found or page.name == "figures.md", f"{page} has no examples"  # that one is figures only
    printed: str | None = None
    for block in found:
        if block.not_run:
            printed = None
        elif block.language in OUTPUT:
            assert printed is not None, f"{block}: output of no block that was run"
            assert_output(block, printed)
            printed = None
        else:
            printed = reader.run(block)


def test_a_block_is_left_out_for_a_reason_only() -> None:
    left_out = [block for page in pages() for block in blocks(page) if block.not_run]
    assert len(left_out) <= 2, [str(block) for block in left_out]


def test_the_settings_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == render(), "run `python -m scripts.settings_page`"


@pytest.mark.parametrize("name", sorted(variables()))
def test_every_setting_is_listed(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text("utf-8")


def test_every_field_of_the_chain_record_is_explained() -> None:
    text = (ROOT / "docs" / "chains.md").read_text("utf-8")
    assert {f.name for f in fields(Chain)} - set(re.findall(r"`(\w+)`", text[text.index("| field |") :])) == set()


def test_the_figures_of_the_text_are_the_measured_ones() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text("utf-8"))
    figures = results["first_token"]["figures"]
    text = (ROOT / "docs" / "streaming.md").read_text("utf-8")
    for name in ("first token", "whole answer"):
        assert re.search(rf"\| the {name}[^|]*\| {figures[name]['median']:.0f} ms \|", text), name


def test_the_figures_of_the_readme_are_those_of_the_newest_table() -> None:
    newest = list(tables().values())[-1]
    figure = newest["figures"][ROWS[0].ratio]["median"]
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"On langchain-core {newest['versions']['langchain-core']}" in text
    assert f"takes {figure:.3g} times the CPU" in text


def test_every_error_code_is_explained() -> None:
    text = (ROOT / "docs" / "runs.md").read_text("utf-8")
    codes = {kind.code: kind for kind in ServeError.__subclasses__()}
    for code, kind in codes.items():
        assert re.search(rf"\| `{code}` \| {kind.status} \| {'yes' if kind.retryable else 'no'} \|", text), code


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in pages():
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_link_to_a_heading_leads_to_one() -> None:
    for page in pages():
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text("utf-8")):
            target = page.parent / link if link else page
            assert anchor in anchors(target), f"{page}: {link}#{anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_promise_names_a_test_that_is_there() -> None:
    for page in pages():
        for path, name in re.findall(r"`((?:sdk/python/)?tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page}: {path}"
            assert f"def {name}" in (ROOT / path).read_text("utf-8"), f"{page}: {path}::{name}"
