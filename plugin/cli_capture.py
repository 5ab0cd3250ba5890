"""`quarterhour capture`: every visit of some days onto the worklist, as when capture is switched on late."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from datetime import date, datetime
from zoneinfo import ZoneInfo

import click

from ..launch.errors import UnknownIssuer
from ..launch.issuers import Issuer
from . import jobs
from .capture import TOLD_AFTER, Stopped
from .cli_serve import installed, log_as_json
from .installation import Installation
from .jobs import Job, Kind
from .worker import work_job

SOME_UNREAD = 3
INTERRUPTED = 130  # as shells say of a command that was stopped by Ctrl-C
TELL_EVERY = 5.0  # seconds
_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--issuer", "iss", required=True, help="The EHR's FHIR base, as in the issuers file.")
@click.option("--since", type=_DAY, required=True, help="The first day of the visits.")
@click.option("--until", type=_DAY, help="The last day of the visits; today if not given.")
def capture(iss: str, since: datetime, until: datetime | None) -> None:
    """Read every visit of these days and put it on the worklist. Nothing is charged.

    Stopped or killed, the same command goes on where it was. It ends with 0 when every visit was read, with 3
    when some could not be (they stand on the worklist with the reason, and are tried again by
    `quarterhour serve`), with 1 when it could not begin, and with 130 when it was interrupted.
    """
    log_as_json()
    with closing(installed()) as here:
        issuer = _issuer(here, iss)
        last = until.date() if until else here.clock().astimezone(ZoneInfo(issuer.time_zone)).date()
        if last < since.date():
            raise click.UsageError("--until lies before --since.")
        stop = _stopped_by_signals()
        _ask(here, issuer, since.date(), last)
        ended = _work(here, issuer, stop)
    if not ended:
        click.echo("Stopped. The same command goes on from here.")
        raise SystemExit(INTERRUPTED)


def _issuer(here: Installation, iss: str) -> Issuer:
    try:
        issuer = here.issuers.match(iss)
    except UnknownIssuer as error:
        raise click.ClickException(str(error)) from None
    if issuer.backend is None:
        raise click.ClickException(
            f"Nobody is at the screen, so this needs a backend client: add a table [issuers.{issuer.id}.backend]."
        )
    return issuer


def _stopped_by_signals() -> threading.Event:
    """Set by Ctrl-C or a polite kill: the step at hand is finished, and the visit given back."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stop.set())
    return stop


def _ask(here: Installation, issuer: Issuer, first: date, last: date) -> None:
    """Asks for these days, or goes on with what an earlier command of the same days left."""
    about = f"{first}/{last}"
    with here.engine.begin() as connection:
        if jobs.is_asked(connection, here.vault, Kind.RANGE, issuer.iss, about):
            id_ = jobs.job_id(here.vault, Kind.RANGE, issuer.iss, about)
            jobs.try_again(connection, issuer.iss, here.clock(), id_)
            click.echo(f"Going on with the visits of {first} to {last}.")
        else:
            jobs.ask(connection, here.vault, Kind.RANGE, issuer.iss, about, here.clock())
            click.echo(f"Looking for the visits of {first} to {last}.")


def _work(here: Installation, issuer: Issuer, stop: threading.Event) -> bool:
    """Until nothing is left but what stands on the worklist as unread; False: it was told to stop."""

    def go_on() -> None:
        if stop.is_set():
            raise Stopped

    read, told_at = 0, time.monotonic()
    while not stop.is_set():
        job = work_job(here, go_on, only=issuer.iss)
        with here.engine.begin() as connection:
            left = jobs.left(connection, issuer.iss, here.clock(), fewer_attempts_than=TOLD_AFTER)
            unread = jobs.left(connection, issuer.iss, here.clock()) - left
            gave_up = jobs.queue(connection, here.clock(), issuer.iss).given_up
        read += _is_visit(job)
        if not left:
            click.echo(f"{read:,} visits read.")
            _tell_unread(unread + gave_up)
            return True
        if time.monotonic() - told_at > TELL_EVERY:
            told_at = time.monotonic()
            click.echo(f"{read:,} visits read, {left:,} to go.")
        if job is None:
            stop.wait(min(1.0, here.capturing[issuer.id].spacing.total_seconds()))
    return False


def _is_visit(job: Job | None) -> bool:
    return job is not None and job.kind is Kind.CAPTURE


def _tell_unread(count: int) -> None:
    if count:
        click.echo(
            f"{count:,} could not be read. They are on the worklist with the reason, and under Administration."
        )
        raise SystemExit(SOME_UNREAD)
