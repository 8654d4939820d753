"""Templates of `streamserve new`."""

import keyword
import re
from pathlib import Path

from streamserve.catalog.registry import RESERVED_NAMES

CHAIN = '''"""{title}."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from streamserve import Chain
from streamserve.models import chat_model


class {model}Input(BaseModel):
    text: str = Field(description="Text to work on.")


prompt = ChatPromptTemplate.from_template("{title}: {{text}}")

chain = Chain(
    runnable=prompt | chat_model() | StrOutputParser(),
    input_type={model}Input,
    examples=[{{"text": "Hello"}}],
)
'''

GRAPH = '''"""{title}."""

from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from streamserve.models import chat_model

model = chat_model()


async def respond(state: MessagesState) -> dict[str, list[object]]:
    return {{"messages": [await model.ainvoke(state["messages"])]}}


graph = StateGraph(MessagesState).add_node(respond).add_edge(START, "respond").compile()

chain = Chain(runnable=graph, examples=[{{"messages": [{{"type": "human", "content": "Hello"}}]}}])
'''


def write_chain(name: str, folder: Path, *, graph: bool = False) -> Path:
    """Write a chain module that works without changes.

    Args:
        name: name of the module; dashes become underscores.
        folder: folder of the chains, created if it is missing.
        graph: whether to write a LangGraph graph instead of an LCEL chain (default false).

    Returns:
        The file's path.

    Raises:
        ValueError: the name is not valid for a module, or is reserved for the server.
        FileExistsError: the module exists.
    """
    module = name.strip().lower().replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise ValueError(f"{name!r} is not a valid module name: use letters, digits and _, and begin with a letter")
    if module.replace("_", "-") in RESERVED_NAMES:
        raise ValueError(f"the name {name!r} is reserved for the server")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}.py"
    if (folder / module).exists():
        raise FileExistsError(f"{folder / module} already exists")
    words = module.split("_")
    text = (GRAPH if graph else CHAIN).format(
        title=" ".join(words).capitalize(), model="".join(word.capitalize() for word in words)
    )
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
