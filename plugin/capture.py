"""Capture: a visit that ended is read with nobody at the screen, and its suggestion waits on the worklist.

Whatever led here is only a hint: the Encounter is read again, and the chart as for a launch. Nothing that
is captured becomes a charge without a person, and a visit that is signed is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import structlog
from sqlalchemy import Connection, delete, select

from ..fhir.chart import Chart, read_chart
from ..fhir.errors import (
    BadAnswer,
    Conflict,
    Dropped,
    EhrError,
    Forbidden,
    NoDate,
    RateLimited,
    ServerFailed,
    TimedOut,
    Unprocessable,
    Unreachable,
    WrongPatient,
)
from ..fhir.normalise import NO_VISIT, PreparedVisit, visits_from
from ..fhir.server import Server
from ..fhir.systems import APP
from ..fhir.views import Encounter, bare, resource_from
from ..launch.http import waiting_for
from ..launch.issuers import Issuer
from . import audit, database, jobs, suggested, worklist
from .flow import visit_key
from .installation import Installation
from .jobs import Job, Kind
from .outbox import encounter_key
from .review import Answers, review
from .same_day import with_signed
from .sessions import RenewingServer
from .worklist import NO_SUCH_VISIT, Standing, Summary, Weight

log = structlog.get_logger()

FINISHED = frozenset({"finished"})
# From this attempt on the worklist has what could be read, or that nothing could; before, it is worth waiting.
TOLD_AFTER = 3
# So often a chart is read again of which a part could not be read; then it is taken as it is.
TRIES_FOR_ALL = 7
# Where only a person can change it, the first attempt is the last.
TOLD_AT_ONCE = (NoDate, Forbidden)
# Failures that may pass, unlike what an EHR does not offer or does not permit.
PASSING = (TimedOut, Dropped, BadAnswer, ServerFailed, Unreachable, RateLimited, Conflict, Unprocessable)
AGAIN_FOR = timedelta(days=30)

_NOT_TO_CHARGE = "It was charged elsewhere, or nothing is documented any more."

GoOn = Callable[[], None]


class Stopped(Exception):
    """This process is told to end: what it was at is left for another."""


def ask(connection: Connection, here: Installation, iss: str, encounter: str) -> None:
    """Asks for a visit to be captured, within the caller's transaction. ``encounter``: "Encounter/..."."""
    jobs.ask(connection, here.vault, Kind.CAPTURE, iss, encounter, here.clock())


def backend_server(here: Installation, issuer: Issuer, *, max_pages: int = 50) -> Server:
    """The EHR as Quarterhour itself may read it. Raises ``LaunchRefused``.

    What asks us to wait is not waited for here, so that all workers wait.
    """
    granted = here.access(issuer)
    return RenewingServer(
        issuer.base,
        granted.token,
        here.connections.to(issuer),
        connect_timeout=issuer.connect_timeout,
        read_timeout=issuer.read_timeout,
        longest_wait=0.0,
        max_pages=max_pages,
        clock=here.clock,
        renew=lambda: here.access(issuer, refused=granted).token,
    )


def capture(here: Installation, issuer: Issuer, job: Job, go_on: GoOn) -> None:
    """Reads one visit and puts it on the worklist; the end of the job is in the same transaction.

    Raises ``EhrError`` or ``LaunchRefused`` where it could not be read, ``LeaseLost``, and whatever ``go_on``
    raises between two steps.
    """
    server = backend_server(here, issuer)
    began = here.clock()
    encounter = _encounter(server, job.about)
    if encounter.status in NO_VISIT:
        _close(here, issuer, server, job, began)
        return
    if encounter.status not in FINISHED and not _is_known(here, issuer, job.about):
        with here.engine.begin() as connection:
            _finish(connection, here, issuer, job, patient=None, visits={})
        return
    patient = bare(encounter.subject, issuer.base)
    if patient is None or not patient.startswith("Patient/"):
        raise BadAnswer("The visit does not say whose it is. Enter its patient in the EHR.")
    go_on()
    with waiting_for(here.connections.to(issuer), issuer.iss):
        chart = read_chart(
            server,
            patient=patient,
            encounter=job.about,
            user=None,
            settings=here.charts[issuer.id],
            now=here.clock(),
        )
    missing = _missing(chart) if job.attempts < TRIES_FOR_ALL else None
    if missing is not None and job.attempts < TOLD_AFTER:
        raise missing
    visits = visits_from(chart, here.charts[issuer.id], now=here.clock())
    go_on()
    _store(here, issuer, server, job, chart, visits, whole=missing is None)
    if missing is not None:
        raise missing


