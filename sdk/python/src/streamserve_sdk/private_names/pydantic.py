"""pydantic: the slots of a model. Without them, every message chunk is validated instead of copied."""

from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

SLOTS = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def setters_of(base: type[Any]) -> tuple[Any, ...] | None:
    """Return the setters of the slots, or None if one is gone.

    Args:
        base: the class that has the slots.
    """
    setters = tuple(getattr(vars(base).get(name), "__set__", None) for name in SLOTS)
    return setters if all(setters) else None


# BaseModel.__setattr__ refuses these names, and object.__setattr__ takes twice as long.
SETTERS = setters_of(BaseModel)


def can_copy(model: BaseModel) -> bool:
    """Return whether the fields are all that a model has, so that `unvalidated` can make another one like it."""
    return SETTERS is not None and model.model_extra == {} and model.__pydantic_private__ is None


def unvalidated(kind: type[Model], fields: dict[str, Any], given: set[str]) -> Model:
    """Return a model that is made without validation.

    Args:
        kind: the class of the model.
        fields: the values of all fields; the model keeps this dict.
        given: the names of the fields that were given; the model keeps this set.
    """
    assert SETTERS is not None
    set_fields, set_given, set_extra, set_private = SETTERS
    model = object.__new__(kind)
    set_fields(model, fields)
    set_given(model, given)
    set_extra(model, {})
    set_private(model, None)
    return model
