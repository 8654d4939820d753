"""The commands `streamserve key`: new, list and revoke."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamserve.settings import Settings

if TYPE_CHECKING:
    from streamserve.auth.keys import KeyFile, StoredKey

UNITS = {"h": 3600, "d": 86_400, "w": 604_800}


@click.group()
@click.option("--file", "path", type=click.Path(path_type=Path), help="File of the keys [default: STREAMSERVE_AUTH's].")
@click.pass_context
def key(context: click.Context, path: Path | None) -> None:
    """Make, list and revoke API keys."""
    kind, _, rest = Settings().auth.partition(":")
    if path is None and not (kind == "keys" and rest):
        raise click.UsageError("Name the file of the keys: --file PATH, or STREAMSERVE_AUTH=keys:PATH")
    from streamserve.auth.keys import KeyFile

    context.obj = KeyFile(path or Path(rest))


@key.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="Scope of the key; repeat it for more.")
@click.option("--expires", help="Lifetime such as 12h, 90d or 4w, or a day such as 2030-01-31.")
@click.pass_obj
def new(keys: KeyFile, name: str, scopes: tuple[str, ...], expires: str | None) -> None:
    """Make a key for the principal NAME. It is shown only once, because the file keeps only its hash."""
    try:
        click.echo(keys.add(name, scopes, _moment(expires) if expires else None))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


@key.command("list")
@click.pass_obj
def list_keys(keys: KeyFile) -> None:
    """List the keys with id, principal, scopes and end."""
    try:
        stored = keys.all()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    for one in stored:
        click.echo(f"{one.id}  {one.principal}  {','.join(one.scopes) or '-'}  {_until(one)}")


@key.command()
@click.argument("key_id")
@click.pass_obj
def revoke(keys: KeyFile, key_id: str) -> None:
    """Revoke the key KEY_ID. The server refuses it from the next request on."""
    try:
        gone = keys.revoke(key_id)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"revoked {gone.id} of {gone.principal}")


def _moment(text: str) -> float:
    if found := re.fullmatch(r"([1-9]\d{0,4})([hdw])", text):
        return time.time() + int(found[1]) * UNITS[found[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--expires: 12h, 90d, 4w or 2030-01-31, not {text}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _until(one: StoredKey) -> str:
    if one.expires_at is None:
        return "no end"
    day = datetime.fromtimestamp(one.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{'expired' if one.expired else 'until'} {day}"
