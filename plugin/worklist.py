"""The visits that this installation knows of: what waits, what is signed, what is stuck."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, case, delete, exists, func, select, union

from ..core.findings import Severity, Status
from ..core.visit import Discipline, History, Service
from ..fhir.normalise import PreparedVisit
from ..fhir.systems import CHARGED_STATUS
from ..launch.issuers import Issuer
from . import database, suggested
from .installation import Installation
from .outbox import State as ChargeState
from .outbox import encounter_key
from .review import Review
from .roles import Role
from .sessions import Opened

MOST = 2000  # so many are looked through, what waits before what is done; the page says where there are more
PER_PAGE = 25


class State(StrEnum):
    """Where a visit stands."""

    WAITING = "waiting"  # not signed
    LATE = "late"  # not signed, and its day is longer ago than the site allows: charges may be lost
    UNDOCUMENTED = "undocumented"  # the visit ended, and no service is documented
    UNEXPLAINED = "unexplained"  # charges are in the EHR, and no service is documented
    UNREAD = "unread"  # it could not be read; tried again by itself, or by an administrator
    CLOSED = "closed"  # charged elsewhere, or no longer a visit: nothing is left to do
    STUCK = "stuck"  # signed, and a charge is not where it belongs
    CHANGED = "changed"  # signed, and the chart says something else since
    SIGNED = "signed"


class Standing(StrEnum):
    """What the chart said of a visit when it was read last, whoever signed what."""

    OPEN = "open"
    UNDOCUMENTED = "undocumented"
    UNEXPLAINED = "unexplained"
    UNREAD = "unread"
    CHARGED = "charged"  # elsewhere: by others, or with another visit of the day
    GONE = "gone"  # cancelled or entered in error, or its services moved to another day or discipline


CLOSED = frozenset({Standing.CHARGED, Standing.GONE})
NO_SUCH_VISIT = "The chart has no such visit any more: it was cancelled, or its services moved."


class Weight(StrEnum):
    """The weightiest finding of a visit."""

    CRITICAL = "critical"
    WARNING = "warning"
    NONE = "none"


Facts = dict[str, str]  # what a chart says, by code, in short words: {"97110": "30 min"}


class Suggested(msgspec.Struct, frozen=True):
    """One line of a suggestion."""

    code: str
    modifiers: tuple[str, ...]
    units: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the list shows of a visit; sealed, since it names the patient."""

    date_of_service: date | None
    discipline: Discipline | None
    patient: str | None  # the name
    record_number: str | None
    therapists: tuple[str, ...]  # references of those who furnished the services
    units: int | None
    weight: Weight
    open_questions: int
    lines: tuple[Suggested, ...] = ()
    findings: tuple[tuple[str, Severity], ...] = ()  # ids of those that failed
    captured: bool = False  # it came by itself; False: somebody opened it
    standing: Standing = Standing.OPEN
    problem: str | None = None  # why it could not be read
    chart: Facts = {}  # as it was read last
    seen: Facts | None = None  # as it was when a person looked last, or else when it was captured first
    since_signing: tuple[str, ...] = ()  # how the chart differs from what was signed
    names: dict[str, str] = {}  # of the therapists, by reference, as far as the chart has them
    encounter: str | None = None  # "Encounter/..."; none in what was kept before it was
    history: History = History()  # this year, as a person knew it last
    read_at: datetime | None = (
        None  # when the EHR was asked for what stands here; none in what was kept before
    )

    @property
    def changes(self) -> tuple[str, ...]:
        """What is different from what a person saw last, a sentence each."""
        return () if self.seen is None else differences(self.seen, self.chart)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list."""

    visit: str
    summary: Summary
    state: State
    seen_at: datetime
    mine: bool
    seen: bool  # whether anybody looked at it


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


# --- what is kept of a visit ------------------------------------------------------------------------------


def remember(here: Installation, launch: Opened, key: str, reviewed: Review) -> None:
    """Keeps what the list shows of a visit that a person looks at, in place of what was kept before."""
    # Made again whenever the visit is looked at, so no look waits for the disk.
    with database.relaxed(here.engine) as connection:
        before = summary_of(connection, here, key)
        keep(
            connection,
            here,
            launch.issuer.iss,
            key,
            reviewed,
            captured=before is not None and before.captured,
            person=launch.person,
        )


def keep(
    connection: Connection,
    here: Installation,
    iss: str,
    key: str,
    reviewed: Review,
    *,
    captured: bool,
    person: str | None = None,
    also: Iterable[str] = (),
) -> Summary:
    """Keeps what the list shows of a visit, within the caller's transaction. ``person``: who looks at it.

    Where nobody does, who looked last and when stays. ``also`` are further references of those who furnished it.
    A chart that was read before what is kept, and says something else, changes nothing: an old tab.
    """
    before = summary_of(connection, here, key)
    prepared = reviewed.prepared
    standing = standing_of(reviewed)
    chart = {} if standing is Standing.GONE else facts_of(prepared)
    if before is not None and _is_overtaken(prepared, standing, chart, before):
        return before
    signed = _signed_facts(connection, here, key)
    failed = [finding for finding in reviewed.findings if finding.status is Status.FAIL]
    summary = Summary(
        date_of_service=reviewed.visit.date_of_service,
        discipline=reviewed.visit.discipline,
        patient=prepared.person.name,
        record_number=prepared.person.record_number,
        therapists=tuple(dict.fromkeys(one for many in prepared.performers.values() for one in many)),
        units=sum(line.units for line in reviewed.charged) if reviewed.suggestion else None,
        weight=_weight({finding.severity for finding in failed}),
        open_questions=len(reviewed.blocked),
        lines=tuple(
            Suggested(line.code, tuple(modifier.code for modifier in line.modifiers), line.units)
            for line in reviewed.charged
        ),
        findings=tuple(dict.fromkeys((finding.id, finding.severity) for finding in failed)),
        captured=captured,
        standing=standing,
        problem=NO_SUCH_VISIT if standing is Standing.GONE else None,
        chart=chart,
        seen=before.seen if before and before.seen is not None and person is None else chart,
        since_signing=() if signed is None else differences(signed, services_in(chart)),
        encounter=prepared.encounter,
        history=before.history if before and reviewed.visit.history == History() else reviewed.visit.history,
        names={
            one.reference: one.name
            for many in prepared.people.values()
            for one in many
            if one.reference and one.name
        },
        read_at=max((at for at in (prepared.read_at, before and before.read_at) if at), default=None),
    )
    if before is None:
        here.metrics.known(
            here.issuers.match(iss).id,
            reviewed.findings,
            reviewed.suggestion.checks_passed if reviewed.suggestion else (),
            captured=captured,
        )
    people = {*summary.therapists, *also}
    put(
        connection,
        here,
        iss,
        key,
        summary,
        person=person,
        patient=prepared.patient,
        encounter=prepared.encounter,
        people=people,
    )
    return summary


def _is_overtaken(prepared: PreparedVisit, standing: Standing, chart: Facts, before: Summary) -> bool:
    """Whether the EHR was asked again since, and the chart said something else."""
    if before.read_at is None or (prepared.read_at is not None and prepared.read_at >= before.read_at):
        return False
    return chart != before.chart or (standing is Standing.GONE) != (before.standing is Standing.GONE)


def put(
    connection: Connection,
    here: Installation,
    iss: str,
    key: str,
    summary: Summary,
    *,
    encounter: str,
    person: str | None = None,
    patient: str | None = None,
    people: Collection[str] = (),
) -> None:
    """Writes the row, and who furnished the visit."""
    table, furnished = database.known_visit, database.furnished
    values: dict[str, Any] = {
        "sealed": here.vault.seal(summary),
        "patient": here.vault.index("patient", iss, patient) if patient else None,
        "encounter": encounter_key(here.vault, iss, encounter),
        "closed": int(summary.standing in CLOSED),
    }
    seen = {"person": person or "", "seen_at": here.clock()}
    insert = database.insert(connection, table).values(visit=key, issuer=iss, **values, **seen)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[table.c.visit], set_=values if person is None else values | seen
        )
    )
    connection.execute(delete(furnished).where(furnished.c.visit == key))
    if people:
        rows = [{"visit": key, "performer": performer_key(here, iss, one)} for one in sorted(people)]
        connection.execute(furnished.insert(), rows)


def performer_key(here: Installation, iss: str, reference: str) -> str:
    """What the visits that somebody furnished are found by."""
    return here.vault.index("performer", iss, reference)


def summary_of(connection: Connection, here: Installation, key: str) -> Summary | None:
    """What is kept of a visit; it is not changed by anybody else until the transaction ends."""
    table = database.known_visit
    sealed = connection.scalar(select(table.c.sealed).where(table.c.visit == key).with_for_update())
    return here.vault.open(sealed, Summary) if sealed else None


def standing_of(reviewed: Review) -> Standing:
    """What the chart says of a visit."""
    if reviewed.prepared.cancelled:
        return Standing.GONE
    charges = [one for one in reviewed.prepared.charges if one.status in CHARGED_STATUS]
    if not reviewed.prepared.visit.services:
        return Standing.UNEXPLAINED if charges else Standing.UNDOCUMENTED
    counted = any(one.counted for one in charges)
    settled = reviewed.suggestion is not None and not reviewed.suggestion.ties
    return Standing.CHARGED if counted and settled and not reviewed.charged else Standing.OPEN


def facts_of(prepared: PreparedVisit) -> Facts:
    """What a chart says of a visit that a charge could rest on."""
    charges: dict[str, int] = {}
    for charge in prepared.charges:
        if charge.counted and charge.code:
            charges[charge.code] = charges.get(charge.code, 0) + (charge.units or 0)
    return {
        **documented(prepared.visit.services),
        **{f"charged {code}": f"{units} units" for code, units in sorted(charges.items())},
        **({"policy": prepared.policy_id} if prepared.policy_id else {}),
    }


def documented(services: Iterable[Service]) -> Facts:
    """The services by code, with their times."""
    by_code: dict[str, list[Service]] = {}
    for service in services:
        by_code.setdefault(service.code, []).append(service)
    return {code: ", ".join(sorted(map(_time_of, of_code))) for code, of_code in sorted(by_code.items())}


def _time_of(service: Service) -> str:
    if service.minutes is None and service.start and service.end:
        minutes, seconds = divmod(int((service.end - service.start).total_seconds()), 60)
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    if service.minutes is None:
        return "no minutes"
    own = service.minutes + service.concurrent_minutes
    if not service.assistant_minutes:
        return f"{own} min"
    by_assistant = f"{service.assistant_minutes} min by an assistant"
    return f"{own} min, {by_assistant}" if own else by_assistant


def differences(before: Facts, now: Facts) -> tuple[str, ...]:
    """What changed, a short line each."""
    return tuple(
        f"{name}: {before.get(name, 'nothing')} → {now.get(name, 'nothing')}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    )


def services_in(chart: Facts) -> Facts:
    """What a chart says of services, by code, without what was charged."""
    return {
        name: says for name, says in chart.items() if name != "policy" and not name.startswith("charged ")
    }


def _signed_facts(connection: Connection, here: Installation, key: str) -> Facts | None:
    """What the chart said when the visit was signed last; None: it is not signed."""
    table = database.decision
    sealed = connection.scalar(
        select(table.c.sealed)
        .where(table.c.visit == key, table.c.revision > suggested.REVISION)
        .order_by(table.c.revision.desc())
        .limit(1)
    )
    return documented(here.vault.open(sealed, _Signed).chart) if sealed else None


class _Signed(msgspec.Struct):
    """Of what was signed, the services as the chart had them."""

    chart: tuple[Service, ...] = ()


def _weight(failed: Collection[Severity]) -> Weight:
    if Severity.CRITICAL in failed:
        return Weight.CRITICAL
    return Weight.WARNING if Severity.WARNING in failed else Weight.NONE


# --- the list ---------------------------------------------------------------------------------------------


def sees_all(launch: Opened) -> bool:
    """Billers and administrators see every visit of their EHR; others those they furnished or worked on."""
    return bool((launch.roles or frozenset()) & {Role.BILLER, Role.ADMINISTRATOR})


def found(here: Installation, launch: Opened, filters: Filters) -> Found:
    """One page of the list, the newest date of service first. It only reads, so nobody waits who signs."""
    with database.reading(here.engine) as connection:
        entries, more = _entries(connection, here, launch)
    fitting = sorted(
        (entry for entry in entries if _fits(entry, filters)),
        key=lambda entry: (entry.summary.date_of_service or date.min, entry.seen_at),
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
    with database.reading(here.engine) as connection:
        entries, _more = _entries(connection, here, launch, visit)
    return next(iter(entries), None)


def encounter_for(here: Installation, launch: Opened, visit: str) -> str | None:
    """The id of the encounter of a visit on this person's list, where the launch is that patient's; else None."""
    entry = entry_of(here, launch, visit)
    patient = launch.session.context.patient
    if entry is None or entry.summary.encounter is None or patient is None:
        return None
    with database.reading(here.engine) as connection:
        theirs = connection.scalar(
            select(database.known_visit.c.patient).where(database.known_visit.c.visit == visit)
        )
    if theirs != here.vault.index("patient", launch.issuer.iss, f"Patient/{patient}"):
        return None
    return entry.summary.encounter.removeprefix("Encounter/")


def _entries(
    connection: Connection, here: Installation, launch: Opened, visit: str | None = None
) -> tuple[list[Entry], bool]:
    table, decision = database.known_visit, database.decision
    query = select(table).where(table.c.issuer == launch.issuer.iss)
    if visit is not None:
        query = query.where(table.c.visit == visit)
    if not sees_all(launch):
        mine = [
            select(worked.c.visit).where(worked.c.person == launch.person)
            for worked in (table.alias(), database.draft, decision)
        ]
        fhir_user = launch.session.context.fhir_user
        if fhir_user is not None:
            furnished = database.furnished
            key = performer_key(here, launch.issuer.iss, fhir_user)
            mine.append(select(furnished.c.visit).where(furnished.c.performer == key))
        theirs = union(*mine).subquery()
        query = query.join(theirs, theirs.c.visit == table.c.visit)
    # What waits comes before what is done, so that no number of those hides one of these.
    done = exists().where(decision.c.visit == table.c.visit, decision.c.revision > suggested.REVISION)
    ordered = query.order_by(table.c.closed, case((done, 1), else_=0), table.c.seen_at.desc())
    first = list(connection.scalars(ordered.with_only_columns(table.c.visit).limit(MOST + 1)))
    # Only of those that are listed: a clinic's years of signed visits are not read for a page of it.
    known = {
        row.visit: row for row in connection.execute(select(table).where(table.c.visit.in_(first[:MOST])))
    }
    signed = _signed_last(connection, first[:MOST])
    late = late_from(here, launch.issuer)
    entries = []
    for row in map(known.__getitem__, first[:MOST]):
        summary = here.vault.open(row.sealed, Summary)
        entries.append(
            Entry(
                visit=row.visit,
                summary=summary,
                state=state_of(summary, signed.get(row.visit), late),
                seen_at=row.seen_at,
                mine=row.person == launch.person,
                seen=row.person != "",
            )
        )
    return entries, len(first) > MOST


def _signed_last(connection: Connection, visits: Collection[str]) -> dict[str, set[str | None]]:
    """Of these visits those that are signed, with the states of the charges that were signed last."""
    decision, charge = database.decision, database.charge
    last = (
        select(decision.c.visit, func.max(decision.c.revision).label("revision"))
        .where(decision.c.visit.in_(list(visits)), decision.c.revision > suggested.REVISION)
        .group_by(decision.c.visit)
        .subquery()
    )
    signed: dict[str, set[str | None]] = {}
    for row in connection.execute(
        select(decision.c.visit, charge.c.state)
        .join(last, (decision.c.visit == last.c.visit) & (decision.c.revision == last.c.revision))
        .outerjoin(charge, charge.c.decision == decision.c.id)
    ):
        signed.setdefault(row.visit, set()).add(row.state)
    return signed


def late_from(here: Installation, issuer: Issuer) -> date:
    """A visit of before this day that is not signed is late."""
    today = here.clock().astimezone(ZoneInfo(issuer.time_zone)).date()
    return today - timedelta(days=here.capturing[issuer.id].late_after_days)


def state_of(summary: Summary, charges: Collection[str | None] | None, late: date) -> State:
    """``charges`` are the states of what was signed last; None: nothing was signed."""
    if charges is not None:
        if not set(charges) <= {ChargeState.CONFIRMED, None}:
            return State.STUCK
        return State.CHANGED if summary.since_signing else State.SIGNED
    if summary.standing is Standing.OPEN:
        day = summary.date_of_service
        return State.LATE if day is not None and day < late else State.WAITING
    return _UNSIGNED[summary.standing]


_UNSIGNED = {
    Standing.UNDOCUMENTED: State.UNDOCUMENTED,
    Standing.UNEXPLAINED: State.UNEXPLAINED,
    Standing.UNREAD: State.UNREAD,
    Standing.CHARGED: State.CLOSED,
    Standing.GONE: State.CLOSED,
}
TO_SIGN = frozenset({State.WAITING, State.LATE})


def _fits(entry: Entry, filters: Filters) -> bool:
    summary = entry.summary
    day = summary.date_of_service
    return (
        (
            filters.state is None
            or entry.state is filters.state
            or (filters.state is State.WAITING and entry.state in TO_SIGN)
        )
        and (filters.discipline is None or summary.discipline is filters.discipline)
        and (filters.weight is None or summary.weight is filters.weight)
        and (filters.therapist is None or filters.therapist in summary.therapists)
        and (filters.since is None or (day is not None and filters.since <= day))
        and (filters.until is None or (day is not None and day <= filters.until))
    )
