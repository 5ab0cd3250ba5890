"""Jobs: what is to be done without anybody waiting for it, kept in the database beside what it serves.

A job is asked for within the transaction that gives rise to it, so the two stand or fall together. There
is one job at a time for one thing: asked for again while it waits it is still one, asked for again while it
runs it runs once more afterwards. Whoever takes it holds its lease (leases.py). What fails is tried again,
ever more seldom, and is given up in the end: then it waits for a person, and is never dropped.

An EHR that fails as a whole, or asks us to slow down, is left alone for a while by all workers; that counts
against none of its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, func, or_, select, update

from . import database, leases
from .leases import Lease
from .vault import Vault

LASTS = timedelta(minutes=5)  # longer than the longest read of a chart, retries included
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=10), timedelta(hours=1)
MOST_ATTEMPTS = 12  # over three to four hours
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    """What is to be done. What it is about stands in brackets."""

    CAPTURE = "capture"  # read a visit and put it on the worklist (its Encounter's reference)
    LOOK = "look"  # ask an EHR what changed since it was asked last (the EHR's address)
    RANGE = "range"  # ask an EHR for the visits of some days (the first and last, "2026-11-01/2026-11-20")
    CATCH_UP = "catch-up"  # ask an EHR what a subscription did not tell (the subscription's id)


@dataclass(frozen=True, slots=True)
class Job:
    """One job under way."""

    id: str
    kind: Kind
    issuer: str
    about: str
    attempts: int  # with this one
    asked: int
    lease: Lease
    progress: bytes | None = None  # what ``keep`` kept, sealed


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A job that failed too often, or for good. ``about`` names a visit's record: for administrators."""

    id: str
    kind: Kind
    about: str
    attempts: int
    asked_at: datetime
    given_up_at: datetime
    problem: str


@dataclass(frozen=True, slots=True)
class Queue:
    """How much waits. ``oldest_due_at`` is of what is due already; None: nothing is."""

    waiting: int
    given_up: int
    oldest_due_at: datetime | None


def job_id(vault: Vault, kind: Kind, issuer: str, about: str) -> str:
    """What a job is found by; it tells nothing of what it is about."""
    return vault.index("job", kind, issuer, about)


def ask(connection: Connection, vault: Vault, kind: Kind, issuer: str, about: str, due_at: datetime) -> None:
    """Asks for a job, within the caller's transaction. ``issuer`` is the EHR's ``iss``.

    What was given up begins anew; what waits after a failure is not begun earlier for being asked again.
    """
    table = database.job
    asked = database.insert(connection, table).values(
        id=job_id(vault, kind, issuer, about),
        kind=kind,
        issuer=issuer,
        sealed=vault.seal(about),
        asked=1,
        attempts=0,
        asked_at=due_at,
        due_at=due_at,
    )
    was_given_up = table.c.given_up_at.is_not(None)
    sooner = (table.c.attempts == 0) & (asked.excluded.due_at < table.c.due_at)
    connection.execute(
        asked.on_conflict_do_update(
            index_elements=[table.c.id],
            set_={
                "asked": table.c.asked + 1,
                "attempts": case((was_given_up, 0), else_=table.c.attempts),
                "due_at": case((or_(was_given_up, sooner), asked.excluded.due_at), else_=table.c.due_at),
                "given_up_at": None,
            },
        )
    )


def is_asked(connection: Connection, vault: Vault, kind: Kind, issuer: str, about: str) -> bool:
    """Whether there is such a job, whatever became of it."""
    query = select(database.job.c.id).where(database.job.c.id == job_id(vault, kind, issuer, about))
    return connection.scalar(query) is not None


def once_more(
    connection: Connection,
    vault: Vault,
    kind: Kind,
    issuer: str,
    about: str,
    *,
    now: datetime,
    after: timedelta,
) -> None:
    """One attempt at what was given up that long ago; failing again, it is given up again.

    How long it has been waiting, and its problem, stay as they are.
    """
    table = database.job
    connection.execute(
        update(table)
        .where(table.c.id == job_id(vault, kind, issuer, about), table.c.given_up_at <= now - after)
        .values(given_up_at=None, attempts=MOST_ATTEMPTS - 1, due_at=now)
    )


