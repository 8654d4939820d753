"""Research a question with tools: an agent that searches the documents and calculates until it can answer."""

from langchain_core.messages import AnyMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from chains._calculator import CalculationError, evaluate
from chains._search import documents
from streamserve import Chain
from streamserve.models import chat_model

SYSTEM = (
    "You research questions about StreamServe. Search the documents before you answer and name the files you "
    "used; use the calculator for every calculation. Say so when the documents do not hold the answer."
)
MAX_STEPS = 16  # of the graph: eight rounds of tools, which stops a model that never answers


@tool
def search_docs(query: str) -> str:
    """Search StreamServe's documents for a few words; gives the sections that fit best."""
    found = documents.search(query)
    return "\n\n".join(f"{part.metadata['source']}: {part.page_content}" for part in found) or "Nothing found."


@tool
def calculator(expression: str) -> str:
    """Calculate an arithmetic expression such as (17 + 4) * 2; knows + - * / // % ** and parentheses."""
    try:
        return str(evaluate(expression))
    except CalculationError as error:
        raise ToolException(f"cannot calculate {expression!r}: {error}") from error


def explain(error: ToolException) -> str:
    """Return the model's message for refused arguments; any other error is a bug and ends the run."""
    return f"Error: {error}"


def conversation(state: MessagesState) -> list[AnyMessage]:
    """Return the model's input."""
    return [SystemMessage(SYSTEM), *state["messages"]]


def as_update(message: AnyMessage) -> MessagesState:
    """Return the model's message as an update of the state."""
    return {"messages": [message]}


tools = [search_docs, calculator]
model = chat_model().bind_tools(tools)

graph = (
    StateGraph(MessagesState)
    .add_node("agent", RunnableLambda(conversation) | model | as_update)
    .add_node("tools", ToolNode(tools, handle_tool_errors=explain))
    .add_edge(START, "agent")
    .add_conditional_edges("agent", tools_condition)
    .add_edge("tools", "agent")
    .compile(name="research_agent")
    .with_config(recursion_limit=MAX_STEPS)
)

chain = Chain(
    runnable=graph,
    examples=[
        {"messages": [{"type": "human", "content": "What is 17 * 24?"}]},
        {"messages": [{"type": "human", "content": "Search the docs: what is a chain module?"}]},
    ],
)
