"""Imports the server and streams with renamed names in its dependencies: `python renamed.py PACKAGE NAME ...`.

The names are renamed in the source of the package and of those that use it, as an upstream release would do.
"""

from __future__ import annotations

import asyncio
import pkgutil
import re
import sys
import warnings
from importlib import import_module

from tests.changed_source import change

PACKAGE, *NAMES = sys.argv[1:]
# The packages that use the names of others besides their own.
FAMILY = ("langchain_core", "langchain_openai", "langgraph", "langserve")
PACKAGES = FAMILY if PACKAGE == "langchain_core" else (PACKAGE,)
OLD = re.compile(rf"\b({'|'.join(NAMES)})\b")


async def stream() -> None:
    """Show what a chain streams, observed and not, and what a ChatOpenAI does."""

    from streamserve.lcel.fast_chain import RunnableSequence, fast, pieces
    from streamserve.lcel.recorder import Recorder
    from streamserve.models.openai.chat import CompatibleChatOpenAI
    from tests.streamed_chains import TOPIC, text
    from tests.upstream.scripted import DONE, Reply, chat, scripted_server

    chain = fast(text)
    print(sorted(pieces()))
    print([chunk async for chunk in chain.astream(TOPIC)])
    print([chunk async for chunk in chain.astream(TOPIC, {"callbacks": [Recorder()]})])
    if isinstance(chain, RunnableSequence):
        print([chunk async for chunk in chain.astream_in_own_task(TOPIC, {})])
    with scripted_server(Reply([chat({"content": "Cats"}) + chat(finish="stop") + DONE])) as server:
        model = CompatibleChatOpenAI(base_url=server.base_url, api_key="-", model="gpt-4.1")
        print("".join([str(chunk.content) async for chunk in model.astream("Hi")]))
        print("".join(str(chunk.content) for chunk in model.stream("Hi")))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    change(PACKAGES, OLD, r"\1_renamed")
    package = import_module("streamserve")
    for module in pkgutil.walk_packages(package.__path__, "streamserve."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    asyncio.run(stream())
