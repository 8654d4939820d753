"""The command `streamserve new`: the written chain works without changes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from streamserve.app import create_app
from streamserve.cli.scaffold import write_chain
from tests.conftest import Team
from tests.frames import events
from tests.servers import serving


@pytest.mark.parametrize(
    ("graph", "given"), [(False, {"text": "Hi"}), (True, {"messages": [{"type": "human", "content": "Hi"}]})]
)
def test_a_new_chain_serves_and_streams_at_once(team: Team, graph: bool, given: object) -> None:
    write_chain("my-helper", team.chains, graph=graph)
    with serving(create_app(team.discover())) as url, httpx.Client(base_url=url) as client:
        answer = client.post("/my-helper/stream", json={"input": given})
        playground = client.get("/my-helper/playground/")
    chunks = [data for kind, data in events(answer) if kind == "data"]
    assert len(chunks) > 3, "one chunk for each token"
    assert events(answer)[-1][0] == "end"
    assert playground.status_code == 200


@pytest.mark.parametrize("graph", [False, True])
def test_a_new_chain_has_a_description_and_an_example_that_fits(team: Team, graph: bool) -> None:
    write_chain("my_helper", team.chains, graph=graph)
    entry = team.discover().require_whole().chains["my-helper"]
    assert entry.description == "My helper."
    assert entry.chain.examples


def test_the_name_becomes_a_module_in_a_folder_that_is_made(tmp_path: Path) -> None:
    assert write_chain(" Code-Helper ", tmp_path / "new") == tmp_path / "new" / "code_helper.py"


@pytest.mark.parametrize(
    "name", ["", "2fast", "a b", "a/b", "../up", "class", "naïve", "_private", "a.b", 'a"b', "x\ny"]
)
def test_a_name_that_does_not_fit_a_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid module name"):
        write_chain(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["docs", "Runs", "healthz"])
def test_a_name_of_the_servers_own_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="reserved for the server"):
        write_chain(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_module_that_is_there_is_kept(tmp_path: Path) -> None:
    path = write_chain("joke", tmp_path)
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_chain("joke", tmp_path, graph=True)
    assert path.read_text() == "mine"


def test_a_folder_of_that_name_is_kept_too(tmp_path: Path) -> None:
    (tmp_path / "joke").mkdir()
    with pytest.raises(FileExistsError):
        write_chain("joke", tmp_path)
