"""The files of deploy/ and the commit hooks keep their promises, checked without Docker and Kubernetes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cluster import nginx_configuration
from deploy.services import STOP_LIMIT, Missing, program
from streamserve.runs.runs import LAST_BLOCK
from streamserve.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEFAULTS = Settings(_env_file=None)
# From SIGTERM to the last terminal block, at most.
ENDING = DEFAULTS.drain_time + DEFAULTS.cancel_grace + LAST_BLOCK


def document(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text[:-1])


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services: dict[str, Any] = document("compose.yaml")["services"]
    return services


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = document("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def dockerfile() -> list[list[str]]:
    """Return the instructions, each split into words."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def final_stage(dockerfile: list[list[str]]) -> list[list[str]]:
    return dockerfile[max(number for number, line in enumerate(dockerfile) if line[0] == "FROM") :]


def test_every_copied_file_is_there_and_not_ignored(dockerfile: list[list[str]]) -> None:
    ignored = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text("utf-8").split()}
    copied = [
        source for line in dockerfile if line[0] == "COPY" and "--from=build" not in line for source in line[1:-1]
    ]
    assert len(copied) > 5
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not set(Path(source).parts) & ignored, source
    assert {".env", ".venv"} <= ignored


def test_the_image_is_built_from_hashes_only(dockerfile: list[list[str]]) -> None:
    for command in re.findall(r"pip\S* [^&]*\binstall\b[^&]*", " ".join(" ".join(line) for line in dockerfile)):
        assert "--require-hashes" in command or "--no-index --no-deps" in command or "--no-deps --no-index" in command
    for name in ("deploy", "build"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
        pins = re.findall(r"^[a-z][^\n]*$", text, re.MULTILINE)
        assert pins
        assert all("==" in pin for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested, shipped = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / f"{name}.txt").read_text("utf-8"), re.M))
        for name in ("dev", "deploy")
    )
    assert {"redis", "psycopg", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite"} <= set(shipped)
    assert shipped.items() <= tested.items()


def test_the_last_stage_is_small_and_not_root(dockerfile: list[list[str]]) -> None:
    stage = final_stage(dockerfile)
    assert sum(line[0] == "FROM" for line in dockerfile) == 2
    assert ["USER", "10001:10001"] in stage
    assert ["STOPSIGNAL", "SIGTERM"] in stage
    assert any(line[0] == "HEALTHCHECK" for line in stage)
    (run,) = [" ".join(line) for line in stage if line[0] == "RUN"]
    assert not re.search(r"(?<!un)install", run)
    # The exec form, so that the server itself gets the signal.
    (command,) = [" ".join(line[1:]) for line in stage if line[0] == "CMD"]
    assert command.startswith('["streamserve", "serve"')


def test_replicas_are_killed_only_after_their_drain_time(compose: dict[str, Any], pod: dict[str, Any]) -> None:
    pause = 5
    assert f"sleep({pause})" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert pod["terminationGracePeriodSeconds"] > ENDING + pause
    assert all(seconds(service["stop_grace_period"]) > ENDING for service in replicas_of(compose))
    assert STOP_LIMIT > ENDING
    assert float(document("kubernetes/configmap.yaml")["data"]["STREAMSERVE_DRAIN_TIME"]) == DEFAULTS.drain_time
    assert all(
        float(service["environment"]["STREAMSERVE_DRAIN_TIME"]) == DEFAULTS.drain_time
        for service in replicas_of(compose)
    )


def replicas_of(compose: dict[str, Any]) -> list[dict[str, Any]]:
    found = [service for name, service in compose.items() if name.startswith("replica-")]
    assert len(found) == 2
    return found


def test_compose_waits_until_everything_is_healthy(compose: dict[str, Any]) -> None:
    for service in compose.values():
        assert service["healthcheck"]["test"]
        assert all(wish["condition"] == "service_healthy" for wish in service.get("depends_on", {}).values())
    assert set(compose["balancer"]["depends_on"]) == {"replica-1", "replica-2"}
    assert set(compose["replica-1"]["depends_on"]) == {"redis", "postgres"}
    assert [name for name, service in compose.items() if "ports" in service] == ["balancer"]


def test_the_settings_of_deploy_are_settings_of_the_server(compose: dict[str, Any]) -> None:
    names = {f"STREAMSERVE_{name.upper()}" for name in Settings.model_fields}
    used = {name for service in replicas_of(compose) for name in service["environment"]}
    used |= set(document("kubernetes/configmap.yaml")["data"])
    used |= set(document("kubernetes/secret.example.yaml")["stringData"])
    assert {name for name in used if name.startswith("STREAMSERVE_")} <= names
    assert {"STREAMSERVE_STORE", "STREAMSERVE_CHECKPOINTS"} <= used


def test_no_password_is_written_down(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert re.findall(r"(?:PASSWORD): (.*)", text) == ["${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"] * 2
    assert "change-me" in (DEPLOY / "kubernetes" / "secret.example.yaml").read_text("utf-8")
    assert "secret.example.yaml" not in document("kubernetes/kustomization.yaml")["resources"]


def test_pods_are_probed_for_life_and_for_readiness(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    references = {kind: reference["name"] for entry in container["envFrom"] for kind, reference in entry.items()}
    assert references == {
        "configMapRef": document("kubernetes/configmap.yaml")["metadata"]["name"],
        "secretRef": document("kubernetes/secret.example.yaml")["metadata"]["name"],
    }


def test_any_pod_answers_for_any_run() -> None:
    service = document("kubernetes/service.yaml")["spec"]
    deployment = document("kubernetes/deployment.yaml")["spec"]
    budget = document("kubernetes/poddisruptionbudget.yaml")["spec"]
    assert service["sessionAffinity"] == "None"
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == budget["selector"]["matchLabels"] == labels
    assert 1 <= budget["minAvailable"] < deployment["replicas"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_kustomize_lists_every_manifest() -> None:
    listed = set(document("kubernetes/kustomization.yaml")["resources"])
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert files - listed == {"kustomization.yaml", "secret.example.yaml"}


@pytest.fixture
def nginx() -> str:
    try:
        return program("nginx")
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))


def test_nginx_accepts_its_configuration(nginx: str, tmp_path: Path) -> None:
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(nginx_configuration(18080, [18001, 18002], tmp_path), "utf-8")
    done = subprocess.run(
        [nginx, "-t", "-p", tmp_path, "-c", configuration], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_nginx_passes_tokens_on_at_once_and_to_any_replica() -> None:
    text = nginx_configuration(18080, [18001, 18002], Path("/somewhere"))
    assert "proxy_buffering off;" in text
    assert not re.search(r"^\s*(ip_hash|sticky|hash) ?", text, re.MULTILINE)
    assert re.findall(r"server 127.0.0.1:(\d+) ", text) == ["18001", "18002"]
    assert "listen 127.0.0.1:18080;" in text
    assert not re.search(r"[ :]/tmp/|:8000|:8080", text)
    assert seconds(re.findall(r"proxy_read_timeout (\w+);", text)[0]) > 2 * DEFAULTS.keepalive


def recipe(verb: str) -> list[str]:
    """Return the commands of a verb of the Makefile, with its variables filled in."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    variables = {"MAKE": "make"} | dict(re.findall(r"^(\w+) [:?]?= (.*)$", makefile, re.MULTILINE))
    (text,) = re.findall(rf"^{verb}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    while "$(" in text:
        text = re.sub(r"\$\((\w+)\)", lambda use: variables[use[1]], text)
    return [line.removeprefix("\t@") for line in text.splitlines()]


def test_a_commit_hook_runs_the_commands_of_make_check() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repository["repo"] == "local"  # a remote one needs a network
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("check")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])
