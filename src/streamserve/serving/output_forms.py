"""Outputs that do not fit into LangServe's answer: they leave its handler as exceptions."""

from typing import Any


class BatchResults(Exception):
    """Carries the results of a batch, some of which may be exceptions."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results
        super().__init__("batch results")


class OtherOutput(Exception):
    """Carries an output in another form than the chain's own: LangServe would check it against the declared type."""

    def __init__(self, output: Any) -> None:
        self.output = output
        super().__init__("other output")


def changes_form(arguments: dict[str, Any]) -> bool:
    """Return whether a graph's output has another form with these arguments than the declared form."""
    return (
        arguments.get("stream_mode", "values") != "values"
        or arguments.get("version") == "v2"
        or "output_keys" in arguments
    )
