"""A project of one's own, which `streamserve init` writes."""

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath

TEMPLATE = files("streamserve.cli") / "project_template"
# The files of the template are no modules of this package, and git and build tools do not read them.
SUFFIX = "-tpl"
NAME = "{{ name }}"


def write_project(folder: Path) -> list[Path]:
    """Write a project with two chains, tests, a Dockerfile and settings for LangGraph's server; it runs as it is.

    Args:
        folder: folder of the project, created if it is missing. Its own name becomes the name of the project.

    Returns:
        The paths written, below `folder`.

    Raises:
        ValueError: the folder's name is not valid for a Python project.
        FileExistsError: the folder holds files already.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise ValueError(f"{name!r} is not a valid project name: use letters, digits, -, _ and .")
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder")
    return [_write(folder / path, source, name) for path, source in _templates(TEMPLATE, PurePath())]


def _write(path: Path, source: Traversable, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
    return path


def _templates(folder: Traversable, below: PurePath) -> Iterator[tuple[PurePath, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _templates(entry, below / entry.name)
        elif entry.name.endswith(SUFFIX):
            yield below / entry.name.removesuffix(SUFFIX), entry
