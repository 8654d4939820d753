"""The campaigns' chain in an application for several workers, with the environment's settings."""

from __future__ import annotations

from langchain_core.runnables import RunnableGenerator

from streamserve import Chain
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.faults.server import Count, count

app = create_app(
    registry_of({"count": Chain(runnable=RunnableGenerator(count), input_type=Count, output_type=str)}),
    Settings(_env_file=None),
)
