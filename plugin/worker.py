"""What goes on without anybody looking: charges are sent, visits captured; what is odd is reported."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog
from sqlalchemy import Connection, and_, or_, select

from ..fhir.errors import (
    Dropped,
    EhrError,
    NotAuthorized,
    OnRecord,
    RateLimited,
    ServerFailed,
    TimedOut,
    Unreachable,
)
from ..fhir.own_records import own_records
from ..fhir.server import Server
from ..fhir.way import Way, WayName
from ..launch.context import Session
from ..launch.errors import LaunchRefused, SessionEnded
from ..launch.issuers import Issuer
from . import database, jobs, leases, outbox, polling, subscriptions, suggested
from .capture import TOLD_AFTER, TOLD_AT_ONCE, GoOn, Stopped, backend_server, capture, tell
from .installation import Installation
from .jobs import Job, Kind
from .leases import LeaseLost
from .outbox import Row, State
from .sessions import Opened, server_for
from .sign_off import outgoing
from .vault import SealBroken
from .ways import WITHOUT_EHR

log = structlog.get_logger()

EVERY = 20  # seconds
IDLE = 1  # seconds until it is looked again whether a job is due
LONG = timedelta(days=1)
MOST_PAGES = 5_000  # of an EHR's charges


@dataclass(frozen=True, slots=True)
class Pass:
    """One round over what waits: decisions that were worked on, those that nobody is signed in for, and those
    at which Quarterhour itself failed.
    """

    worked_on: int
    without_access: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something about a charge that a person has to look at. No patient's data in it."""

    kind: str  # "lost", "doubled", "unknown", "waiting", "stranger" or "not-looked"
    decision: str
    charge: str | None
    says: str


def work_once(here: Installation) -> Pass:
    """Looks at every decision that has something due. Safe beside any number of other workers.

    A fault of ours at one of them does not keep the others from being sent.
    """
    worked_on = without_access = failed = 0
    for decision, issuer_iss, person, way_name in _due(here):
        try:
            found = _way(here, issuer_iss, person, way_name, decision)
            if found is None:
                without_access += 1
                continue
            way, who = found
            outbox.send(here.outbox, way, decision, who=who)
            worked_on += 1
        except Exception as error:  # noqa: BLE001 - one decision that we fail at must not hold up the others
            failed += 1
            log.error("decision_failed", decision=decision, why=type(error).__name__)  # noqa: TRY400 - messages may hold data
    return Pass(worked_on, without_access, failed)


def work(here: Installation, stop: threading.Event, every: float = EVERY) -> None:
    """Charges every so often, jobs as they come, until told to stop. An error of one does not end the rest.

    Told to stop, it finishes the step at hand and gives back what it was at.
    """

    def go_on() -> None:
        if stop.is_set():
            raise Stopped

    next_round = 0.0
    while not stop.is_set():
        busy = False
        try:
            if time.monotonic() >= next_round:
                next_round = time.monotonic() + every
                with _an_id():
                    _round(here)
            busy = work_job(here, go_on) is not None
        except Exception as error:  # noqa: BLE001 - a worker that dies silently is worse than any error
            log.error("worker_failed", why=type(error).__name__)  # noqa: TRY400 - messages may hold data
        if not busy:
            stop.wait(IDLE)


def _an_id() -> AbstractContextManager[None]:
    """As a web request has: in everything that is logged meanwhile, and sent to the EHR."""
    return structlog.contextvars.bound_contextvars(request_id=secrets.token_hex(8))


def _round(here: Installation) -> None:
    """What is done every so often, rather than when it is asked for."""
    done = work_once(here)
    if done.worked_on:
        log.info("worked", decisions=done.worked_on, without_access=done.without_access)
    for iss, visit in suggested.waiting(here):
        try:
            issuer = here.issuers.match(iss)
            suggested.resume(here, issuer, backend_server(here, issuer), visit)
        except LaunchRefused:  # it is not in the operator's list any more, or gives no access now
            continue
        except Exception as error:  # noqa: BLE001 - as above
            log.error("suggestion_failed", visit=visit, why=type(error).__name__)  # noqa: TRY400 - as above
    polling.schedule(here)
    subscriptions.ask_for_checks(here)


# --- jobs -------------------------------------------------------------------------------------------------

