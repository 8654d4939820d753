"""Removes secrets from logs: by the names of fields, by the forms of credentials, and by known values."""

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Characters. Shorter values may be ordinary words, which would vanish from sentences.
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
    """Hides secrets in the text and the fields of records.

    Args:
        environment: environment variables; the values of those with a secret's name are hidden everywhere. Default:
            those of the process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        values = {value for name, value in found.items() if _NAMES.search(name) and len(value) >= SHORTEST}
        values |= {value for name, value in found.items() if name.upper().endswith("_KEY") and len(value) >= SHORTEST}
        longest_first = sorted(values, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """Return the text with its credentials hidden."""
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        for form, shown in _FORMS:
            text = form.sub(shown, text)
        return text

    def value(self, name: str, value: Any) -> Any:
        """Return a field's value with its credentials hidden, or HIDDEN if the field is named like a secret."""
        if _NAMES.search(name):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value("", item) for item in value]
        return value if isinstance(value, int | float | bool | None) else self.text(str(value))
