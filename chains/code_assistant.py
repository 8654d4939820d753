"""Get help with code while you write it: language, code and explanation grow as they stream."""

from typing import Annotated

from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.models import chat_model

SYSTEM = (
    "You help a programmer at the keyboard. Change or complete the code in the editor as asked and keep its "
    "style. Give the whole new code, runnable as it is, then explain in two sentences what you did and why."
)


class CodeRequest(BaseModel):
    request: str = Field(description="Request to write, change or explain code.", examples=["Add type hints"])
    code: str = Field("", description="Code in the editor; empty for new code.")
    language: str = Field("Python", description="The programming language.")


class CodeAnswer(TypedDict):
    """Code for the programmer's editor."""

    language: Annotated[str, ..., "The programming language of the code."]
    code: Annotated[str, ..., "The whole new content of the editor."]
    explanation: Annotated[str, ..., "The changes and their reasons, in two sentences."]


prompt = ChatPromptTemplate.from_messages(
    [("system", SYSTEM), ("human", "Request: {request}\nLanguage: {language}\nIn the editor:\n{code}")]
).partial(code="", language="Python")

chain = Chain(
    runnable=prompt | chat_model().with_structured_output(CodeAnswer),
    input_type=CodeRequest,
    output_type=CodeAnswer,
    examples=[
        {"request": "Write a function that reverses a string"},
        {"request": "Add type hints", "code": "def add(a, b):\n    return a + b\n", "language": "Python"},
    ],
)
