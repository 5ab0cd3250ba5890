"""The visits that this installation knows of: what waits, what is signed, what is stuck."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select

from ..core.findings import Severity, Status
from ..core.visit import Discipline
from . import database
from .installation import Installation
from .outbox import State as ChargeState
from .review import Review
from .roles import Role
from .sessions import Opened

_FORGET = delete(database.known_visit).where(database.known_visit.c.visit == bindparam("key"))
_REMEMBER = database.known_visit.insert()

MOST = 2000  # the newest that are looked through; the page says where there are more
PER_PAGE = 25


class State(StrEnum):
    """Where a visit stands."""

    WAITING = "waiting"  # looked at, not signed
    STUCK = "stuck"  # signed, and a charge is not where it belongs
    SIGNED = "signed"


class Weight(StrEnum):
    """The weightiest finding of a visit."""

    CRITICAL = "critical"
    WARNING = "warning"
    NONE = "none"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the list shows of a visit; sealed, since it names the patient."""

    date_of_service: date
    discipline: Discipline | None
    patient: str | None  # the name
    record_number: str | None
    therapists: tuple[str, ...]  # references of those who furnished the services
    units: int | None
    weight: Weight
    open_questions: int
    names: dict[str, str] = {}  # of the therapists, by reference, as far as the chart has them


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list."""

    visit: str
    summary: Summary
    state: State
    seen_at: datetime
    mine: bool


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list is narrowed to. Nothing here tells of a patient, so it may stand in an address."""

    state: State | None = None
    discipline: Discipline | None = None
    weight: Weight | None = None
    therapist: str | None = None
    since: date | None = None
    until: date | None = None
    page: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the list."""

    entries: tuple[Entry, ...]
    total: int
    pages: int
    therapists: tuple[tuple[str, str], ...]  # to choose from: reference, name
    more: bool  # there are older visits that were not looked through


def remember(here: Installation, launch: Opened, key: str, reviewed: Review) -> None:
    """Keeps what the list shows of a visit, in place of what was kept before."""
    prepared = reviewed.prepared
    failed = {finding.severity for finding in reviewed.findings if finding.status is Status.FAIL}
    weight = (
        Weight.CRITICAL
        if Severity.CRITICAL in failed
        else Weight.WARNING
        if Severity.WARNING in failed
        else Weight.NONE
    )
    summary = Summary(
        date_of_service=reviewed.visit.date_of_service,
        discipline=reviewed.visit.discipline,
        patient=prepared.person.name,
        record_number=prepared.person.record_number,
        therapists=tuple(dict.fromkeys(one for many in prepared.performers.values() for one in many)),
        units=sum(line.units for line in reviewed.charged) if reviewed.suggestion else None,
        weight=weight,
        open_questions=len(reviewed.blocked),
        names={
            one.reference: one.name
            for many in prepared.people.values()
            for one in many
            if one.reference and one.name
        },
    )
    row = {
        "visit": key,
        "issuer": launch.issuer.iss,
        "person": launch.person,
        "seen_at": here.clock(),
        "sealed": here.vault.seal(summary),
    }
    # Made again whenever the visit is looked at, so no look waits for the disk.
    with database.relaxed(here.engine) as connection:
        connection.execute(_FORGET, {"key": key})
        connection.execute(_REMEMBER, row)


def sees_all(launch: Opened) -> bool:
    """Billers and administrators see every visit of their EHR; others those that they worked on."""
    return bool((launch.roles or frozenset()) & {Role.BILLER, Role.ADMINISTRATOR})


def found(here: Installation, launch: Opened, filters: Filters) -> Found:
    """One page of the list, the newest date of service first."""
    with here.engine.begin() as connection:
        entries, more = _entries(connection, here, launch)
    fitting = sorted(
        (entry for entry in entries if _fits(entry, filters)),
        key=lambda entry: (entry.summary.date_of_service, entry.seen_at),
        reverse=True,
    )
    pages = max(1, -(-len(fitting) // PER_PAGE))
    page = min(max(1, filters.page), pages)
    therapists = {
        one: entry.summary.names.get(one, one) for entry in entries for one in entry.summary.therapists
    }
    return Found(
        entries=tuple(fitting[(page - 1) * PER_PAGE : page * PER_PAGE]),
        total=len(fitting),
        pages=pages,
        therapists=tuple(sorted(therapists.items(), key=lambda one: one[1])),
        more=more,
    )


def entry_of(here: Installation, launch: Opened, visit: str) -> Entry | None:
    """One visit, if this person may see it."""
    with here.engine.begin() as connection:
        entries, _more = _entries(connection, here, launch, visit)
    return next(iter(entries), None)


def _entries(
    connection: Connection, here: Installation, launch: Opened, visit: str | None = None
) -> tuple[list[Entry], bool]:
    table, decision, charge = database.known_visit, database.decision, database.charge
    query = select(table).where(table.c.issuer == launch.issuer.iss)
    if visit is not None:
        query = query.where(table.c.visit == visit)
    if not sees_all(launch):
        own = [
            select(worked.c.visit).where(worked.c.person == launch.person)
            for worked in (database.draft, decision)
        ]
        query = query.where(
            (table.c.person == launch.person) | table.c.visit.in_(own[0]) | table.c.visit.in_(own[1])
        )
    rows = connection.execute(query.order_by(table.c.seen_at.desc()).limit(MOST + 1)).all()
    newest = select(decision.c.visit, func.max(decision.c.revision).label("revision")).group_by(
        decision.c.visit
    )
    if visit is not None:
        newest = newest.where(decision.c.visit == visit)
    last = newest.subquery()
    signed: dict[str, set[str | None]] = {}
    for row in connection.execute(
        select(decision.c.visit, charge.c.state)
        .join(last, (decision.c.visit == last.c.visit) & (decision.c.revision == last.c.revision))
        .outerjoin(charge, charge.c.decision == decision.c.id)
    ):
        signed.setdefault(row.visit, set()).add(row.state)
    entries = [
        Entry(
            visit=row.visit,
            summary=here.vault.open(row.sealed, Summary),
            state=_state(signed.get(row.visit)),
            seen_at=row.seen_at,
            mine=row.person == launch.person,
        )
        for row in rows[:MOST]
    ]
    return entries, len(rows) > MOST


def _state(charges: Iterable[str | None] | None) -> State:
    if charges is None:
        return State.WAITING
    return State.SIGNED if set(charges) <= {ChargeState.CONFIRMED, None} else State.STUCK


def _fits(entry: Entry, filters: Filters) -> bool:
    summary = entry.summary
    return (
        (filters.state is None or entry.state is filters.state)
        and (filters.discipline is None or summary.discipline is filters.discipline)
        and (filters.weight is None or summary.weight is filters.weight)
        and (filters.therapist is None or filters.therapist in summary.therapists)
        and (filters.since is None or filters.since <= summary.date_of_service)
        and (filters.until is None or summary.date_of_service <= filters.until)
    )
