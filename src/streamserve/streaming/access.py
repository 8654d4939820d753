"""What a request has to do with runs: who asks, where the runs are, and under which path they answer."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from streamserve.streaming.runs import Runs

# Who asks when no guard says it: one caller for all.
ANONYMOUS = "anonymous"


def principal_of(request: Request) -> str:
    """Who asks, as the guard has found out (`request.state.principal`)."""
    # As `request.state` has it, which raises and catches where there is none.
    return cast(str, request.scope.get("state", {}).get("principal", ANONYMOUS))


def runs_of(request: Request) -> Runs:
    """The application's runs."""
    return cast(Runs, request.app.state.runs)


def runs_base(request: Request, run_id: str) -> str:
    """The path of a run as the caller sees it, behind whatever proxy."""
    return f"{request.scope.get('root_path', '').rstrip('/')}/runs/{run_id}"