WORK = {
    Kind.CAPTURE: capture,
    Kind.LOOK: polling.look,
    Kind.RANGE: polling.look_through,
    Kind.CATCH_UP: subscriptions.catch_up,
}
# The EHR is away, or wants to be left alone, or does not let us in: no fault of the one visit.
OF_THE_WHOLE = (LaunchRefused, Unreachable, RateLimited, NotAuthorized)
# Where it is a list that fails so, the EHR is left alone as well. It counts against the list all the same: one
# page may be what it fails at, and somebody must see that.
OF_A_LIST = (ServerFailed, TimedOut, Dropped)
LISTS = frozenset({Kind.LOOK, Kind.RANGE})


def work_job(
    here: Installation,
    go_on: GoOn = lambda: None,
    *,
    only: str | None = None,
    jitter: Callable[[], float] = random.random,
) -> Job | None:
    """Works on the next job that is due; None: there is none. Safe beside any number of other workers.

    ``only`` the jobs of that EHR. ``jitter`` gives a number from 0 to 1.
    """
    spacing = {
        issuer.iss: here.capturing[issuer.id].spacing
        for issuer in here.issuers
        if issuer.backend is not None and only in {None, issuer.iss}
    }
    with here.engine.begin() as connection:
        job = jobs.take(connection, here.vault, here.clock(), spacing)
    if job is None:
        return None
    issuer = here.issuers.match(job.issuer)
    with _an_id():
        try:
            if job.attempts > jobs.MOST_ATTEMPTS:
                _failed(here, issuer, job, EhrError(_NEVER_ENDED.format(job.attempts - 1)), jitter())
            else:
                _try(here, issuer, job, go_on, jitter)
        except LeaseLost:
            log.warning("lease_lost", job=job.id)
    return job


_NEVER_ENDED = "Work on it was begun {} times, and each time it ended before it was done."


def _try(here: Installation, issuer: Issuer, job: Job, go_on: GoOn, jitter: Callable[[], float]) -> None:
    try:
        WORK[job.kind](here, issuer, job, go_on)
    except Stopped:
        with here.engine.begin() as connection:
            jobs.put_back(connection, job, here.clock())
    except OF_THE_WHOLE as error:
        asked_for = error.retry_after if isinstance(error, RateLimited) else None
        with here.engine.begin() as connection:
            pause = None if asked_for is None else timedelta(seconds=asked_for)
            until = jobs.hold(connection, issuer.iss, here.clock(), pause)
            jobs.put_back(connection, job, until)
        log.warning("ehr_held", issuer=issuer.id, why=type(error).__name__)
    except EhrError as error:
        if job.kind in LISTS and isinstance(error, OF_A_LIST):
            with here.engine.begin() as connection:
                jobs.hold(connection, issuer.iss, here.clock(), None)
        _failed(here, issuer, job, error, jitter())
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - one visit that we cannot read must not end the others
        log.error("job_failed", kind=job.kind, why=type(error).__name__)  # noqa: TRY400 - messages may hold data
        _failed(here, issuer, job, EhrError(f"Quarterhour failed at it ({type(error).__name__})."), jitter())


def _failed(here: Installation, issuer: Issuer, job: Job, error: EhrError, jitter: float) -> None:
    for_good = isinstance(error, TOLD_AT_ONCE)
    if job.kind is Kind.CAPTURE and (for_good or job.attempts >= TOLD_AFTER):
        _tell(here, issuer, job, str(error))
    with here.engine.begin() as connection:
        jobs.failed(connection, here.vault, job, here.clock(), str(error), jitter=jitter, for_good=for_good)
    log.info("job_failed", kind=job.kind, issuer=issuer.id, attempts=job.attempts, why=type(error).__name__)


def _tell(here: Installation, issuer: Issuer, job: Job, problem: str) -> None:
    """On the worklist. What is stored of the visit may be what failed; then administration alone has it."""
    try:
        with here.engine.begin() as connection:
            leases.renew(connection, job.lease, here.clock(), jobs.LASTS)
            tell(connection, here, issuer, job.about, problem)
    except SealBroken as error:
        log.error("not_told", why=type(error).__name__)  # noqa: TRY400 - there is nothing else to say


# --- what is odd ------------------------------------------------------------------------------------------


def reconcile(here: Installation) -> tuple[Oddity, ...]:
    """Compares what was written with what the other side has, and names whatever nobody could know."""
    return (*_of_decisions(here), *_strangers(here))


