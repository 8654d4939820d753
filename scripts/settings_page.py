"""Write docs/settings.md from the settings' own declarations: `python -m scripts.settings_page`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from streamserve.models.choice import ModelSettings
from streamserve.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
PREFIX = str(Settings.model_config.get("env_prefix", ""))
SIGNS: dict[type, tuple[str, str]] = {Ge: ("ge", "from"), Gt: ("gt", "above"), Le: ("le", "to")}

TEXT = """# Settings

<!-- Written by `python -m scripts.settings_page` from the code. Change the code, not this page. -->

Set an environment variable, or write a line into a `.env` file in the folder where the server starts. An environment
variable overrides the file. The file's other variables reach the chains and LangSmith too. `streamserve serve --host`,
`--port` and `--dev` override both; `make serve` takes `HOST` and `PORT`. Times are in seconds, sizes in bytes.

```ini
STREAMSERVE_PORT=8080
STREAMSERVE_ORPHAN_GRACE=30
```

The server refuses to start with an invalid value; one line names the variable.

## The server

{server}

A chain's record overrides `RUN_TIMEOUT` and `ON_DISCONNECT`. A request's header `Run-On-Disconnect` overrides both. See
[chains.md](chains.md) and [runs.md](runs.md).

## The model

One model serves all chains. The first of these rules that applies chooses it:

1. `STREAMSERVE_MODEL=offline` chooses the offline model, which needs no key and no network.
2. `STREAMSERVE_MODEL=gguf:PATH` serves a model file in the same process (extra `local`).
3. `OPENAI_API_KEY` or `OPENAI_BASE_URL` chooses an OpenAI-compatible server.
4. Otherwise, the offline model answers.

Creating a model never opens a connection.

{model}
"""


def render() -> str:
    """Return the text of the page."""
    meanings = _attribute_docstrings(Settings)
    return TEXT.format(
        server=table(_row(PREFIX + name.upper(), field, meanings[name]) for name, field in fields(Settings)),
        model=table(
            _row(" or ".join(names_of(field)), field, _documented(name)) for name, field in fields(ModelSettings)
        ),
    )


def fields(settings: type[Any]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields of a settings class, each with its name."""
    yield from settings.model_fields.items()


def variables() -> set[str]:
    """Return the names of all variables."""
    models = {name for _, field in fields(ModelSettings) for name in names_of(field)}
    return {PREFIX + name.upper() for name, _ in fields(Settings)} | models


def names_of(field: FieldInfo) -> list[str]:
    """Return the variables that set a field of the model's settings."""
    alias = field.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


def table(rows: Iterator[str]) -> str:
    """Return a table of the rows, under its heads."""
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def _row(names: str, field: FieldInfo, meaning: str | None) -> str:
    shown = " or ".join(f"`{name}`" for name in names.split(" or "))
    return f"| {shown} | {_default(field.default)} | {meaning} {_bounds(field)}|"


def _attribute_docstrings(settings: type[Any]) -> dict[str, str]:
    # Not pydantic's `use_attribute_docstrings`: it reads the source at each start of the server, in 40 ms.
    (declared,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(declared, ast.ClassDef)
    return {
        attribute.target.id: " ".join(text.split())
        for attribute, below in pairwise(declared.body)
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(text := ast.literal_eval(below.value), str)
    }


def _default(value: Any) -> str:
    if value is None or value == "":
        return "not set"
    is_large = isinstance(value, int) and value > 9999
    return f"`{value:_}`" if is_large else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    texts = [
        f"{word} {getattr(bound, attribute)}"
        for bound in field.metadata
        for kind, (attribute, word) in SIGNS.items()
        if isinstance(bound, kind)
    ]
    return f"({' '.join(texts)}) " if texts else ""


def _documented(name: str) -> str:
    # The docstring of ModelSettings is the one source: `name: `VARIABLE`: meaning, over several lines.
    text = " ".join((inspect.getdoc(ModelSettings) or "").split())
    found = re.search(rf"\b{name}: (?P<meaning>.+?)(?= \w+: `[A-Z]|$)", text)
    assert found, f"ModelSettings does not document {name}"
    meaning = re.sub(r"^(`[A-Z_]+`( or )?)+[:.,]?\s*", "", found["meaning"])
    return meaning[:1].upper() + meaning[1:]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
