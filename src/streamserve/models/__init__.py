"""Chat models: the one that the environment names, and what it is made of."""

from streamserve.models.choice import chat_model

__all__ = ["chat_model"]
