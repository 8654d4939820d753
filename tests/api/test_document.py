"""The OpenAPI document: small, whole, and without a word of what a caller may not call."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from streamserve.api.components import KINDS
from streamserve.app import create_app
from streamserve.catalog.registry import Registry, discover


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Return the document of fifteen chains: the repository's, under two names and more."""
    chains = discover("chains").require_whole().chains
    named = [(f"{name}-{number}", entry) for number in range(3) for name, entry in chains.items()][:15]
    found: dict[str, Any] = create_app(Registry({name: replace(entry, name=name) for name, entry in named})).openapi()
    return found


def test_fifteen_chains_take_less_than_250_kilobytes(document: dict[str, Any]) -> None:
    assert len(json.dumps(document, separators=(",", ":"))) < 250_000


def test_every_reference_leads_to_a_component(document: dict[str, Any]) -> None:
    found = re.findall(r'"#/components/(\w+)/([^"]+)"', json.dumps(document))
    assert {kind for kind, _ in found} == set(KINDS)
    assert [(kind, name) for kind, name in found if name not in document["components"][kind]] == []


def test_paths_with_a_config_are_described_once(document: dict[str, Any]) -> None:
    assert [path for path in document["paths"] if "config_hash" in path] == ["/{chain}/c/{config_hash}/{endpoint}"]


def test_every_operation_has_both_groups_of_errors(document: dict[str, Any]) -> None:
    operations = [(path, method) for path, methods in document["paths"].items() for method in methods]
    answers = [document["paths"][path][method]["responses"] for path, method in operations]
    assert len(answers) > 100
    assert all({"4XX", "5XX"} <= found.keys() for found in answers)


def test_the_document_is_the_same_when_it_is_made_again(document: dict[str, Any]) -> None:
    chains = discover("chains").require_whole().chains
    one, other = (create_app(Registry(dict(chains))).openapi() for _ in range(2))
    assert one == other
