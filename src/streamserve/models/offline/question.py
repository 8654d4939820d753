"""The question of a conversation, read by its words alone."""

import re
from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

# A reply quotes this many characters of a question at most.
QUOTE_LENGTH = 160
# Quoted words, else the words behind "search ...:", else the words after "about".
SUBJECT = (
    re.compile(r"[\"“`]([^\"“”`]+)[\"”`]"),
    re.compile(r"^(?i:search)\b[^:]*:\s*+(.+)"),
    re.compile(r"\b(?i:about)\s+(\S.{0,160}?)(?:[.?!](?:\s|$)|$)"),
)
_NUMBER = r"\({0,9}-?\d+(?:\.\d+)?\){0,9}"
EXPRESSION = re.compile(rf"((?<!\d){_NUMBER}(?:\s?[-+*/%^]{{1,9}}\s?{_NUMBER}){{1,40}})")
_LABELLED = re.compile(r"^[^\w\n]*(?:question|task|request)[^\w:\n]*:\s*+(.+)$", re.I | re.M)
_PASSAGE = re.compile(r"^[^\S\n]*(\[\d+\])\s*+(.++(?:\n(?![^\S\n]*\[\d+\]).+)*)", re.M)


class Question(NamedTuple):
    """A conversation as the offline model reads it.

    Args:
        text: the question on one short line.
        full: the whole last human message.
        background: the system messages.
        passages: marks and texts of sources, such as `[1] text`.
        results: names and texts of the tool results since the last human message.
    """

    text: str
    full: str
    background: str
    passages: Sequence[tuple[str, str]]
    results: Sequence[tuple[str, str]]

    def find(self, *patterns: re.Pattern[str]) -> str | None:
        """Return the group of the first pattern that matches the text."""
        return next((found[1].strip(" .?!") for pattern in patterns if (found := pattern.search(self.text))), None)

    @property
    def subject(self) -> str:
        """Return the subject that the text names, else the text."""
        return self.find(*SUBJECT) or self.text.strip(" .?!")


def read(messages: Sequence[BaseMessage]) -> Question:
    """Find the question of a conversation with its sources and tool results."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=len(messages) - 1)
    full = str(messages[last].text) if messages else ""
    first_paragraph = full.strip().split("\n\n", maxsplit=1)[0]
    return Question(
        text=shorten((_LABELLED.findall(full) or [first_paragraph])[-1], QUOTE_LENGTH, placeholder=" ..."),
        full=full,
        background=" ".join(str(m.text) for m in messages if isinstance(m, SystemMessage)),
        passages=_PASSAGE.findall("\n".join(str(m.text) for m in messages[: last + 1])),
        results=[(m.name or "tool", str(m.text)) for m in messages[last + 1 :] if isinstance(m, ToolMessage)],
    )


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text or of a name such as `search_docs` in lower case."""
    return frozenset(re.findall(r"[a-z]+|\d+", text.lower()))
