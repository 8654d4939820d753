"""Removes secrets from logs: by the names of fields, by the forms of credentials, and by known values."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

HIDDEN = "***"
# Characters. Shorter values may be ordinary words, which would vanish from sentences.
SHORTEST = 8
# Characters of a text that a record shows. Longer texts are cut first, because hiding takes time of the event loop.
LONGEST = 32 * 2**10

_NAMES = re.compile(r"(?i)authorization|cookie|passw|secret|api[_-]?key|token$|credential")
_FORMS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\bsk-[\w-]{8,}"), HIDDEN),
    (re.compile(r"(?<![\w-])eyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), HIDDEN),
    (re.compile(r"(\w://[^\s:/@]*:)[^\s/@]+@"), rf"\1{HIDDEN}@"),
)
_PARAMETER = re.compile(r"([?&]([\w.~%+-]+)=)[^&\s\"']+")
_PARAMETER_NAMES = re.compile(r"(?i)token|key|share|secret|password|signature")


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
        self._values = sorted(values, key=len, reverse=True)
        # Behind a cut, a part of a credential is no longer recognised: so many characters before it are left out.
        self._margin = max(map(len, self._values), default=0) + 256

    def text(self, text: str) -> str:
        """Return the text with its credentials hidden, and cut after LONGEST characters."""
        if (more := len(text) - LONGEST) > self._margin:
            return f"{self._hidden(text[: LONGEST + self._margin])[: -self._margin]} ... ({more} characters more)"
        return self._hidden(text)

    def _hidden(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, HIDDEN)
        for form, shown in _FORMS:
            text = form.sub(shown, text)
        return _PARAMETER.sub(_parameter, text)

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


def _parameter(found: re.Match[str]) -> str:
    # The name may be encoded, as in `to%6ben=`.
    return f"{found[1]}{HIDDEN}" if _PARAMETER_NAMES.search(unquote_plus(found[2])) else found[0]