def _encounter(server: Server, reference: str) -> Encounter:
    found = resource_from(server.read(reference), Encounter)
    if not isinstance(found, Encounter) or found.reference != reference:
        raise BadAnswer("The EHR's record of the visit cannot be read. Tell your administrator.")
    return found


def _missing(chart: Chart) -> EhrError | None:
    """What asking again may bring: a part that could not be read, or that was another patient's."""
    for gap in chart.not_looked:
        if isinstance(gap.error, PASSING):
            return gap.error
    if chart.foreign:
        return WrongPatient("The EHR answered with records of another patient. They were left out.")
    if chart.unread:
        return BadAnswer("Records of the visit cannot be read. They were left out.")
    return None


# --- what is kept -----------------------------------------------------------------------------------------


def _store(
    here: Installation,
    issuer: Issuer,
    server: Server,
    job: Job,
    chart: Chart,
    visits: Iterable[PreparedVisit],
    *,
    whole: bool,
) -> None:
    """Keeps what was read, and ends the job where that is all. Half a chart never takes the place of a listed visit."""
    people = _people(chart)
    reviewed = {}
    for prepared in visits:
        key = visit_key(here, issuer.iss, prepared)
        with database.reading(here.engine) as connection:
            known_here = with_signed(connection, here.vault, issuer.iss, key, prepared)
        reviewed[key] = review(known_here, Answers(), here.library)
    suggests = here.writing[issuer.id].suggest
    with here.engine.begin() as connection:
        known = _rows_of(connection, here, issuer, job.about)
        if not whole and any(one.standing is not Standing.UNREAD for one in known.values()):
            return
        kept: dict[str, Summary] = {}
        for key, one in reviewed.items():
            came_by_itself = known[key].captured if key in known else True
            kept[key] = worklist.keep(
                connection, here, issuer.iss, key, one, captured=came_by_itself, also=people
            )
        gone = known.keys() - kept.keys()
        for key in gone:
            _no_longer(connection, here, key, known[key], chart.began or here.clock())
        if whole and not suggests:
            _finish(connection, here, issuer, job, patient=chart.patient.reference, visits=kept)
    if whole and suggests:
        # Each writes in transactions of its own and may be repeated; so the job ends after them.
        for key, one in reviewed.items():
            if kept[key].standing is Standing.OPEN:
                suggested.write_suggestions(here, issuer, server, key, one)
            else:
                suggested.take_back_suggestions(here, issuer, server, key, _NOT_TO_CHARGE)
        for key in gone:
            suggested.take_back_suggestions(here, issuer, server, key, NO_SUCH_VISIT)
        with here.engine.begin() as connection:
            _finish(connection, here, issuer, job, patient=chart.patient.reference, visits=kept)
    log.info("captured", issuer=issuer.id, visits=len(kept))


def _people(chart: Chart) -> set[str]:
    """Who took part besides those that the services name: the people behind roles, else the visit's own."""
    named = {chart.bare(one.actor) for procedure in chart.procedures for one in procedure.performer or ()}
    people = {chart.bare(role.practitioner) for role in chart.roles if role.reference in named}
    if not chart.procedures:
        people |= {chart.bare(one.individual) for one in chart.encounter.participant or ()}
    return {one for one in people if one}


def _rows_of(
    connection: Connection, here: Installation, issuer: Issuer, encounter: str
) -> dict[str, Summary]:
    """The visits of this encounter that are on the worklist."""
    table = database.known_visit
    rows = connection.execute(
        select(table.c.visit, table.c.sealed)
        .where(table.c.encounter == encounter_key(here.vault, issuer.iss, encounter))
        .order_by(table.c.visit)
        .with_for_update()
    )
    return {row.visit: here.vault.open(row.sealed, Summary) for row in rows}


