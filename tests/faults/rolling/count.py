"""A chain that counts in bursts."""

from langchain_core.runnables import RunnableGenerator

from streamserve import Chain
from tests.faults import server

chain = Chain(runnable=RunnableGenerator(server.count), input_type=server.Count, output_type=str)
