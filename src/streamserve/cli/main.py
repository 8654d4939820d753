"""The command `streamserve` with init, new, serve, list, check and key."""

import gc
import os
import sys
from pathlib import Path
from secrets import token_urlsafe

import click

from streamserve.catalog.registry import discover
from streamserve.cli.keys import key
from streamserve.cli.startup import load_application, load_environment, read_settings
from streamserve.fast_paths import noted
from streamserve.private_names.uvicorn import CAN_BOUND_HEADS
from streamserve.settings import Settings

NO_CHAINS = "no chains here: `streamserve new NAME` writes one, `streamserve init FOLDER` writes a whole project"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamserve", message="streamserve %(version)s")
def main() -> None:
    """StreamServe: chains and graphs, streamed without losing a token."""
    # Chains are modules of the team's own application, which may not be installed.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    load_environment()


main.add_command(key)


@main.command()
@click.option("--host", help="Address to listen on [default: STREAMSERVE_HOST or 127.0.0.1].")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; 0 picks a free one [default: STREAMSERVE_PORT or 8000]."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes; several share the store in .streamserve/ [default: STREAMSERVE_WORKERS, WEB_CONCURRENCY or 1].",
)
@click.option("--dev", is_flag=True, help="Serve the chains that load, and reload on change.")
@click.option("--app", "target", help="Application to serve [default: server:app, or the chains of this folder].")
def serve(host: str | None, port: int | None, workers: int | None, dev: bool, target: str | None) -> None:
    """Serve the chains of this folder."""
    # Startup makes half a million lasting objects, and garbage collections among them cost 0.3 s. The lifespan
    # enables the collector.
    gc.disable()
    import uvicorn

    from streamserve.auth import AuthError
    from streamserve.catalog.registry import BrokenModules
    from streamserve.telemetry.logs import log_config
    from streamserve.telemetry.workers import shared_metrics

    # The worker processes of uvicorn read the same settings.
    if dev:
        os.environ["STREAMSERVE_DEV"] = "1"
    if workers is not None:
        os.environ["STREAMSERVE_WORKERS"] = str(workers)
    if host is not None:
        os.environ["STREAMSERVE_HOST"] = host
    settings = read_settings()
    processes = _workers(settings)
    _share_secret(settings, processes)
    if target is None:
        _say_if_empty(settings)
    target = target or ("server:app" if Path("server.py").exists() else "streamserve.app:create_default_app")
    is_factory = target.endswith(":create_default_app")
    try:
        with shared_metrics(settings, processes):
            # Processes that uvicorn starts import the application by its name.
            app = target if settings.dev else load_application(target, is_factory=is_factory)
            by_name = settings.dev or processes > 1
            uvicorn.run(
                target if by_name else app,
                factory=is_factory and by_name,
                host=host or settings.host,
                port=settings.port if port is None else port,
                root_path=settings.root_path,
                forwarded_allow_ips=settings.trusted_proxies,
                http="streamserve.http.protocol:BoundedHead" if CAN_BOUND_HEADS else "auto",
                workers=processes,
                reload=settings.dev,
                app_dir=str(Path.cwd()),
                log_config=log_config(settings),
            )
    except (BrokenModules, AuthError) as broken:
        raise click.ClickException(str(broken)) from None
    finally:
        gc.enable()


def _say_if_empty(settings: Settings) -> None:
    if not Path("server.py").exists() and not Path(settings.chains.replace(".", "/")).exists():
        click.echo(NO_CHAINS, err=True)


def _share_secret(settings: Settings, processes: int) -> None:
    if settings.secret is None and processes > 1:
        os.environ["STREAMSERVE_SECRET"] = token_urlsafe(32)


def _workers(settings: Settings) -> int:
    from streamserve.stores.urls import store_url, workers_of

    try:
        store_url(settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    return workers_of(settings)


@main.command("list")
def list_chains() -> None:
    """List the chains of this folder."""
    from streamserve.serving.chains import serve_all

    settings = read_settings()
    _say_if_empty(settings)
    chains, broken = serve_all(discover(settings.chains))
    entries = [served.served for served in chains]
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        click.echo(f"{entry.name:{width}}  {entry.description.splitlines()[0] if entry.description else ''}")
    for module in broken:
        click.echo(f"broken: {module}", err=True)
    if broken:
        sys.exit(1)


@main.command()
def check() -> None:
    """Verify chains, langgraph.json and OpenAPI against each other."""
    from streamserve.cli.check import check as find_problems

    problems = find_problems(Path.cwd(), read_settings())
    for path in noted():
        if not path.is_on:
            click.echo(f"fast path off: {path.name} ({path.difference}); it saves {path.saves}")
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo(f"fast paths on: {', '.join(path.name for path in noted() if path.is_on)}")
    click.echo("chains, langgraph.json and OpenAPI agree")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a new project into FOLDER: chains, tests, Dockerfile and all that `make serve` needs."""
    from streamserve.cli.project import write_project

    try:
        paths = write_project(folder)
    except (ValueError, FileExistsError) as error:
        raise click.ClickException(str(error)) from error
    for path in paths:
        click.echo(f"wrote {path}")
    click.echo(f"next: cd {folder} && make serve")


@main.command()
@click.argument("name")
@click.option("--graph", is_flag=True, help="A LangGraph graph instead of a chain.")
def new(name: str, graph: bool) -> None:
    """Write a new chain module NAME into the chains folder."""
    from streamserve.cli.scaffold import write_chain

    try:
        path = write_chain(name, Path(read_settings().chains), graph=graph)
    except (ValueError, FileExistsError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {path}; `streamserve serve` serves it under /{path.stem.replace('_', '-')}")
