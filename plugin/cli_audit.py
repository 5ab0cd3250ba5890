"""The audit trail from the command line."""

from __future__ import annotations

from contextlib import closing

import click
import msgspec

from . import audit as trail
from . import database
from .cli_serve import installed


@click.group()
def audit() -> None:
    """The audit trail."""


@audit.command()
def head() -> None:
    """Print the last entry's number and hash. Keep it elsewhere, and give it to verify later."""
    here = installed()
    with here.engine.begin() as connection:
        click.echo(trail.head(connection))
    here.close()


@audit.command("list")
def list_() -> None:
    """Print every entry of every EHR, and those of none, the oldest first: one JSON object a line.

    They name people and patients; in the browser, administrators read those of their own EHR.
    """
    with closing(installed()) as here, database.reading(here.engine) as connection:
        for entry in trail.told(connection, here.vault):
            click.echo(msgspec.json.encode(entry))


@audit.command()
@click.option("--head", "kept", metavar="NUMBER:HASH", help="A head printed earlier: finds a cut-off end.")
def verify(kept: str | None) -> None:
    """Check that no entry was edited, removed or moved, and no decision or charge that one vouches for."""
    here = installed()
    try:
        with here.engine.begin() as connection:
            broken = trail.broken_at(connection, here.vault, kept)
            count = trail.head(connection).partition(":")[0]
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    finally:
        here.close()
    if broken is not None:
        raise click.ClickException(f"The trail is broken at entry {broken}.")
    click.echo(f"{count} entries, unbroken.")
