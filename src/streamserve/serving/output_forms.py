"""Outputs for which LangServe's answer has no place: they leave its handler as exceptions."""

from __future__ import annotations

from typing import Any


class BatchResults(Exception):
    """Results among which may be exceptions, for which LangServe's answer has no place.

    Args:
        results: outputs and exceptions, in the order of the inputs.
    """

    def __init__(self, results: list[Any]) -> None:
        self.results = results
        super().__init__("batch results")


class OtherOutput(Exception):
    """An output in another form than the chain's own, which LangServe would check against the declared type.

    Args:
        output: chunks of a stream mode, or LangGraph's `GraphOutput`.
    """

    def __init__(self, output: Any) -> None:
        self.output = output
        super().__init__("other output")


def changes_form(arguments: dict[str, Any]) -> bool:
    """Whether a graph's output has another form with these arguments than the declared one."""
    return (
        arguments.get("stream_mode", "values") != "values"
        or arguments.get("version") == "v2"
        or "output_keys" in arguments
    )
