"""The application of LangGraph's development server: the graph of the benchmarks, and the account of its process."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount

from benchmarks import workload
from benchmarks.servers.fleet import Accounts

graph = workload.graph()
accounts = Starlette()
accounts.routes.append(Mount("/bench", Accounts(None)))
