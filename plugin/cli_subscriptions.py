"""`quarterhour subscriptions`: has an EHR tell us of visits that end, and shows whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime

import click

from ..fhir.errors import EhrError
from ..fhir.subscriptions import Kind
from ..launch.errors import LaunchRefused
from ..launch.issuers import Issuer
from . import subscriptions as kept
from .cli_serve import installed
from .installation import Installation
from .presenters import plural
from .subscriptions import NotSubscribed, Subscription

ISSUER = click.option("--issuer", "iss", required=True, metavar="URL", help="The EHR's FHIR base address.")


@click.group()
def subscriptions() -> None:
    """EHRs that tell Quarterhour when a visit ends, so that its suggestion waits at once."""


@subscriptions.command()
@ISSUER
@click.option("--topic", metavar="CANONICAL", help="The EHR's own topic for the end of a visit.")
@click.option(
    "--criteria", metavar="SEARCH", help="R4's kind instead, for example Encounter?status=finished."
)
def create(iss: str, topic: str | None, criteria: str | None) -> None:
    """Ask an EHR to tell when a visit ends. Which kind it offers is read from it, unless named here.

    A subscription that is in error there is taken back and made anew.
    """
    if topic and criteria:
        raise click.UsageError("--topic and --criteria are two kinds of subscription: name one.")
    kind: Kind | None = "topic" if topic else "criteria" if criteria else None
    with _at(iss) as (here, issuer):
        made = kept.subscribe(here, issuer, kind, topic or criteria)
        click.echo(f"Asked {issuer.name} for a subscription by {made.kind}: {made.criteria}")
        if made.problem:
            click.echo(f"It is not known whether the EHR made it. {made.problem}")
            click.echo(
                "Quarterhour looks for it by itself; `quarterhour subscriptions status` says what it found."
            )
            raise SystemExit(1)
        click.echo(
            "It is looked at again in a few seconds; `quarterhour subscriptions status` says how it stands."
        )


@subscriptions.command()
@ISSUER
@click.option("--offline", is_flag=True, help="Only what is known here; the EHR is not asked.")
def status(iss: str, *, offline: bool) -> None:
    """Ask the EHR how its subscription stands, and say what came of it here. Ends with 1 where a person is needed."""
    with _at(iss) as (here, issuer):
        found = kept.known(here, issuer)
        if not found:
            click.echo(f"There is no subscription at {issuer.name}.")
            raise SystemExit(1)
        wrong = False
        for one in found:
            try:
                now = one if offline else kept.check(here, issuer, one)
                unasked = ""
            except EhrError as error:
                now, unasked = one, kept.in_words(error)
            click.echo("\n".join(said(now, here.clock())))
            if unasked:
                click.echo(f"  The EHR could not be asked just now: {unasked}")
            wrong = wrong or bool(unasked) or now.needs_a_person(here.clock())
        if wrong:
            raise SystemExit(1)


@subscriptions.command()
@ISSUER
def delete(iss: str) -> None:
    """Take the subscription back at the EHR, and stop taking its notifications."""
    with _at(iss) as (here, issuer):
        found = kept.known(here, issuer)
        for one in found:
            kept.unsubscribe(here, issuer, one)
        click.echo(f"{plural(len(found), 'subscription')} at {issuer.name} taken back.")


def said(one: Subscription, now: datetime) -> Iterator[str]:
    """How a subscription stands, in lines."""
    yield f"Subscription/{one.ehr_id or '(its id is not known)'} by {one.kind}: {one.criteria}"
    yield f"  the EHR says:       {one.status}, asked {_ago(one.checked_at, now)}"
    if one.kind == "topic":
        yield f"  events taken:       all up to number {one.through}"
        if one.ahead:
            missing = one.ahead[-1] - one.through - len(one.ahead)
            yield f"  missing:            {plural(missing, 'event')} before number {one.ahead[-1]}; the EHR is asked"
    yield f"  last visit told of: {_ago(one.event_at, now)}"
    silent = "; that is too long ago for its heartbeat" if one.is_silent(now) else ""
    yield f"  last heard of:      {_ago(one.heard_at, now)}{silent}"
    if one.problem:
        yield f"  {one.problem}"


def _ago(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "never"
    seconds = max(0, int((now - at).total_seconds()))
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s ago"
    return f"{plural(seconds, 'second')} ago"


@contextmanager
def _at(iss: str) -> Iterator[tuple[Installation, Issuer]]:
    """The installation and its EHR of that address; what goes wrong with either ends the command."""
    with closing(installed()) as here:
        try:
            yield here, here.issuers.match(iss)
        except LaunchRefused as error:
            raise click.ClickException(" ".join(filter(None, [error.message, error.advice]))) from None
        except NotSubscribed as error:
            raise click.ClickException(str(error)) from None
        except EhrError as error:
            raise click.ClickException(kept.in_words(error)) from None
