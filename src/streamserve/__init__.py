"""StreamServe: LangChain chains and LangGraph graphs, streamed over HTTP without losing a token."""

from streamserve.chain import Chain

__all__ = ["Chain"]