def _of_decisions(here: Installation) -> Iterator[Oddity]:
    with here.engine.begin() as connection:
        table = database.decision
        decisions = connection.execute(
            select(table.c.id, table.c.issuer, table.c.person, table.c.way)
            .where(table.c.revision > suggested.REVISION)
            .order_by(table.c.signed_at)
        ).all()
    for row in decisions:
        found = _way(here, row.issuer, row.person, row.way, row.id)
        yield from _oddities(here, row.id, found or _own_way(here, row.issuer, row.way))


def _own_way(here: Installation, iss: str, name: WayName) -> tuple[Way, str] | None:
    """Under Quarterhour's own access, to look at what nobody is signed in for; it writes nothing."""
    try:
        issuer = here.issuers.match(iss)
        return outgoing(here, issuer, name, backend_server(here, issuer), None), "Quarterhour"
    except LaunchRefused:
        return None


def _strangers(here: Installation) -> Iterator[Oddity]:
    """Charges in the EHR under identifiers of ours that this database never gave out.

    As after a restore from a backup, or where two installations write into one EHR.
    """
    found: dict[str, tuple[str, str]] = {}
    for issuer, server, where in _charts(here):
        kind: Literal["ChargeItem", "Claim"] = (
            "Claim" if here.writing[issuer.id].way == "claim" else "ChargeItem"
        )
        try:
            records = own_records(server, where, kind)
        except (EhrError, LaunchRefused) as error:
            says = f"Charges at {issuer.name} that are not ours were not looked for. {error}"
            yield Oddity("not-looked", issuer.id, None, says)
        else:
            found |= {record.identifier: (record.reference, issuer.id) for record in records}
    with database.reading(here.engine) as connection:
        for identifier, (reference, issuer_id) in found.items():
            table = database.charge
            if connection.scalar(select(table.c.state).where(table.c.identifier == identifier)) is None:
                says = (
                    f"{reference} carries an identifier of Quarterhour's that this database never gave out. "
                    "It may have been written after the backup that was restored here, or by another "
                    "installation. Look at the visit in the EHR before anything is signed for it."
                )
                yield Oddity("stranger", issuer_id, identifier, says)


def _charts(here: Installation) -> Iterator[tuple[Issuer, Server, dict[str, str]]]:
    """What charges can be looked through: everything under our own access, else the charts that are open."""
    for issuer in here.issuers:
        search = here.charts[issuer.id].charge_search
        if search == "none":
            continue
        if issuer.backend is not None:
            with suppress(LaunchRefused):
                yield issuer, backend_server(here, issuer, max_pages=MOST_PAGES), {}
                continue
        seen: set[str] = set()
        for launch in _launches(here, issuer):
            patient, encounter = launch.session.context.patient, launch.encounter
            where = {"patient": patient} if search == "patient" else {"context": f"Encounter/{encounter}"}
            if not patient or not encounter or str(where) in seen:
                continue
            server = _server(here, launch)
            if server is not None:
                seen.add(str(where))
                yield issuer, server, {name: value for name, value in where.items() if value}


def _launches(here: Installation, issuer: Issuer) -> Iterator[Opened]:
    table = database.launch
    with database.reading(here.engine) as connection:
        rows = connection.execute(
            select(table).where(table.c.issuer == issuer.iss).order_by(table.c.started_at.desc())
        ).all()
    for row in rows:
        session = _session(here, row.session)
        if session is None:
            continue
        chosen = here.vault.open(row.encounter, str) if row.encounter else session.context.encounter
        yield Opened(row.id, issuer, session, row.person, encounter=chosen)


def _oddities(here: Installation, decision: str, found: tuple[Way, str] | None) -> Iterator[Oddity]:
    with here.engine.begin() as connection:
        rows = outbox.charges_of(connection, here.vault, decision)
        superseded = outbox.superseded(connection, decision)
        taken_back = _taken_back(connection, here, decision)
    if not rows:
        return
    now = here.clock()
    for row in rows:
        name = row.charge.identifier
        if row.state in outbox.DOUBTFUL:
            since = f"since {row.updated_at:%Y-%m-%d %H:%M} UTC"
            yield Oddity("unknown", decision, name, f"It is not known whether it was written, {since}.")
        elif row.state is not State.CONFIRMED and not superseded and now - row.charge.entered_at > LONG:
            yield Oddity("waiting", decision, name, f"Signed over a day ago and still {row.state}.")
    looked_for = [
        row
        for row in rows
        if row.state is State.CONFIRMED
        and row.charge.identifier not in taken_back
        and not row.charge.takes_back
    ]
    if not looked_for:
        return
    if found is None:
        yield Oddity(
            "not-looked", decision, None, "Nobody who signed it is signed in, so it was not compared."
        )
        return
    way, _who = found
    if way.finds and way.name not in WITHOUT_EHR:
        yield from _compared(way, decision, looked_for)


