"""What can go wrong between us and a model server that LangChain has no name for."""

from langchain_core.exceptions import ModelConnectionError


class UpstreamTruncated(ModelConnectionError, ConnectionError):
    """The model server's stream stopped before the model had finished: the text so far is no answer."""
