"""Chat: messages in, message chunks out."""

from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage

from chains import chat

QUESTION = {"messages": [HumanMessage("Tell me a joke about llamas")]}


async def test_the_answer_streams_as_message_chunks() -> None:
    runnable = chat.chain.build()
    chunks = [chunk async for chunk in runnable.astream(QUESTION)]
    assert len(chunks) > 5
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert "llamas" in "".join(chunk.text for chunk in chunks)


def test_stream_and_invoke_give_the_same_text() -> None:
    runnable = chat.chain.build()
    assert "".join(chunk.text for chunk in runnable.stream(QUESTION)) == runnable.invoke(QUESTION).text


def test_the_model_reads_system_prompt_and_conversation() -> None:
    messages = chat.prompt.invoke(QUESTION).to_messages()
    assert messages == [SystemMessage(chat.SYSTEM), *QUESTION["messages"]]


def test_the_input_schema_suits_the_chat_playground() -> None:
    properties = chat.chain.build().get_input_jsonschema()["properties"]
    assert list(properties) == ["messages"]
    assert properties["messages"]["type"] == "array"