def _compared(way: Way, decision: str, rows: list[Row]) -> Iterator[Oddity]:
    for row in rows:
        name = row.charge.identifier
        try:
            there = way.find(row.charge, row.prepared or ())
        except OnRecord as error:
            yield Oddity("doubled", decision, name, str(error))
        except EhrError as error:
            yield Oddity("not-looked", decision, name, str(error))
        else:
            if there is None:
                yield Oddity("lost", decision, name, "It was written, and is not in the EHR any more.")


def _taken_back(connection: Connection, here: Installation, decision: str) -> set[str]:
    """Of the visit's charges, those that a later decision took back."""
    mine, later = database.decision.alias(), database.decision.alias()
    confirmed = connection.scalars(
        select(database.charge.c.sealed)
        .join_from(database.charge, later, database.charge.c.decision == later.c.id)
        .join(mine, (mine.c.visit == later.c.visit) & (mine.c.revision < later.c.revision))
        .where(mine.c.id == decision, database.charge.c.state == State.CONFIRMED)
    )
    return {
        charge.withdraws for sealed in confirmed if (charge := outbox.charge_in(here.vault, sealed)).withdraws
    }


def _due(here: Installation) -> list[tuple[str, str, str, WayName]]:
    """Decisions with a charge that waits, is being sent, or is due to be looked for."""
    charge, decision = database.charge, database.decision
    now = here.clock()
    # One of them that waits keeps the others of its decision waiting.
    paused = select(charge.c.decision).where(charge.c.state == State.INTENDED, charge.c.due_at > now)
    waiting = or_(
        and_(charge.c.state == State.INTENDED, charge.c.decision.not_in(paused)),
        charge.c.state == State.SENDING,
        and_(charge.c.state == State.UNKNOWN, charge.c.due_at <= now),
    )
    # What comes after a doubt waits for it.
    held = and_(charge.c.state == State.UNKNOWN, or_(charge.c.due_at.is_(None), charge.c.due_at > now))
    query = (
        select(decision.c.id, decision.c.issuer, decision.c.person, decision.c.way)
        .where(
            decision.c.id.in_(select(charge.c.decision).where(waiting)),
            decision.c.id.not_in(select(charge.c.decision).where(held)),
            # A suggestion is looked after by our own access; where a person wrote it, by theirs too.
            (decision.c.revision > suggested.REVISION) | (decision.c.person != ""),
        )
        .order_by(decision.c.signed_at)
    )
    with here.engine.begin() as connection:
        return [(row.id, row.issuer, row.person, row.way) for row in connection.execute(query)]


def _way(here: Installation, iss: str, person: str, name: WayName, decision: str) -> tuple[Way, str] | None:
    """The decision's way under the access of whoever signed it, while they are signed in to that chart."""
    try:
        issuer = here.issuers.match(iss)
    except LaunchRefused:  # the EHR is no longer in the operator's list
        return None
    if name in WITHOUT_EHR:
        nowhere = Server(issuer.base, "", here.connections.to(issuer))
        return outgoing(here, issuer, name, nowhere, None), "Quarterhour"
    with here.engine.begin() as connection:
        rows = outbox.charges_of(connection, here.vault, decision)
        table = database.launch
        launches = connection.execute(
            select(table.c.id, table.c.session, table.c.person)
            .where(table.c.issuer == issuer.iss, table.c.person == person)
            .order_by(table.c.started_at.desc())
        ).all()
    for row in launches:
        session = _session(here, row.session)
        if rows and session and f"Patient/{session.context.patient}" == rows[0].charge.patient:
            launch = Opened(row.id, issuer, session, row.person)
            server = _server(here, launch)
            if server is not None:
                return outgoing(here, issuer, name, server, session), f"Quarterhour for {launch.who}"
    return None


def _session(here: Installation, sealed: bytes) -> Session | None:
    """None for one that another version of Quarterhour began: it opens nothing any more."""
    try:
        return Session.from_json(here.vault.open_bytes(sealed))
    except SessionEnded:
        return None


def _server(here: Installation, launch: Opened) -> Server | None:
    try:
        return server_for(here, launch)
    except LaunchRefused:  # its permission has run out
        return None
