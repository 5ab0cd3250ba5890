"""`quarterhour outbox` and `quarterhour reconcile`: charges on their way, for whoever looks after them."""

from __future__ import annotations

from contextlib import closing

import click
from sqlalchemy import func, select

from . import database
from . import outbox as charges
from .cli_serve import installed
from .outbox import State
from .worker import reconcile as compared
from .worker import work_once


@click.group()
def outbox() -> None:
    """Charges that were signed off and are on their way."""


@outbox.command("list")
def list_() -> None:
    """How many charges are in which state, and each that is not yet known to be written."""
    with closing(installed()) as here, here.engine.begin() as connection:
        table = database.charge
        for state, count in connection.execute(
            select(table.c.state, func.count()).group_by(table.c.state).order_by(table.c.state)
        ):
            click.echo(f"{count:8,} {state}")
        open_rows = connection.execute(
            select(table.c.identifier, table.c.state, table.c.attempts, table.c.updated_at)
            .where(table.c.state != State.CONFIRMED)
            .order_by(table.c.updated_at)
        )
        for row in open_rows:
            click.echo(
                f"{row.identifier}  {row.state:9}  tries {row.attempts}  {row.updated_at:%Y-%m-%d %H:%M} UTC"
            )


@outbox.command()
def send() -> None:
    """Look for and send whatever is due, once."""
    with closing(installed()) as here:
        done = work_once(here)
    click.echo(f"{done.worked_on} decisions worked on, {done.without_access} wait for somebody to sign in.")
    if done.failed:
        click.echo(f"At {done.failed} Quarterhour itself failed; the log says at which, and by what error.")


@outbox.command()
@click.option("--who", required=True, help="Who restored it.")
def restored(who: str) -> None:
    """After a restore from a backup, before `serve`: look for everything before it is sent again."""
    with closing(installed()) as here:
        done = charges.restored(here.outbox, who)
    click.echo(
        f"{done.looked_for} charges will be looked for before they are sent; {done.for_a_person} wait for a "
        "person to settle them (`quarterhour outbox list`, `quarterhour outbox settle`)."
    )


@outbox.command()
@click.argument("identifier")
@click.option("--arrived/--not-there", required=True, help="What you found on the other side.")
@click.option("--who", required=True, help="Who looked.")
@click.option("--why", required=True, help="Where, and what was seen.")
def settle(identifier: str, *, arrived: bool, who: str, why: str) -> None:
    """Settle a charge of which it is not known whether it arrived. One that is not there is sent again."""
    with closing(installed()) as here:
        settled = charges.settle_by_hand(here.outbox, identifier, arrived=arrived, who=who, why=why)
    if not settled:
        raise click.ClickException(f"There is no charge {identifier} of which it is not known if it arrived.")
    click.echo("Settled; it is in the audit trail.")


@click.command()
def reconcile() -> None:
    """Compare every charge with the EHR, and name what is lost, doubled, unknown or waiting."""
    with closing(installed()) as here:
        oddities = compared(here)
    for oddity in oddities:
        click.echo(f"{oddity.kind:10}  {oddity.charge or oddity.decision}  {oddity.says}")
    if any(oddity.kind != "not-looked" for oddity in oddities):
        raise SystemExit(1)
    click.echo(f"Nothing is lost or doubled; {len(oddities)} could not be compared.")
