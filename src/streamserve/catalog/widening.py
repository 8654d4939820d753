"""Schemas that accept messages in all their forms, at any depth."""

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from streamserve.catalog.messages import is_message, merged_messages, merges_messages, widen


def with_messages(annotation: Any, *, in_graph: bool) -> Any:
    """Return the same type, or one that accepts its messages in any form.

    Args:
        annotation: pydantic model, TypedDict, dataclass or any type composed of these.
        in_graph: whether the type is a graph's state, in which messages have reducers and may remove others.
    """
    return _Widening(in_graph).of(annotation)


def without_required(kind: type[BaseModel]) -> type[BaseModel]:
    """Return a model like another one whose fields may all be missing; the values of given fields are validated."""
    fields = {name: info.asdict() for name, info in kind.model_fields.items() if info.is_required()}
    names = [key for key in _KEPT if not key.startswith("default")]
    made: dict[str, Any] = {
        name: (_annotation(field), Field(default=None, **{key: field["attributes"][key] for key in names}))
        for name, field in fields.items()
    }
    return create_model(kind.__name__, __base__=kind, __module__=kind.__module__, **made)


class _Widening:
    def __init__(self, in_graph: bool) -> None:
        self._in_graph = in_graph
        self._records: dict[type[Any], Any] = {}

    def of(self, annotation: Any) -> Any:
        if is_message(annotation):
            return widen(annotation, removes=self._in_graph)
        if hasattr(annotation, "__metadata__"):
            return self._annotated(annotation)
        if get_args(annotation):
            return self._generic(annotation)
        return self._record(annotation) if isinstance(annotation, type) else annotation

    def _annotated(self, annotation: Any) -> Any:
        metadata = annotation.__metadata__
        is_merged = self._in_graph and merges_messages(metadata)
        inner = merged_messages() if is_merged else self.of(get_args(annotation)[0])
        return Annotated[(inner, *metadata)]

    def _generic(self, annotation: Any) -> Any:
        options = get_args(annotation)
        made = tuple(self.of(option) for option in options)
        if all(new is old for new, old in zip(made, options, strict=True)):
            return annotation
        origin = get_origin(annotation)
        if origin in (Union, UnionType):
            if any(new is old is not NoneType for new, old in zip(made, options, strict=True)):
                made = tuple(self._object(option) if is_message(option) else self.of(option) for option in options)
            return Union[made]  # noqa: UP007 - a union of a computed tuple
        return origin[made if len(made) > 1 else made[0]]

    def _object(self, annotation: Any) -> Any:
        # In process, a text in place of `int | HumanMessage` is no message.
        return widen(annotation, removes=self._in_graph, only_objects=True)

    def _record(self, kind: type[Any]) -> Any:
        if kind not in self._records:
            self._records[kind] = kind  # meanwhile, because a record may hold others of its own type
            self._records[kind] = self._make(kind)
        return self._records[kind]

    def _make(self, kind: type[Any]) -> Any:
        if is_typeddict(kind):
            return self._typed_dict(kind)
        if issubclass(kind, BaseModel):
            return self._model(kind)
        return self._dataclass(kind) if dataclasses.is_dataclass(kind) else kind

    def _typed_dict(self, kind: Any) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        made = self._changed(hints)
        if not made:
            return kind
        required = kind.__required_keys__
        fields = {
            name: (Required if name in required else NotRequired)[_bare(value)]
            for name, value in {**hints, **made}.items()
        }
        return TypedDict(kind.__name__, fields)  # type: ignore[operator]

    def _model(self, kind: type[BaseModel]) -> type[BaseModel]:
        fields = {name: info.asdict() for name, info in kind.model_fields.items()}
        made = self._changed({name: _annotation(field) for name, field in fields.items()})
        if not made:
            return kind
        options = {name: {key: fields[name]["attributes"][key] for key in _KEPT} for name in made}
        new: dict[str, Any] = {name: (value, Field(**options[name])) for name, value in made.items()}
        model = create_model(kind.__name__, __base__=kind, __module__=kind.__module__, **new)
        setattr(model, "model_json_schema", kind.model_json_schema)  # noqa: B010 - LangServe's playground shows it
        return model

    def _dataclass(self, kind: type[Any]) -> type[Any]:
        made = self._changed(get_type_hints(kind, include_extras=True))
        fields = [(one.name, made[one.name], _default(one)) for one in dataclasses.fields(kind) if one.name in made]
        return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,)) if fields else kind

    def _changed(self, hints: Mapping[str, Any]) -> dict[str, Any]:
        made = {name: self.of(hint) for name, hint in hints.items()}
        return {name: value for name, value in made.items() if value is not hints[name]}


# Attributes that a field's validation needs beside its annotation, which has the type and the constraints.
_KEPT = ("default", "default_factory", "alias", "validation_alias", "validate_default")


def _annotation(field: Mapping[str, Any]) -> Any:
    kind, metadata = field["annotation"], field["metadata"]
    return Annotated[(kind, *metadata)] if metadata else kind


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) in (Required, NotRequired) else annotation


def _default(field: dataclasses.Field[Any]) -> Any:
    options: dict[str, Any] = {"default": field.default, "default_factory": field.default_factory}
    return dataclasses.field(kw_only=field.kw_only, init=field.init, **options)
