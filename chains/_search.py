"""Full-text search over the repository's Markdown documents (SQLite FTS5, in memory)."""

from __future__ import annotations

import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

ROOT = Path(__file__).resolve().parent.parent
MAX_WORDS = 32  # a pasted page must not become a query with thousands of terms
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from had has have how i in is it its me my of on or our "
        "s should so t that the their then there these they this to was we were what when where which who why "
        "will with you your",
    )
)


def repository_documents() -> Iterator[Path]:
    """Yield the files of the index, README.md and docs/, if they exist."""
    yield from filter(Path.is_file, [ROOT / "README.md"])
    yield from sorted((ROOT / "docs").rglob("*.md"))


def sections(path: Path) -> Iterator[Document]:
    """Yield the non-empty sections of a Markdown file, with path, heading and line (from 1) as metadata."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    heading, start, fenced = path.stem, 1, False
    body: list[str] = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        title = None if fenced else re.match(r"#{1,6}\s+(.+?)[\s#]*$", line)
        if not title:
            body.append(line)
            continue
        yield from _section(name, heading, start, body)
        heading, start, body = title[1], number, []
    yield from _section(name, heading, start, body)


def _section(name: str, heading: str, line: int, body: list[str]) -> Iterator[Document]:
    if text := "\n".join(body).strip():
        yield Document(text, metadata={"source": name, "section": heading, "line": line})


class DocumentIndex:
    """An FTS5 index that reads its files at the first search, from any OS thread.

    Args:
        files: function that returns the Markdown files, called once (default `repository_documents`).
    """

    def __init__(self, files: Callable[[], Iterable[Path]] = repository_documents) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def search(self, question: str, limit: int = 4) -> list[Document]:
        """Return the sections that fit a question best.

        Args:
            question: plain text, without FTS5's query syntax.
            limit: maximum number of sections (default 4).
        """
        query = match_query(question)
        if not query:
            return []
        with self._lock:
            self._database = self._database or self._build()
            rows = self._database.execute(
                "SELECT text, source, section, line FROM sections WHERE sections MATCH ?"
                " ORDER BY bm25(sections, 1.0, 0.0, 3.0), rowid LIMIT ?",
                (query, limit),
            ).fetchall()
        return [Document(text, metadata=_metadata(*place)) for text, *place in rows]

    def _build(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, database.close)
        database.execute(
            "CREATE VIRTUAL TABLE sections USING"
            " fts5(text, source UNINDEXED, section, line UNINDEXED, tokenize='porter unicode61')"
        )
        for path in self._files():
            rows = ((part.page_content, *part.metadata.values()) for part in sections(path))
            database.executemany("INSERT INTO sections VALUES (?, ?, ?, ?)", rows)
        return database


def _metadata(source: str, section: str, line: int) -> dict[str, str | int]:
    return {"source": source, "section": section, "line": line}


def match_query(question: str) -> str:
    """Return an FTS5 query for any of a question's words, quoted so that no word is an operator."""
    words = [word for word in re.findall(r"\w+", question) if word.casefold() not in _STOP_WORDS]
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(words[:MAX_WORDS]))


class DocsRetriever(BaseRetriever):
    """A retriever of an index's sections; `ainvoke` searches in an OS thread to keep the event loop free."""

    index: DocumentIndex
    limit: int = 4

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - the base class's
    ) -> list[Document]:
        return self.index.search(query, self.limit)


documents = DocumentIndex()
