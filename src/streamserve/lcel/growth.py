"""The growth of a value that a parser sees again and again while its JSON arrives."""

from typing import Any

from pydantic import BaseModel


def continues(before: Any, now: Any) -> bool:
    """Return whether a value is a later version of another, as a parser sees it while its JSON arrives."""
    if before is None:
        return True
    if isinstance(before, int | float) and isinstance(now, int | float):
        return str(now).startswith(str(before))
    if type(before) is not type(now):
        return False
    if isinstance(before, BaseModel):
        return continues(before.model_dump(), now.model_dump())
    if type(before) is dict:
        if before and now == dict(list(before.items())[:-1]):
            return _may_be_lost(list(before.values())[-1])
        return all(key in now and (value == now[key] or continues(value, now[key])) for key, value in before.items())
    if type(before) is list:
        if before and now == before[:-1]:
            return _may_be_lost(before[-1])
        pairs = zip(before[-1:], now[len(before) - 1 :], strict=False)
        return (
            before[:-1] == now[: len(before) - 1]
            and len(now) >= len(before)
            and all(last == after or continues(last, after) for last, after in pairs)
        )
    return type(before) is str and now.startswith(before)


def _may_be_lost(value: Any) -> bool:
    r"""Return whether a later version may lack this last value: a parser drops a text while its `\u00e9` arrives."""
    return type(value) is str
