"""The components of an OpenAPI document: parts that many operations share, so that the document stays small."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

PREFIX = "#/components/"
SHORT = 80  # characters of a part, about as long as a reference to it
KINDS = ("schemas", "parameters", "requestBodies", "responses")
# A part of the document: what holds it, its key there and its name.
Place = tuple[Any, Any, str]


def reference(kind: str, name: str) -> dict[str, str]:
    """Return a reference to a component, such as `{"$ref": "#/components/schemas/Error"}`."""
    return {"$ref": f"{PREFIX}{kind}/{name}"}


def share(paths: dict[str, Any], components: dict[str, Any]) -> None:
    """Move what occurs twice or more into the components, in place.

    Args:
        paths: the document's paths.
        components: the document's components, with its schemas.
    """
    schemas = components["schemas"]
    _share(_properties(schemas), schemas, "schemas")
    for kind, places in (("parameters", _parameters), ("requestBodies", _bodies), ("responses", _answers)):
        _share(places(paths), components.setdefault(kind, {}), kind)


def used(components: dict[str, Any], parts: Any) -> dict[str, Any]:
    """Return the components that parts of a document refer to, directly or not, and those of other kinds."""
    kept: dict[str, Any] = {kind: {} if kind in KINDS else of for kind, of in components.items()}
    names = set(_referred(parts))
    while names:
        found = {(kind, name): components[kind][name] for kind, name in sorted(names)}
        for (kind, name), part in found.items():
            kept[kind][name] = part
        names = {(kind, name) for kind, name in _referred([*found.values()]) if name not in kept[kind]}
    return kept


def _operations(paths: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (operation for methods in paths.values() for operation in methods.values())


def _parameters(paths: dict[str, Any]) -> Iterator[Place]:
    for parameters in [operation.get("parameters", []) for operation in _operations(paths)]:
        yield from ((parameters, at, parameter["name"]) for at, parameter in enumerate(parameters))


def _bodies(paths: dict[str, Any]) -> Iterator[Place]:
    return ((operation, "requestBody", "Body") for operation in _operations(paths) if "requestBody" in operation)


def _answers(paths: dict[str, Any]) -> Iterator[Place]:
    for answers in [operation["responses"] for operation in _operations(paths)]:
        yield from ((answers, status, f"Answer{status}") for status in answers)


def _properties(schemas: dict[str, Any]) -> Iterator[Place]:
    for properties in [schema.get("properties", {}) for schema in schemas.values()]:
        yield from ((properties, name, name) for name in properties)


def _share(places: Iterable[Place], into: dict[str, Any], kind: str) -> None:
    """Move long parts that occur twice or more into a group of components, and leave references in their places."""
    found = [(*place, json.dumps(place[0][place[1]])) for place in places]
    times = Counter(text for *_, text in found)
    for container, key, name, text in found:
        if times[text] > 1 and len(text) > SHORT:
            while into.setdefault(name, container[key]) != container[key]:
                name += "_"
            container[key] = reference(kind, name)


def _referred(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(PREFIX):
            kind, _, name = reference.removeprefix(PREFIX).partition("/")
            yield kind, name
        for inner in value.values():
            yield from _referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _referred(inner)
