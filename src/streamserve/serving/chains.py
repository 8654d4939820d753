"""The runnables to mount for the chains of a registry, and the chains that cannot be served."""

from langgraph.pregel import Pregel

from streamserve.catalog.chain import AnyRunnable
from streamserve.catalog.registry import BrokenModule, RegisteredChain, Registry
from streamserve.graphs import graph as graphs
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.serving.served import ServedRunnable


def serve(entry: RegisteredChain, checkpoints: Checkpoints | None = None) -> ServedRunnable:
    """Return the runnable to mount for a registered chain; without `checkpoints`, graphs keep nothing."""
    return _serve(entry, _bind(entry.runnable, checkpoints))


def serve_all(
    registry: Registry, checkpoints: Checkpoints | None = None
) -> tuple[list[ServedRunnable], tuple[BrokenModule, ...]]:
    """Return the runnables to mount, and the broken modules: those of the registry, and those without a schema.

    Args:
        checkpoints: the checkpoints of the graphs; None: graphs keep nothing (default).

    Raises:
        ValueError: a graph needs another place for its checkpoints.
    """
    chains, broken = [], list(registry.broken)
    for entry in registry.chains.values():
        runnable = _bind(entry.runnable, checkpoints)
        try:
            served = _serve(entry, runnable)
            for schema in served.request_schemas:
                schema.model_json_schema()
            chains.append(served)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            broken.append(BrokenModule.of(entry.module, error))
    return chains, tuple(broken)


def _bind(runnable: AnyRunnable, checkpoints: Checkpoints | None) -> AnyRunnable:
    return checkpoints.bind(runnable) if checkpoints is not None and isinstance(runnable, Pregel) else runnable


def _serve(entry: RegisteredChain, runnable: AnyRunnable) -> ServedRunnable:
    return ServedRunnable(
        bound=runnable,
        served=entry,
        config_factories=[graphs.with_thread] if isinstance(runnable, Pregel) else [],
        custom_input_type=entry.chain.input_type,
        custom_output_type=entry.chain.output_type,
    )
