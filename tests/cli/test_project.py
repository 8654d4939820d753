"""The command `streamserve init`: the written project is whole and works without changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from streamserve.cli.main import main
from streamserve.cli.project import write_project
from tests.conftest import Team
from tests.limits import LIMIT


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_init_names_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    result = run("init", str(tmp_path / "my-app"))
    assert result.exit_code == 0
    *written, last = result.output.splitlines()
    assert {Path(line.removeprefix("wrote ")) for line in written} == {
        path for path in (tmp_path / "my-app").rglob("*") if path.is_file()
    }
    assert last == f"next: cd {tmp_path / 'my-app'} && make serve"


def test_a_project_has_the_name_of_its_folder(tmp_path: Path) -> None:
    write_project(tmp_path / "My_app.2")
    assert tomllib.loads((tmp_path / "My_app.2/pyproject.toml").read_text())["project"]["name"] == "My_app.2"
    assert (tmp_path / "My_app.2/README.md").read_text().startswith("# My_app.2\n")


def test_no_placeholder_is_left(tmp_path: Path) -> None:
    assert not [path for path in write_project(tmp_path / "my-app") if "{{" in path.read_text()]


def test_an_empty_folder_becomes_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("init", ".").exit_code == 0
    assert 'name = "here"' in Path("pyproject.toml").read_text()


def test_a_folder_with_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("init", str(tmp_path))
    assert (result.exit_code, result.output) == (1, f"Error: {tmp_path} is not an empty folder\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["a b", "-app", "app-", "naïve", '"'])
def test_a_name_that_no_project_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid project name"):
        write_project(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_its_graphs_are_those_of_langgraph_json(tmp_path: Path) -> None:
    write_project(tmp_path / "my-app")
    declared = json.loads((tmp_path / "my-app/langgraph.json").read_text())
    for target in declared["graphs"].values():
        module, _, name = target.partition(":")
        assert f"\n{name} = " in (tmp_path / "my-app" / f"{module.replace('.', '/')}.py").read_text()


def test_its_own_tests_and_checks_pass(tmp_path: Path) -> None:
    write_project(tmp_path / "my-app")
    environment = {**os.environ, "STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0"}
    for module, *arguments in (["pytest", "-q", "-p", "no:cacheprovider"], ["streamserve.cli", "check"]):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path / "my-app",
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_compose_file_waits_for_what_it_needs(tmp_path: Path) -> None:
    write_project(tmp_path / "my-app")
    services = yaml.safe_load((tmp_path / "my-app/compose.yaml").read_text())["services"]
    assert set(services["app"]["depends_on"]) == {"redis", "postgres"}
    assert all("healthcheck" in services[name] for name in services["app"]["depends_on"])


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert run("--version").output == f"streamserve {project['version']}\n"


def test_a_folder_without_chains_says_what_to_do(team: Team) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "`streamserve new NAME` writes one" in result.stderr
