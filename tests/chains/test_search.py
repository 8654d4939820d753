"""The document index: finds sections, whatever the question contains, from any thread."""

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains._search import MAX_WORDS, DocsRetriever, DocumentIndex, match_query

STREAMING = """# Streaming

Tokens arrive while the model writes.

## Resume

A dropped connection resumes at its cursor.

```sh
# not a heading
curl localhost
```

## Empty
"""


@pytest.fixture
def index(tmp_path: Path) -> DocumentIndex:
    (tmp_path / "streaming.md").write_text(STREAMING)
    (tmp_path / "chains.md").write_text("One file is one chain.\n")
    return DocumentIndex(lambda: sorted(tmp_path.glob("*.md")))


def test_a_question_finds_the_section_with_its_place(index: DocumentIndex) -> None:
    (found,) = index.search("How does a connection resume?")
    assert found.metadata == {"source": "streaming.md", "section": "Resume", "line": 5}
    assert "cursor" in found.page_content
    assert "# not a heading" in found.page_content


def test_words_are_found_in_other_forms(index: DocumentIndex) -> None:
    assert index.search("resuming connections")[0].metadata["section"] == "Resume"


def test_a_file_without_headings_is_found_under_its_name(index: DocumentIndex) -> None:
    assert index.search("chain")[0].metadata == {"source": "chains.md", "section": "chains", "line": 1}


def test_a_search_returns_at_most_k_sections(index: DocumentIndex) -> None:
    assert len(index.search("chain connection tokens")) == 3
    assert len(index.search("chain connection tokens", limit=2)) == 2


def test_a_question_of_stop_words_only_finds_nothing(index: DocumentIndex) -> None:
    assert index.search("What is it?") == []


def test_without_documents_nothing_is_found() -> None:
    assert DocumentIndex(list).search("anything") == []


def test_files_are_read_once_at_the_first_search(tmp_path: Path) -> None:
    reads = []

    def files() -> Iterable[Path]:
        reads.append(1)
        return []

    index = DocumentIndex(files)
    assert reads == []
    index.search("first")
    index.search("second")
    assert reads == [1]


@pytest.mark.parametrize(
    "question", ['"', "a* OR", "NEAR(resume cursor, 2)", "text:resume", "x AND NOT", "resume\x00", "\ud800"]
)
def test_query_syntax_in_a_question_has_no_meaning(index: DocumentIndex, question: str) -> None:
    index.search(question)


def test_a_keyword_of_the_query_language_is_a_word_like_others() -> None:
    assert match_query('cursor NOT "text" col:x*') == '"cursor" OR "NOT" OR "text" OR "col" OR "x"'


@given(st.text())
def test_any_text_can_be_searched(question: str) -> None:
    assert DocumentIndex(list).search(question) == []


def test_a_long_question_is_cut() -> None:
    assert match_query(" ".join(f"word{n}" for n in range(1000))).count('"') == 2 * MAX_WORDS


def test_threads_share_one_index(index: DocumentIndex) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(index.search, ["resume"] * 50))
    assert {tuple(part.metadata["section"] for part in parts) for parts in found} == {("Resume",)}


def test_two_first_searches_at_once_read_the_files_once() -> None:
    reads, both_reading = [], threading.Barrier(2)

    def files() -> Iterable[Path]:
        reads.append(1)
        with suppress(threading.BrokenBarrierError):
            both_reading.wait(0.3)
        return []

    index = DocumentIndex(files)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(index.search, ["first", "second"]))
    assert reads == [1]


async def test_the_event_loop_is_free_while_a_search_waits() -> None:
    entered, release = threading.Event(), threading.Event()

    def files() -> Iterable[Path]:
        entered.set()
        assert release.wait(10)
        return []

    search = asyncio.create_task(DocsRetriever(index=DocumentIndex(files)).ainvoke("anything"))
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(entered.wait, 10)
        assert not search.done()
        release.set()
        assert await search == []
