"""Asking an EHR which visits there are to capture: what changed since the last time, or those of some days.

Each page is on record before the next is asked for, so that a look goes on where it was interrupted. What was
seen counts only once every page was read: until then the watermark stays where it is, and the next look
covers the same time again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import structlog
from sqlalchemy import Connection, select, update

from ..fhir.errors import EhrError, NotAuthorized, RateLimited, Refused, ServerFailed
from ..fhir.moments import moment
from ..fhir.normalise import NO_VISIT
from ..fhir.server import Page, Server
from ..fhir.views import Encounter, Procedure, bare, resources
from ..launch.issuers import Issuer
from . import database, jobs
from .capture import FINISHED, GoOn, backend_server
from .installation import Installation
from .jobs import Job, Kind

log = structlog.get_logger()

# What changed shortly before the last look is asked for again: the EHR's clock is not ours, and its index lags.
OVERLAP = timedelta(minutes=10)
FIRST_LOOK = timedelta(days=1)
MOST_PAGES = 100_000
_DAY = timedelta(days=1)


class Progress(msgspec.Struct, frozen=True):
    """Where a look goes on: among which resources, on which page; and when it began."""

    among: str
    at: str | None
    began: datetime


def schedule(here: Installation) -> None:
    """Asks for a look at every EHR that is to be polled and has none before it.

    One that was given up is tried once an interval: an EHR that comes back in the morning is looked through
    with nobody asking for it. Until then administrators see that it was given up, and why.
    """
    for issuer in here.issuers:
        minutes = here.capturing[issuer.id].poll_minutes
        if issuer.backend is None or minutes is None:
            continue
        what, now = (Kind.LOOK, issuer.iss, issuer.iss), here.clock()
        with here.engine.begin() as connection:
            if jobs.is_asked(connection, here.vault, *what):
                after = timedelta(minutes=minutes)
                jobs.once_more(connection, here.vault, *what, now=now, after=after)
            else:
                jobs.ask(connection, here.vault, *what, now)


def look(here: Installation, issuer: Issuer, job: Job, go_on: GoOn) -> None:
    """Asks for the capture of every visit that ended, or whose services changed, since the watermark.

    Raises ``EhrError``, ``LaunchRefused`` and ``LeaseLost``; the next attempt goes on with the same page.
    """
    progress = _progress(here, job)
    since = (_watermark(here, issuer) or progress.began - FIRST_LOOK) - OVERLAP
    # The newest first: what changes while we look moves to the front, so nothing slips past us to a page
    # that was read already.
    asked = {"_lastUpdated": f"ge{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "_sort": "-_lastUpdated"}
    server = backend_server(here, issuer, max_pages=MOST_PAGES)
    if progress.among == "Encounter":
        for page in _pages(here, issuer, server, job, progress, asked):
            go_on()
            found = [reference for reference, each in _encounters(page) if _matters(each)]
            _note(here, issuer, job, found, Progress("Encounter", page.next, progress.began))
        progress = Progress("Procedure", None, progress.began)
    nothing_yet = progress.at is None
    try:
        for page in _pages(here, issuer, server, job, progress, asked):
            go_on()
            nothing_yet = False
            _note(
                here, issuer, job, _visits_in(page, issuer), Progress("Procedure", page.next, progress.began)
            )
    except Refused as error:
        # Not every EHR lets services be searched without a patient. Its visits are what counts; those that
        # wait are read again by themselves. Only a list that does not begin tells that; one that breaks off
        # has pages that nobody read.
        if not nothing_yet or isinstance(error, NotAuthorized | RateLimited | ServerFailed):
            raise
        log.info("services_not_polled", issuer=issuer.id, status=error.status)
    _end(here, issuer, job, progress.began)


def look_through(here: Installation, issuer: Issuer, job: Job, go_on: GoOn) -> None:
    """Asks for the capture of every visit of some days: ``job.about`` is "2026-11-01/2026-11-20".

    Raises as ``look``.
    """
    first, last = (date.fromisoformat(day) for day in job.about.split("/"))
    progress = _progress(here, job)
    zone = here.charts[issuer.id].time_zone
    # A day more on each side: the server may compare in UTC, or in its own zone.
    asked = {"date": [f"ge{first - _DAY}", f"le{last + _DAY}"]}
    server = backend_server(here, issuer, max_pages=MOST_PAGES)
    for page in _pages(here, issuer, server, job, progress, asked):
        go_on()
        found = [
            reference
            for reference, each in _encounters(page)
            if _matters(each) and _is_within(each, first, last, zone)
        ]
        _note(here, issuer, job, found, Progress("Encounter", page.next, progress.began))
    with here.engine.begin() as connection:
        jobs.done(connection, job, here.clock())


def _progress(here: Installation, job: Job) -> Progress:
    if job.progress is None:
        return Progress("Encounter", None, here.clock())
    return here.vault.open(job.progress, Progress)


def _pages(
    here: Installation,
    issuer: Issuer,
    server: Server,
    job: Job,
    progress: Progress,
    asked: dict[str, str] | dict[str, list[str]],
) -> Iterator[Page]:
    """The pages from where the job is. A page that is not there any more starts the list again.

    Only if this attempt began with it: the next one tries it once more, as a list may hold ten thousand visits.
    """
    params = {**asked, "_count": str(here.charts[issuer.id].page_size)}
    begins_here = progress.at is not None
    try:
        for page in server.pages(progress.among, params, at=progress.at):
            begins_here = False
            yield page
    except Refused as error:
        if begins_here and not isinstance(error, NotAuthorized | RateLimited | ServerFailed):
            with here.engine.begin() as connection:
                again = Progress(progress.among, None, progress.began)
                jobs.keep(connection, here.vault, job, here.clock(), again)
        raise


def _encounters(page: Page) -> Iterator[tuple[str, Encounter | None]]:
    """Those of a page by reference; None: there is one, and it cannot be read.

    An entry that does not even say which visit it is counts as a page that was missed.
    """
    found, unread = resources(page.entries, Encounter)
    for each in unread:
        if each.reference is None or not each.reference.startswith("Encounter/"):
            raise _Unreadable
        yield each.reference, None
    for encounter in found:
        if encounter.reference is None:
            raise _Unreadable
        yield encounter.reference, encounter


class _Unreadable(EhrError):
    """An entry that does not even say which visit it is."""

    def __init__(self) -> None:
        super().__init__(
            "The EHR's list of visits has an entry that cannot be read and does not say which visit it is. "
            "Tell your administrator."
        )


def _matters(encounter: Encounter | None) -> bool:
    return encounter is None or encounter.status in FINISHED | NO_VISIT | {None}


def _is_within(encounter: Encounter | None, first: date, last: date, zone: ZoneInfo) -> bool:
    """Whether a visit began on one of these days; one that does not say is looked at."""
    period = encounter.period if encounter else None
    started = moment(period.start if period else None, zone)
    return started is None or started.day is None or first <= started.day <= last


def _visits_in(page: Page, issuer: Issuer) -> list[str]:
    """The visits that a page of services names."""
    found, _unread = resources(page.entries, Procedure)
    named = (bare(each.encounter, issuer.base) for each in found)
    return [one for one in dict.fromkeys(named) if one and one.startswith("Encounter/")]


def _note(
    here: Installation, issuer: Issuer, job: Job, encounters: Iterable[str], progress: Progress
) -> None:
    """One page: the jobs of its visits, and that it was read, in one transaction."""
    now = here.clock()
    with here.engine.begin() as connection:
        for encounter in sorted(set(encounters)):  # in one order always, so that no two wait for each other
            jobs.ask(connection, here.vault, Kind.CAPTURE, issuer.iss, encounter, now)
        jobs.keep(connection, here.vault, job, now, progress)


def _watermark(here: Installation, issuer: Issuer) -> datetime | None:
    with here.engine.begin() as connection:
        return connection.scalar(select(database.ehr.c.watermark).where(database.ehr.c.issuer == issuer.iss))


def _end(here: Installation, issuer: Issuer, job: Job, began: datetime) -> None:
    """Every page was read: the watermark moves, and the next look is asked for."""
    minutes = here.capturing[issuer.id].poll_minutes
    with here.engine.begin() as connection:
        jobs.done(connection, job, here.clock())
        _move(connection, issuer, began)
        if minutes is not None:
            due_at = began + timedelta(minutes=minutes)
            jobs.ask(connection, here.vault, Kind.LOOK, issuer.iss, issuer.iss, due_at)


def _move(connection: Connection, issuer: Issuer, began: datetime) -> None:
    table = database.ehr
    connection.execute(update(table).where(table.c.issuer == issuer.iss).values(watermark=began))
