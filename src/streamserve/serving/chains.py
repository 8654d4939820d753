"""The runnables to mount for the chains of a registry, and the chains that cannot be served."""

from langgraph.pregel import Pregel

from streamserve.catalog.chain import AnyRunnable
from streamserve.catalog.registry import BrokenModule, RegisteredChain, Registry
from streamserve.graphs import graph as graphs
from streamserve.graphs.checkpoints import with_keys
from streamserve.serving.served import ServedRunnable


def serve(entry: RegisteredChain, *, keeps: bool = False) -> ServedRunnable:
    """Return the runnable to mount for a registered chain.

    Args:
        keeps: whether a graph keeps threads, once an application's `Checkpoints` adopt it. Default: it keeps nothing.
    """
    runnable = entry.runnable
    if not isinstance(runnable, Pregel):
        return _serve(entry, runnable)
    return _serve(entry, with_keys(runnable) if keeps else runnable)


def serve_all(registry: Registry, *, keeps: bool = False) -> tuple[list[ServedRunnable], tuple[BrokenModule, ...]]:
    """Return the runnables to mount, and the broken modules: those of the registry, and those without a schema.

    Args:
        keeps: as for `serve`.
    """
    chains, broken = [], list(registry.broken)
    for entry in registry.chains.values():
        try:
            served = serve(entry, keeps=keeps)
            for schema in served.request_schemas:
                schema.model_json_schema()
            chains.append(served)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            broken.append(BrokenModule.of(entry.module, error))
    return chains, tuple(broken)


def _serve(entry: RegisteredChain, runnable: AnyRunnable) -> ServedRunnable:
    return ServedRunnable(
        bound=runnable,
        served=entry,
        config_factories=[graphs.with_thread] if isinstance(runnable, Pregel) else [],
        custom_input_type=entry.chain.input_type,
        custom_output_type=entry.chain.output_type,
    )
