"""The chat model that needs no key and no network: for a first look, for demonstrations and for tests."""

from streamserve.models.offline.model import OfflineChatModel

__all__ = ["OfflineChatModel"]