def take(connection: Connection, vault: Vault, now: datetime, spacing: Mapping[str, timedelta]) -> Job | None:
    """The next job that is due, with its lease; None: there is none, or somebody else was first.

    ``spacing`` is, for each EHR whose jobs are worked on, the shortest time between two of them. The EHR that
    has waited longest comes first, so that a slow one holds up no other.
    """
    job, lease, ehr = database.job, database.lease, database.ehr
    row = connection.execute(
        select(job)
        .outerjoin(lease, lease.c.name == job.c.id)
        .outerjoin(ehr, ehr.c.issuer == job.c.issuer)
        .where(
            job.c.issuer.in_(list(spacing)),
            job.c.given_up_at.is_(None),
            job.c.due_at <= now,
            or_(lease.c.until.is_(None), lease.c.until < now),
            or_(ehr.c.next_at.is_(None), ehr.c.next_at <= now),
        )
        .order_by(func.coalesce(ehr.c.next_at, _LONG_AGO), job.c.due_at)
        .limit(1)
        .with_for_update(of=job, skip_locked=True)  # on PostgreSQL; SQLite has one writer at a time
    ).first()
    if row is None or not _slot(connection, row.issuer, now, spacing[row.issuer]):
        return None
    taken = leases.take(connection, row.id, now, LASTS)
    if taken is None:
        return None
    connection.execute(update(job).where(job.c.id == row.id).values(attempts=row.attempts + 1))
    return Job(
        id=row.id,
        kind=Kind(row.kind),
        issuer=row.issuer,
        about=vault.open(row.sealed, str),
        attempts=row.attempts + 1,
        asked=row.asked,
        lease=taken,
        progress=row.progress,
    )


def keep(connection: Connection, vault: Vault, job: Job, now: datetime, progress: Any) -> None:
    """How far it got, in the transaction that got it there: whoever goes on begins here. Raises ``LeaseLost``."""
    leases.renew(connection, job.lease, now, LASTS)
    kept = None if progress is None else vault.seal(progress)
    connection.execute(update(database.job).where(_is(job)).values(progress=kept))


def done(connection: Connection, job: Job, now: datetime) -> None:
    """Within the transaction of what it achieved. Raises ``LeaseLost``: somebody else has the job now."""
    table = database.job
    leases.renew(connection, job.lease, now, LASTS)
    answers(connection, job.issuer)
    if connection.execute(delete(table).where(_is(job), table.c.asked == job.asked)).rowcount:
        leases.forget(connection, job.lease)
        return
    # It was asked for again while it ran, so there may be something that it has not seen.
    connection.execute(
        update(table)
        .where(_is(job))
        .values(due_at=now, asked_at=now, attempts=0, problem=None, progress=None)
    )
    leases.release(connection, job.lease)


def failed(
    connection: Connection,
    vault: Vault,
    job: Job,
    now: datetime,
    problem: str,
    *,
    jitter: float,
    for_good: bool,
) -> None:
    """To be tried again later, or given up. ``jitter`` is from 0 to 1. Raises ``LeaseLost``."""
    leases.renew(connection, job.lease, now, LASTS)
    given_up = for_good or job.attempts >= MOST_ATTEMPTS
    connection.execute(
        update(database.job)
        .where(_is(job))
        .values(
            due_at=now + wait_after(job.attempts, jitter),
            given_up_at=now if given_up else None,
            problem=vault.seal(problem),
        )
    )
    leases.release(connection, job.lease)


def put_back(connection: Connection, job: Job, due_at: datetime) -> None:
    """Not this job's fault: it is done later, and this attempt is not counted. Raises ``LeaseLost``."""
    table = database.job
    leases.renew(connection, job.lease, due_at, LASTS)
    connection.execute(update(table).where(_is(job)).values(due_at=due_at, attempts=table.c.attempts - 1))
    leases.release(connection, job.lease)


def wait_after(attempts: int, jitter: float) -> timedelta:
    """How long after that many failed attempts: ever longer, and never all at the same moment."""
    whole: timedelta = min(FIRST_WAIT * 2 ** (attempts - 1), LONGEST_WAIT)
    return whole * (0.5 + jitter / 2)


