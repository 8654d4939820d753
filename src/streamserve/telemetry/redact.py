"""Takes secrets out of what is logged: by the names of fields, by the forms of credentials, and by their values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Shorter values are words that would be blotted out of sentences.
SHORTEST = 8

_NAMES = re.compile(r"(?i)authorization|cookie|passw|secret|api[_-]?key|token$|credential")
_FORMS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\bsk-[\w-]{8,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), HIDDEN),
    (re.compile(r"(\w://[^\s:/@]*:)[^\s/@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)([?&][\w-]*(?:token|key|share|secret|password|signature)[\w-]*=)[^&\s\"']+"), rf"\1{HIDDEN}"),
)


class Redactor:
    """Hides what must not be read in a log.

    Args:
        environment: whose variables with a secret's name are hidden wherever their values stand.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        values = {value for name, value in found.items() if _NAMES.search(name) and len(value) >= SHORTEST}
        values |= {value for name, value in found.items() if name.upper().endswith("_KEY") and len(value) >= SHORTEST}
        longest_first = sorted(values, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text without credentials."""
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        for form, shown in _FORMS:
            text = form.sub(shown, text)
        return text

    def value(self, name: str, value: Any) -> Any:
        """The value of a record's field, all of it hidden if the field is named like a secret."""
        if _NAMES.search(name):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value("", item) for item in value]
        return value if isinstance(value, int | float | bool | None) else self.text(str(value))