def _no_longer(
    connection: Connection, here: Installation, key: str, before: Summary, read_at: datetime
) -> None:
    """A visit that was there before: its services are gone, or stand under another day or discipline.

    Nothing where somebody read the chart later than this and found it there.
    """
    if before.read_at is not None and read_at < before.read_at:
        return
    table = database.known_visit
    signed = _signed(connection, [key]) != set()
    looked_at = connection.scalar(select(table.c.person).where(table.c.visit == key)) != ""
    if not signed and not looked_at:
        connection.execute(delete(database.furnished).where(database.furnished.c.visit == key))
        connection.execute(delete(table).where(table.c.visit == key))
        return
    gone = msgspec.structs.replace(
        before,
        standing=Standing.GONE,
        chart={},
        problem=NO_SUCH_VISIT,
        since_signing=worklist.differences(before.chart, {}) if signed else (),
        read_at=read_at,
    )
    connection.execute(
        table.update().where(table.c.visit == key).values(sealed=here.vault.seal(gone), closed=1)
    )


def _close(here: Installation, issuer: Issuer, server: Server, job: Job, read_at: datetime) -> None:
    """A visit that was cancelled, or entered in error: what waits of it is closed."""
    with here.engine.begin() as connection:
        known = _rows_of(connection, here, issuer, job.about)
        for key, summary in known.items():
            _no_longer(connection, here, key, summary, read_at)
    if here.writing[issuer.id].suggest:
        for key in known:
            suggested.take_back_suggestions(here, issuer, server, key, NO_SUCH_VISIT)
    with here.engine.begin() as connection:
        _finish(connection, here, issuer, job, patient=None, visits={})


def _finish(
    connection: Connection,
    here: Installation,
    issuer: Issuer,
    job: Job,
    *,
    patient: str | None,
    visits: Mapping[str, Summary],
) -> None:
    """The end of the job, with the audit entry of what was read and, where it still waits, the next look."""
    now = here.clock()
    what = {"patient": patient, "encounter": job.about, "visits": list(visits)}
    audit.record(connection, here.vault, now=now, action="captured", who=APP, issuer=issuer.iss, what=what)
    jobs.done(connection, job, now)
    _again(connection, here, issuer, job, visits)


def _again(
    connection: Connection, here: Installation, issuer: Issuer, job: Job, kept: Mapping[str, Summary]
) -> None:
    """A visit that still waits is looked at again: charges entered elsewhere notify nobody."""
    signed = _signed(connection, kept)
    now = here.clock()
    oldest = (now.astimezone(ZoneInfo(issuer.time_zone)) - AGAIN_FOR).date()
    if any(
        key not in signed
        and one.standing in {Standing.OPEN, Standing.UNDOCUMENTED}
        and one.date_of_service is not None
        and one.date_of_service >= oldest
        for key, one in kept.items()
    ):
        due_at = now + timedelta(hours=here.capturing[issuer.id].again_hours)
        jobs.ask(connection, here.vault, Kind.CAPTURE, issuer.iss, job.about, due_at)


def _signed(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Those of these visits that somebody signed."""
    table = database.decision
    query = select(table.c.visit).where(table.c.visit.in_(list(keys)), table.c.revision > suggested.REVISION)
    return set(connection.scalars(query))


def _is_known(here: Installation, issuer: Issuer, encounter: str) -> bool:
    with here.engine.begin() as connection:
        return bool(_rows_of(connection, here, issuer, encounter))


# --- what could not be read -------------------------------------------------------------------------------


def tell(connection: Connection, here: Installation, issuer: Issuer, encounter: str, problem: str) -> None:
    """Puts on the worklist that a visit could not be read, and why; within the caller's transaction."""
    known = _rows_of(connection, here, issuer, encounter)
    table = database.known_visit
    for key, before in known.items():
        told = here.vault.seal(msgspec.structs.replace(before, problem=problem))
        connection.execute(table.update().where(table.c.visit == key).values(sealed=told))
    if known:
        return
    unread = Summary(
        date_of_service=None,
        discipline=None,
        patient=None,
        record_number=None,
        therapists=(),
        units=None,
        weight=Weight.CRITICAL,
        open_questions=0,
        captured=True,
        standing=Standing.UNREAD,
        problem=problem,
    )
    key = here.vault.index("unread", issuer.iss, encounter)
    worklist.put(connection, here, issuer.iss, key, unread, encounter=encounter)