# --- an EHR as a whole ------------------------------------------------------------------------------------


def hold(connection: Connection, issuer: str, now: datetime, asked_for: timedelta | None) -> datetime:
    """No job of this EHR is begun before the moment that comes back: as long as it asked for, else ever longer."""
    table = database.ehr
    _known(connection, issuer)
    failures = connection.execute(
        update(table)
        .where(table.c.issuer == issuer)
        .values(failures=table.c.failures + 1)
        .returning(table.c.failures)
    ).scalar_one()
    pause = asked_for or min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
    until = now + pause
    connection.execute(
        update(table)
        .where(table.c.issuer == issuer, or_(table.c.next_at.is_(None), table.c.next_at < until))
        .values(next_at=until)
    )
    return until


def answers(connection: Connection, issuer: str) -> None:
    """It did what it was asked: the next pause is a short one again."""
    table = database.ehr
    connection.execute(update(table).where(table.c.issuer == issuer, table.c.failures > 0).values(failures=0))


def _slot(connection: Connection, issuer: str, now: datetime, spacing: timedelta) -> bool:
    """Whether a job of this EHR may begin now; if so, the next one not before ``spacing`` has passed."""
    table = database.ehr
    _known(connection, issuer)
    free = connection.execute(
        update(table)
        .where(table.c.issuer == issuer, or_(table.c.next_at.is_(None), table.c.next_at <= now))
        .values(next_at=now + spacing)
    )
    return free.rowcount == 1


def _known(connection: Connection, issuer: str) -> None:
    connection.execute(
        database.insert(connection, database.ehr).values(issuer=issuer, failures=0).on_conflict_do_nothing()
    )


# --- for administrators -----------------------------------------------------------------------------------


def queue(connection: Connection, now: datetime, issuer: str | None = None) -> Queue:
    """What waits, of one EHR or of all."""
    table = database.job
    given_up = table.c.given_up_at.is_not(None)
    due = case((~given_up & (table.c.due_at <= now), table.c.due_at))
    counted = select(
        func.count(case((~given_up, 1))).label("waiting"),
        func.count(case((given_up, 1))).label("given_up"),
        func.min(due).label("oldest_due_at"),
    )
    row = connection.execute(counted.where(table.c.issuer == issuer) if issuer else counted).one()
    return Queue(row.waiting, row.given_up, row.oldest_due_at)


def left(
    connection: Connection, issuer: str, now: datetime, *, fewer_attempts_than: int = MOST_ATTEMPTS
) -> int:
    """How many jobs of this EHR are due, under way or to be tried again, given up ones not counted."""
    table = database.job
    started = (table.c.attempts > 0) & (table.c.attempts < fewer_attempts_than)
    query = select(func.count()).where(
        table.c.issuer == issuer,
        table.c.given_up_at.is_(None),
        or_(started, (table.c.attempts == 0) & (table.c.due_at <= now)),
    )
    return connection.execute(query).scalar_one()


def given_up(connection: Connection, vault: Vault, issuer: str, most: int = 1000) -> tuple[GivenUp, ...]:
    """The jobs of this EHR that wait for a person, the oldest first."""
    table = database.job
    rows = connection.execute(
        select(table)
        .where(table.c.issuer == issuer, table.c.given_up_at.is_not(None))
        .order_by(table.c.given_up_at)
        .limit(most)
    )
    return tuple(
        GivenUp(
            id=row.id,
            kind=Kind(row.kind),
            about=vault.open(row.sealed, str),
            attempts=row.attempts,
            asked_at=row.asked_at,
            given_up_at=row.given_up_at,
            problem=vault.open(row.problem, str) if row.problem else "",
        )
        for row in rows
    )


def try_again(connection: Connection, issuer: str, now: datetime, id_: str | None) -> int:
    """What was given up begins anew: that job, or all of this EHR. How many these were."""
    table = database.job
    which = (table.c.issuer == issuer) & table.c.given_up_at.is_not(None)
    if id_ is not None:
        which &= table.c.id == id_
    return connection.execute(
        update(table).where(which).values(given_up_at=None, attempts=0, due_at=now)
    ).rowcount


def _is(job: Job) -> ColumnElement[bool]:
    return database.job.c.id == job.id
