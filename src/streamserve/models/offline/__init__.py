"""A chat model without a key or a network, for a first look, demonstrations and tests."""

from streamserve.models.offline.model import OfflineChatModel

__all__ = ["OfflineChatModel"]
