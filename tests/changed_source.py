"""Load dependencies with a source that was changed, as an upstream release may do."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.machinery import SourceFileLoader
from types import CodeType

load = SourceFileLoader.get_code


def change(packages: Collection[str], old: re.Pattern[str], new: str) -> None:
    """Substitute a text in the modules of these packages that are loaded from now on in this process."""

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.get_data(path).decode() if fullname.partition(".")[0] in packages else ""
        if not old.search(source):
            return load(self, fullname)
        return compile(old.sub(new, source), path, "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]
