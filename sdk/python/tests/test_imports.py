"""Costs of importing the client and of making one."""

import subprocess
import sys

CODE = """
import sys
from streamserve_sdk import RemoteRunnable
RemoteRunnable("https://127.0.0.1:1/joke")
heavy = {"langserve", "fastapi", "starlette", "langgraph", "uvicorn", "streamserve"} & set(sys.modules)
assert not heavy, heavy
import streamserve_sdk.transport.clients as clients
assert clients.tls_context.cache_info().currsize == 0
"""


def test_import_loads_no_server_and_makes_no_tls_context():
    done = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
