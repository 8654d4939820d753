"""What `streamserve new` writes."""

from __future__ import annotations

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
    text: str = Field(description="What to work on.")


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
    """Writes a chain module that works at once.

    Args:
        name: of the module; dashes become underscores.
        folder: of the chains; made if it is missing.
        graph: a LangGraph graph instead of an LCEL chain.

    Returns:
        The file's path.

    Raises:
        ValueError: the name does not fit a module, or is the server's own.
        FileExistsError: there is such a module.
    """
    module = name.strip().lower().replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise ValueError(f"{name!r} does not fit a module: letters, digits and _, beginning with a letter")
    if module.replace("_", "-") in RESERVED_NAMES:
        raise ValueError(f"the name {name!r} is the server's own")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}.py"
    if (folder / module).exists():
        raise FileExistsError(f"{folder / module} exists already")
    words = module.split("_")
    text = (GRAPH if graph else CHAIN).format(
        title=" ".join(words).capitalize(), model="".join(word.capitalize() for word in words)
    )
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
