"""Talk with the model: the messages so far go in, the next message comes out."""

from langchain_core.messages import AnyMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from pydantic import BaseModel, Field

from streamserve import Chain
from streamserve.models import chat_model

SYSTEM = "You are a helpful assistant. Answer briefly and plainly; say so when you do not know."


class ChatInput(BaseModel):
    messages: list[AnyMessage] = Field(description="The conversation so far, oldest first.")


prompt = ChatPromptTemplate.from_messages([("system", SYSTEM), MessagesPlaceholder("messages")])

chain = Chain(
    runnable=prompt | chat_model(),
    input_type=ChatInput,
    examples=[{"messages": [{"type": "human", "content": "What is streaming good for?"}]}],
)
