"""What importing and constructing costs, and which way the rooms import."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import streamserve_sdk

CODE = """
import sys
from streamserve_sdk import RemoteRunnable
RemoteRunnable("https://127.0.0.1:1/joke")
heavy = {"langserve", "fastapi", "starlette", "langgraph", "uvicorn", "streamserve"} & set(sys.modules)
assert not heavy, heavy
import streamserve_sdk.transport.clients as clients
assert clients.tls_context.cache_info().currsize == 0
"""

PACKAGE = Path(streamserve_sdk.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# From the ground up: a room imports only rooms before it. `events` and `graphs` know nothing of each other.
ORDER = ("errors", "private_names", "transport", "codec", "chain_client", "graphs", "events", "runs", "remote", "")


def imported(module):
    """Return the modules of this package that a module imports: at its top, in functions and for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or ({node.module} & MODULES.keys())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found


def room(module):
    return module.partition(".")[2].partition(".")[0]


def test_import_loads_no_server_and_makes_no_tls_context():
    done = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_from_upper_rooms_to_lower_ones(module):
    for other in imported(module):
        assert ORDER.index(room(other)) <= ORDER.index(room(module)), f"{module} imports {other}"
        assert {room(module), room(other)} != {"events", "graphs"}


def test_no_modules_import_each_other_in_a_loop():
    assert list(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())


def test_no_folder_has_more_than_22_modules():
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= 22
