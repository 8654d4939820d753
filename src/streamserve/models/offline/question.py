"""What the offline model can tell about a conversation by its words alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Literal

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

Kind = Literal["joke", "story", "other"]

# Longer questions are quoted in part: the reply is to show streaming, not to fill the screen.
QUOTE_LENGTH = 160
_LABELLED = re.compile(r"^\W*(?:question|task|request|topic|user)\W*:\s*(.+)$", re.I | re.M)
_SUBJECTS = (
    re.compile(r"[\"“`](.+?)[\"”`]"),
    re.compile(r"^(?:search|find|look up)\b[^:]*:\s*(.+)", re.I),
    re.compile(r"\babout\s+(.+?)(?:[.?!](?:\s|$)|$)", re.I),
    re.compile(r"\b(?:for|on)\s+(.+?)(?:[.?!](?:\s|$)|$)", re.I),
)
_EXPRESSION = re.compile(r"\(*-?\d+(?:\.\d+)?\)*(?:\s*[-+*/%^]+\s*\(*-?\d+(?:\.\d+)?\)*)+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLACE = re.compile(r"\bin\s+((?:[A-Z][\w-]*\s?)+)")
_RECIPIENT = re.compile(r"\bto\s+([A-Z][\w-]*|[\w.+-]+@[\w.-]+\w)")
_LANGUAGE = re.compile(r"\blanguage:\s*(\S+)", re.I)
_CODE = re.compile(r"^[^\n]*\b(?:editor|code)\b[^\n]*:\n(.+)", re.I | re.M | re.S)
_PASSAGE = re.compile(r"^\s*(\[\d+\])\s*(.+(?:\n(?!\s*\[\d+\]).+)*)", re.M)
_STORY = re.compile(r"\b(?:story|storyteller|storytelling|tale|scene|chapter|adventure)\b", re.I)
_JOKE = re.compile(r"\bjokes?\b", re.I)


@dataclass(frozen=True)
class Question:
    """A conversation as the offline model sees it.

    Args:
        text: what is asked, in one short line.
        full: the whole last human message.
        background: the system messages.
        passages: mark and text of sources such as `[1] text`, which an answer may cite.
        results: name and text of the tool results since the last human message.
    """

    text: str
    full: str
    background: str
    passages: tuple[tuple[str, str], ...]
    results: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> Kind:
        """What sort of answer is wanted."""
        if _JOKE.search(self.text):
            return "joke"
        return "story" if _STORY.search(f"{self.text} {self.background}") else "other"

    @property
    def subject(self) -> str:
        """What it is about: quoted words, else what follows "about" or "for", else the question."""
        found = next(filter(None, (pattern.search(self.text) for pattern in _SUBJECTS)), None)
        return (found.group(1) if found else self.text).strip(" .?!")

    @property
    def expression(self) -> str | None:
        """The first arithmetic expression, such as `2 * (3 + 4)`."""
        found = _EXPRESSION.search(self.text)
        return found.group(0).strip() if found else None

    @property
    def place(self) -> str:
        """The name after "in", else the subject."""
        found = _PLACE.search(self.text)
        return found.group(1).strip() if found else self.subject

    @property
    def recipient(self) -> str:
        """The name or address after "to", else an address."""
        found = _RECIPIENT.search(self.text)
        return found.group(1) if found else "reader@example.com"

    @property
    def language(self) -> str:
        """The programming language after "Language:", else Python."""
        found = _LANGUAGE.search(self.full)
        return found.group(1) if found else "Python"

    @property
    def code(self) -> str | None:
        """The code below a line such as "In the editor:"."""
        found = _CODE.search(self.full)
        code = _LABELLED.sub("", found.group(1)).strip() if found else ""
        return f"{code}\n" if code else None

    @property
    def numbers(self) -> list[float]:
        """All numbers, in their order."""
        return [float(number) for number in _NUMBER.findall(self.text)]

    @property
    def words(self) -> frozenset[str]:
        """The words in lower case."""
        return words_of(self.text)


def read(messages: Sequence[BaseMessage]) -> Question:
    """Find the question and what belongs to it in a conversation."""
    asked = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=len(messages) - 1)
    full = str(messages[asked].text) if messages else ""
    everything = "\n".join(str(m.text) for m in messages[: asked + 1])
    return Question(
        text=_in_one_line(full),
        full=full,
        background=" ".join(str(m.text) for m in messages if isinstance(m, SystemMessage)),
        passages=tuple(_PASSAGE.findall(everything)),
        results=_results(messages[asked + 1 :]),
    )


def words_of(text: str) -> frozenset[str]:
    """The words of a text or of a name such as `searchDocs` or `search_docs`, in lower case."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text))


def _results(messages: Sequence[BaseMessage]) -> tuple[tuple[str, str], ...]:
    return tuple((m.name or "tool", str(m.text)) for m in messages if isinstance(m, ToolMessage))


def _in_one_line(text: str) -> str:
    labelled = _LABELLED.findall(text)
    first_paragraph = text.strip().split("\n\n", maxsplit=1)[0]
    return shorten(labelled[-1] if labelled else first_paragraph, QUOTE_LENGTH, placeholder=" ...")
