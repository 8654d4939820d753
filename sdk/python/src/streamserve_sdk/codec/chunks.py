"""The chunks of one stream, from its blocks."""

from collections.abc import Callable
from typing import Any

from streamserve_sdk.codec.json_text import parse
from streamserve_sdk.codec.patches import Snapshot
from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.codec.shapes import with_types
from streamserve_sdk.errors import ProtocolError
from streamserve_sdk.transport.session import StreamSession
from streamserve_sdk.transport.sse import ServerSentEvent


class Chunks:
    """The chunks of one stream, each of a block and of the chunk before.

    Args:
        serializer: the serializer of the chunks.
        shape: a function that is applied to each chunk.
        session: the session of the stream, which an error names.
    """

    def __init__(self, serializer: Serializer, shape: Callable[[Any], Any], session: StreamSession) -> None:
        """Start before the first block."""
        self._serializer, self._shape, self._session, self._snapshot = serializer, shape, session, Snapshot()

    def of(self, block: ServerSentEvent) -> Any:
        """Return the chunk of the next block.

        Raises:
            ProtocolError: the block does not hold a chunk.
        """
        try:
            if block.event == "patch":
                return self._after(block)
            return with_types(self._shape, block.types)(self._decoded(block))
        except ValueError as error:
            raise ProtocolError(f"a block has no JSON: {error}", position=self._session.position) from error

    def _after(self, patch: ServerSentEvent) -> Any:
        value = self._snapshot.after(parse(patch.data, patch.types and parse(patch.types)))
        # A patch never holds values of the wire's own types.
        return value if isinstance(self._serializer, WireSerializer) else self._serializer.loadd(value)

    def _decoded(self, block: ServerSentEvent) -> Any:
        if block.types and isinstance(self._serializer, WireSerializer):
            types = parse(block.types)
            return self._serializer.loadd(parse(block.data, types), types)
        return self._serializer.loads(block.data)
