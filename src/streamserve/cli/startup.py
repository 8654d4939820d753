"""The preparations of a command: the variables of `.env`, valid settings, and an application that loads."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
from dotenv import load_dotenv
from pydantic import ValidationError
from pydantic_settings import SettingsError

from streamserve.settings import Settings


def load_environment() -> None:
    """Put the variables of `.env` in this folder into the environment, as langgraph.json does for LangGraph's server.

    Chains, models and LangSmith read them there. A variable that is set already keeps its value.
    """
    load_dotenv(Path.cwd() / ".env")


def read_settings() -> Settings:
    """Return the settings.

    Raises:
        click.ClickException: a setting is invalid; the message is one line that names each invalid variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        found = (f"STREAMSERVE_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors())
        raise click.ClickException("; ".join(found)) from None
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def load_application(target: str, *, is_factory: bool) -> Any:
    """Return the application that a target `MODULE:NAME` names, ready to be served.

    Worker processes load it again; here a broken chain or a refused address ends the command once, where workers would
    be started again and again.

    Raises:
        click.ClickException: there is no such module or name.
        BrokenModules: a chain does not load.
        AuthError: without authentication, other machines reach the server's address.
    """
    from fastapi import FastAPI  # here, because `streamserve list` needs no server

    from streamserve.api.services import find_services

    try:
        app = resolve_name(target)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise click.ClickException(f"--app {target}: {error}") from None
    if is_factory:
        app = app()
    services = find_services(app) if isinstance(app, FastAPI) else None
    if services is not None:
        services.auth.require_private()
    return app
