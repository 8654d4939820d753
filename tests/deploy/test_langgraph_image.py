"""Tests of `make dockerfile`, the Dockerfile of LangGraph's server, without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.limits import LIMIT
from tests.stores.servers import find

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = json.loads((ROOT / "langgraph.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the text that the verb writes."""
    path = tmp_path_factory.mktemp("image") / "new" / "Dockerfile"
    # The stamps of installed packages count as new: without those packages this test would not run.
    given = ["-o", ".venv/.dev", "-o", ".venv/.serve"]
    command = [find("make"), *given, "dockerfile", f"OUT={path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return path.read_text("utf-8")


def variable(dockerfile: str, name: str) -> Any:
    (text,) = re.findall(rf"^ENV {name}='(.*)'$", dockerfile, re.MULTILINE)
    return json.loads(text)


def test_the_image_has_our_package_graphs_and_routes(dockerfile: str) -> None:
    assert variable(dockerfile, "LANGSERVE_GRAPHS") == CONFIG["graphs"]
    assert variable(dockerfile, "LANGGRAPH_HTTP") == CONFIG["http"]
    (folder,) = re.findall(r"^ADD \. (/deps/\S+)$", dockerfile, re.MULTILINE)
    assert f"WORKDIR {folder}" in dockerfile
    assert re.search(r"for dep in /deps/\*; do.*uv pip install .* -e \.", dockerfile)
    # The folder that is added is our distribution, with the modules that the variables name.
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["name"] == "streamserve"
    ignored = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text("utf-8").split()}
    for target in [*CONFIG["graphs"].values(), CONFIG["http"]["app"]]:
        path = Path(target.partition(":")[0].replace(".", "/")).with_suffix(".py")
        assert (ROOT / path).exists(), path
        assert not {*path.parts} & ignored, path


def test_the_image_has_the_declared_python(dockerfile: str) -> None:
    assert re.match(rf"FROM langchain/langgraph-api:{re.escape(CONFIG['python_version'])}\s", dockerfile)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    least = tuple(map(int, required.removeprefix(">=").split(".")))
    assert tuple(map(int, CONFIG["python_version"].split("."))) >= least


def test_the_image_has_no_secrets(dockerfile: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert CONFIG["env"] == ".env"
    assert ".env" in ignored
    assert ".env" not in dockerfile
