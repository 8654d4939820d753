"""Run the tests of the promises on other versions than `make test`: `python -m scripts.versions newest`.

    lowest    the lowest versions that pyproject.toml allows
    locked    the versions of requirements/dev.txt
    newest    the newest versions that the index has

Each kind has an environment of its own for each Python below build/, beside the outcome of its tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from xml.etree import ElementTree as ET

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "dev.txt"
PROJECTS = ("pyproject.toml", "sdk/python/pyproject.toml")
# All but LangGraph's development server: it is no part of what users install, and holds other packages back.
EXTRAS = ("redis", "postgres", "jwt", "aiohttp", "local", "otel")
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
KINDS = ("lowest", "locked", "newest")
# They compare what is served with what LangChain, LangGraph, LangServe and the OpenAI client do.
SUITES = (
    "tests/lcel",
    "tests/wire",
    "tests/models/openai",
    "tests/private_names",
    "tests/doors/langserve/test_endpoints.py",
    "tests/doors/langserve/test_stock_clients.py",
    "tests/doors/langserve/test_streams.py",
    "tests/doors/langserve/test_whole_values.py",
    "tests/graphs/test_checkpoints.py",
    "tests/graphs/test_events_v3.py",
    "tests/graphs/test_state_parity.py",
    "tests/graphs/test_stream_parity.py",
    "tests/conformance/test_langserve.py",
    "sdk/python/tests/codec",
    "sdk/python/tests/private_names",
    "sdk/python/tests/test_remote.py",
)


@dataclass(frozen=True)
class Result:
    """An outcome of the tests on the versions of one kind, with one Python.

    Args:
        kind: lowest, locked or newest.
        python: version of Python, as in 3.11.7.
        date: day of the run, as in 2026-11-30.
        suites: what pytest ran.
        passed, failed: numbers of tests.
        fast_paths: the lines of `streamserve check` about fast paths.
        versions: the installed packages, each with its version.
    """

    kind: str
    python: str
    date: str
    suites: list[str]
    passed: int
    failed: int
    fast_paths: list[str]
    versions: dict[str, str]


class Environment:
    """A virtual environment with the versions of one kind.

    Args:
        kind: lowest, locked or newest.
        python: command of the Python to use.
    """

    def __init__(self, kind: str, python: str) -> None:
        self.kind = kind
        self._python = python
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        self.folder = ROOT / "build" / f"{kind}-{_output(python, '-c', code)}"
        self.bin = self.folder / "venv" / "bin"

    def install(self) -> None:
        """Install the two distributions, their extras and the tests' tools, and nothing else."""
        requirements = LOCK if self.kind == "locked" else self._resolve()
        _uv("venv", "--allow-existing", "--python", self._python, self.folder / "venv")
        _uv("pip", "sync", "--python", self.bin / "python", requirements)
        _uv("pip", "install", "--python", self.bin / "python", "--no-deps", "-e", ".", "-e", "sdk/python")

    def _resolve(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        project, tested = self.folder / "project.txt", self.folder / "requirements.txt"
        extras = [f"--extra={extra}" for extra in EXTRAS]
        self._compile(project, "--resolution", RESOLUTIONS[self.kind], *extras, *PROJECTS)
        # The tests' tools are no part of what users install, so they are always the newest.
        self._compile(tested, project, "--group", "pyproject.toml:test")
        return tested

    def _compile(self, output: Path, *arguments: str | Path) -> None:
        options = ["--python", self._python, "--upgrade", "--no-header", "--no-emit-package", "streamserve-sdk"]
        _uv("pip", "compile", *options, "-o", output, *arguments)

    def test(self, arguments: list[str]) -> Result:
        """Run tests; without a path among pytest's arguments, those of the promises."""
        named = [given for given in arguments if (ROOT / given.partition("::")[0]).exists()]
        suites = named or list(SUITES)
        options = [given for given in arguments if given not in named]
        report = self.folder / "junit.xml"
        report.unlink(missing_ok=True)
        fast_paths = self._fast_paths()
        # Some lowest versions bring an anyio whose plugin today's pytest warns of; no test uses it.
        command = ["-m", "pytest", "-q", "-p", "no:anyio", "-n", "auto", "--dist", "loadfile", f"--junitxml={report}"]
        subprocess.run([self.bin / "python", *command, *options, *suites], cwd=ROOT, check=False)
        passed, failed = _count(report)
        return Result(
            kind=self.kind,
            python=_output(self.bin / "python", "-c", "import platform; print(platform.python_version())"),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            suites=suites,
            passed=passed,
            failed=failed,
            fast_paths=fast_paths,
            versions=self._versions(),
        )

    def _fast_paths(self) -> list[str]:
        command = [self.bin / "streamserve", "check"]
        # A key, so that the chains have an OpenAI model, whose stream is a fast path too. Nothing calls it.
        environment = os.environ | {"OPENAI_API_KEY": "unused"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return [line for line in done.stdout.splitlines() if line.startswith("fast path")]

    def _versions(self) -> dict[str, str]:
        (packages,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        found = distributions(path=[str(packages)])
        return {canonicalize_name(package.name): package.version for package in found}


def _uv(*arguments: str | Path) -> None:
    subprocess.run([Path(sys.executable).with_name("uv"), "--quiet", *arguments], cwd=ROOT, check=True)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _count(report: Path) -> tuple[int, int]:
    # Without a report pytest did not even begin, which is a failure.
    if not report.exists():
        return 0, 1
    (suite,) = ET.parse(report).getroot()
    tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return tests - skipped - failed, failed


def main() -> None:
    """Install one kind of versions, run the tests, write build/KIND-PYTHON/result.json, and say what broke."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--python", default=sys.executable, help="command of the Python to use")
    options, arguments = parser.parse_known_args()
    environment = Environment(options.kind, options.python)
    environment.install()
    result = environment.test(arguments)
    (environment.folder / "result.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    for line in result.fast_paths:
        print(line)
    print(f"{result.kind} versions on Python {result.python}: {result.passed} passed, {result.failed} failed")
    sys.exit(result.failed > 0)


if __name__ == "__main__":
    main()
