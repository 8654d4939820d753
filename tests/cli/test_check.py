"""The command `streamserve check`: chains, langgraph.json and OpenAPI agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamserve.cli.check import check
from streamserve.cli.scaffold import write_chain
from streamserve.settings import Settings
from tests.conftest import Team


def problems(team: Team) -> list[str]:
    return check(team.root, Settings())


def declare(team: Team, **declared: Any) -> None:
    (team.root / "langgraph.json").write_text(json.dumps({"dependencies": ["."], **declared}))


@pytest.fixture
def graphs(team: Team) -> Team:
    """A team with the graph `agent` and the chain `joke`."""
    write_chain("agent", team.chains, graph=True)
    write_chain("joke", team.chains)
    return team


def test_what_agrees_has_no_problems(graphs: Team) -> None:
    declare(graphs, graphs={"agent": f"{graphs.package}.agent:graph"})
    assert problems(graphs) == []


def test_chains_without_graphs_need_no_langgraph_json(team: Team) -> None:
    write_chain("joke", team.chains)
    assert problems(team) == []


def test_the_repository_agrees(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    monkeypatch.chdir(pytestconfig.rootpath)
    assert check(pytestconfig.rootpath, Settings()) == []


def test_a_missing_langgraph_json_is_a_problem_for_graphs(graphs: Team) -> None:
    assert problems(graphs) == ["langgraph.json: missing, and these chains are graphs: agent"]


def test_a_graph_that_is_not_listed(graphs: Team) -> None:
    declare(graphs, graphs={})
    assert problems(graphs) == [f"langgraph.json: the graph of {graphs.package}.agent is not listed"]


@pytest.mark.parametrize("target", ["joke:chain", "no_such_module:graph", "agent.py:graph"])
def test_a_listed_graph_that_is_none_of_the_chains(graphs: Team, target: str) -> None:
    target = f"{graphs.package}.{target}"
    declare(graphs, graphs={"agent": f"{graphs.package}.agent:graph", "other": target})
    assert problems(graphs) == [f"langgraph.json: other: {target} is not a graph of the chains"]


@pytest.mark.parametrize("attribute", ["chain", "no_such_name", "model"])
def test_a_listed_graph_that_is_not_what_is_served(graphs: Team, attribute: str) -> None:
    target = f"{graphs.package}.agent:{attribute}"
    declare(graphs, graphs={"agent": target})
    assert problems(graphs) == [f"langgraph.json: agent: {target} is not the graph that {graphs.package}.agent serves"]


@pytest.mark.parametrize("app", ["no_such_module:app", "json:no_such_name"])
def test_an_app_that_does_not_resolve(graphs: Team, app: str) -> None:
    declare(graphs, graphs={"agent": f"{graphs.package}.agent:graph"}, http={"app": app})
    (problem,) = problems(graphs)
    assert problem.startswith(f"langgraph.json: http.app: {app} does not resolve: ")


@pytest.mark.parametrize("path", ["no_such_module:auth", "json:no_such_name"])
def test_an_auth_that_does_not_resolve(graphs: Team, path: str) -> None:
    declare(graphs, graphs={"agent": f"{graphs.package}.agent:graph"}, auth={"path": path})
    (problem,) = problems(graphs)
    assert problem.startswith(f"langgraph.json: auth.path: {path} does not resolve: ")


@pytest.mark.parametrize("place", [("http", "app"), ("auth", "path")])
def test_a_file_where_a_module_belongs(graphs: Team, place: tuple[str, str]) -> None:
    section, name = place
    declare(graphs, graphs={"agent": f"{graphs.package}.agent:graph"}, **{section: {name: "./auth.py:auth"}})
    assert problems(graphs) == [f"langgraph.json: {section}.{name}: ./auth.py:auth: name a module, not a file"]


@pytest.mark.parametrize("text", ["{", "[]", '{"graphs": []}', '{"graphs": {"agent": 3}}', '{"http": 3}'])
def test_a_langgraph_json_that_cannot_be_read_is_a_problem(graphs: Team, text: str) -> None:
    (graphs.root / "langgraph.json").write_text(text)
    assert any(problem.startswith("langgraph.json: ") for problem in problems(graphs))


def test_a_broken_module_is_a_problem_and_the_rest_is_checked(graphs: Team) -> None:
    file = graphs.write("bad.py", "import no_such_module\n")
    found = problems(graphs)
    assert found[0] == f"broken: {file}:1: ModuleNotFoundError: No module named 'no_such_module'"
    assert found[1:] == ["langgraph.json: missing, and these chains are graphs: agent"]


def test_a_playground_without_an_example_is_a_problem(team: Team) -> None:
    source = """
        from langchain_core.runnables import RunnableLambda
        from streamserve import Chain
        chain = Chain(runnable=RunnableLambda(str), playground={})
    """
    shown = team.write("shown.py", source.format("'default'"))
    team.write("hidden.py", source.format("None"))
    assert problems(team) == [f"{shown}: a playground without `examples` starts empty"]


def test_an_endpoint_that_is_off_is_no_problem(team: Team) -> None:
    source = """
        from langchain_core.runnables import RunnableLambda
        from streamserve import Chain
        chain = Chain(runnable=RunnableLambda(str), examples=["x"], {})
    """
    team.write("quiet.py", source.format("disabled_endpoints=['stream', 'output_schema']"))
    assert problems(team) == []
    files = [
        team.write("hidden.py", source.format("stream_log_name_allow_list=[]")),
        team.write("mute.py", source.format("disabled_endpoints=['stream_log']")),
    ]
    assert problems(team) == [f"{file}: a playground shows only what stream_log sends" for file in files]
