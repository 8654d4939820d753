"""Tell a short joke about a topic."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from streamserve import Chain
from streamserve.models import chat_model


class JokeInput(BaseModel):
    topic: str = Field(description="Topic of the joke.", examples=["a programmer"])


prompt = ChatPromptTemplate.from_template("Tell me a short joke about {topic}.")

chain = Chain(
    runnable=prompt | chat_model() | StrOutputParser(),
    input_type=JokeInput,
    examples=[{"topic": "a programmer"}],
)
