"""The JSON in a model's text: with white space and backticks around it, or in a code block after an introduction."""

import re

from streamserve.lcel.json_growth import JsonGrowth, Unusual

# The characters that langchain-core strips from both ends, after white space.
_STRIPPED = " \n\r\t`"
_FENCE, _LANGUAGE = "```", "json"
# With one of these, langchain-core may find other JSON before the block.
_JSON_BEFORE, _MARKS = re.compile(r"[-0-9]|true|false|null|NaN|Infinity"), re.compile(r'[][{}"]')


class JsonText:
    """The value in a text that arrives in pieces, as langchain-core's `parse_json_markdown` sees it after each."""

    def __init__(self) -> None:
        self.growth = JsonGrowth()
        self._has_begun = False
        # The text before the JSON; later the end of the text that would be stripped if nothing follows.
        self._waiting = ""

    def feed(self, piece: str) -> None:
        """Read the next piece.

        Raises:
            Unusual: langchain-core must be asked.
            ValueError: a number has too many digits.
        """
        text = self._waiting + piece
        if not self._has_begun:
            start = _start_of_json(text)
            self._has_begun, text = start is not None, text[start or 0 :]
        if not self._has_begun:
            self._waiting = text
            return
        kept = text.rstrip().rstrip(_STRIPPED)
        self._waiting = text[len(kept) :]
        self.growth.feed(kept)


def _start_of_json(text: str) -> int | None:
    """Return the place where the JSON in a text begins, or None if it has not begun."""
    whole = text.lstrip()
    body = whole.lstrip(_STRIPPED)
    if not body:
        return None
    if body[0] in "{[":
        return len(text) - len(body)
    before, fence, block = whole.partition(_FENCE)
    if _JSON_BEFORE.match(body) or _MARKS.search(before):
        raise Unusual
    if not fence or _LANGUAGE.startswith(block):
        return None
    block = block.removeprefix(_LANGUAGE).lstrip(_STRIPPED)
    if block and block[0] not in "{[":
        raise Unusual
    return len(text) - len(block) if block else None
