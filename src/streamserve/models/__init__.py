"""Chat models, chosen by the environment."""

from streamserve.models.choice import chat_model

__all__ = ["chat_model"]
