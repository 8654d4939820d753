"""Ask about StreamServe: the sources arrive first, then an answer that cites them as [1], [2]."""

from operator import itemgetter
from typing import Any

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnablePassthrough
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from chains._search import DocsRetriever, DocumentIndex, documents
from streamserve import Chain
from streamserve.models import chat_model

SYSTEM = (
    "Answer from the numbered sources only and cite each fact with its number, like [1] or [2]. "
    "When the sources do not hold the answer, say so and cite nothing.\n\nSources:\n{context}"
)


class DocsQuestion(BaseModel):
    question: str = Field(description="A question about StreamServe.", examples=["How do I write a chain?"])


class CitedAnswer(TypedDict):
    sources: list[Document]
    answer: str


def numbered(retrieved: dict[str, Any]) -> str:
    """Return the sources as text for the model, numbered from 1 for citations."""
    parts = (
        f"[{number}] {source.page_content}\n(from {source.metadata['source']}, {source.metadata['section']})"
        for number, source in enumerate(retrieved["sources"], 1)
    )
    return "\n\n".join(parts) or "(none found)"


prompt = ChatPromptTemplate.from_messages([("system", SYSTEM), ("human", "{question}")])
answer = RunnablePassthrough.assign(context=numbered) | prompt | chat_model() | StrOutputParser()


def answer_from(index: DocumentIndex) -> Runnable[Any, Any]:
    """Return a chain that answers from an index."""
    question = itemgetter("question")
    retrieve = RunnableParallel(question=question, sources=question | DocsRetriever(index=index))
    return retrieve | RunnablePassthrough.assign(answer=answer).pick(["sources", "answer"])


chain = Chain(
    runnable=answer_from(documents),
    input_type=DocsQuestion,
    output_type=CitedAnswer,
    examples=[
        {"question": "How do I write a chain?"},
        {"question": "What does streaming change for a reader?"},
    ],
)
