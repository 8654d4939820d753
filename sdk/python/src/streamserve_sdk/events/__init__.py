"""Tell events and callbacks of a remote chain as LangChain and LangGraph tell their own."""
