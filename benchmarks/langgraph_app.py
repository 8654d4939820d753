"""What LangGraph's development server is given: the graph of the benchmarks, and an account of the process."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount

from benchmarks import workload
from benchmarks.servers import Accounts

graph = workload.graph()
accounts = Starlette()
accounts.routes.append(Mount("/bench", Accounts(None)))
