"""Answers from documents: sources first, then an answer that cites them."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from chains import docs_qa
from chains._search import DocumentIndex

QUESTION = {"question": "How does a dropped connection resume?"}


@pytest.fixture
def index(tmp_path: Path) -> DocumentIndex:
    (tmp_path / "runs.md").write_text(
        "# Runs\n\nA run has readers.\n\n## Resume\n\nA connection resumes at its cursor.\n"
    )
    return DocumentIndex(lambda: tmp_path.glob("*.md"))


def assert_sources_then_answer(chunks: list[dict[str, Any]]) -> None:
    first, *answer = chunks
    (source,) = first["sources"]
    assert list(first) == ["sources"]
    assert isinstance(source, Document)
    assert source.metadata["section"] == "Resume"
    assert len(answer) > 5
    assert all(list(chunk) == ["answer"] for chunk in answer)
    assert "[1]" in "".join(chunk["answer"] for chunk in answer)


def test_sources_stream_before_the_answer_that_cites_them(index: DocumentIndex) -> None:
    assert_sources_then_answer(list(docs_qa.answer_from(index).stream(QUESTION)))


async def test_the_async_stream_equals_the_sync_stream(index: DocumentIndex) -> None:
    assert_sources_then_answer([chunk async for chunk in docs_qa.answer_from(index).astream(QUESTION)])


def test_the_chunks_add_up_to_the_output_of_invoke(index: DocumentIndex) -> None:
    runnable = docs_qa.answer_from(index)
    first, *rest = runnable.stream(QUESTION)
    whole = sum(rest, start=first)
    assert whole == runnable.invoke(QUESTION)


def test_without_documents_there_is_an_answer_and_no_source() -> None:
    answer = docs_qa.answer_from(DocumentIndex(list)).invoke(QUESTION)
    assert answer["sources"] == []
    assert answer["answer"]


def test_sources_are_numbered_from_one_as_they_are_cited() -> None:
    places = [{"source": f"{name}.md", "section": "Top", "line": 1} for name in "ab"]
    sources = [Document(place["source"], metadata=place) for place in places]
    text = docs_qa.numbered({"question": "?", "sources": sources})
    assert text.index("[1] a.md") < text.index("[2] b.md")


def test_the_declared_chain_searches_the_repository() -> None:
    assert set(docs_qa.chain.build().invoke(docs_qa.chain.examples[0])) == {"sources", "answer"}
