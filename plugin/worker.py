"""What goes on without anybody looking: charges that wait are looked for and sent; what is odd is reported."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import Connection, and_, or_, select

from ..fhir.charge_item import withdrawal_identifier
from ..fhir.errors import EhrError, OnRecord
from ..fhir.server import Server
from ..fhir.way import Way, WayName
from ..launch.context import Session
from ..launch.errors import LaunchRefused
from . import database, outbox
from .installation import Installation
from .outbox import Row, State
from .sessions import Opened, server_for
from .sign_off import outgoing
from .ways import WITHOUT_EHR

log = structlog.get_logger()

EVERY = 20  # seconds
LONG = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pass:
    """One round over what waits: decisions that were worked on, and those that nobody is signed in for."""

    worked_on: int
    without_access: int


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something about a charge that a person has to look at. No patient's data in it."""

    kind: str  # "lost", "doubled", "unknown", "waiting", "stranger" or "not-looked"
    decision: str
    charge: str | None
    says: str


def work_once(here: Installation) -> Pass:
    """Looks at every decision that has something due. Safe beside any number of other workers."""
    worked_on = without_access = 0
    for decision, issuer_iss, person, way_name in _due(here):
        found = _way(here, issuer_iss, person, way_name, decision)
        if found is None:
            without_access += 1
            continue
        way, who = found
        outbox.send(here.outbox, way, decision, who=who)
        worked_on += 1
    return Pass(worked_on, without_access)


def work(here: Installation, stop: threading.Event, every: float = EVERY) -> None:
    """Again and again, until told to stop. An error of one round does not end the next."""
    while not stop.wait(every):
        try:
            done = work_once(here)
        except Exception as error:  # noqa: BLE001 - a worker that dies silently is worse than any error
            log.error("worker_failed", why=type(error).__name__)  # noqa: TRY400 - messages may hold data
        else:
            if done.worked_on:
                log.info("worked", decisions=done.worked_on, without_access=done.without_access)


def reconcile(here: Installation) -> tuple[Oddity, ...]:
    """Compares what was written with what the other side has, and names whatever nobody could know."""
    with here.engine.begin() as connection:
        table = database.decision
        decisions = connection.execute(
            select(table.c.id, table.c.issuer, table.c.person, table.c.way).order_by(table.c.signed_at)
        ).all()
    return tuple(
        oddity
        for row in decisions
        for oddity in _oddities(here, row.id, _way(here, row.issuer, row.person, row.way, row.id))
    )


def _oddities(here: Installation, decision: str, found: tuple[Way, str] | None) -> Iterator[Oddity]:
    with here.engine.begin() as connection:
        rows = outbox.charges_of(connection, here.vault, decision)
        superseded = outbox.superseded(connection, decision)
        taken_back = _taken_back(connection, here, rows)
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
        and not row.charge.withdraws
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


def _taken_back(connection: Connection, here: Installation, rows: tuple[Row, ...]) -> set[str]:
    """Of these charges, those that a later decision took back."""
    identifiers = [withdrawal_identifier(row.charge) for row in rows]
    confirmed = connection.scalars(
        select(database.charge.c.sealed).where(
            database.charge.c.identifier.in_(identifiers), database.charge.c.state == State.CONFIRMED
        )
    )
    return {
        charge.withdraws for sealed in confirmed if (charge := outbox.charge_in(here.vault, sealed)).withdraws
    }


def _due(here: Installation) -> list[tuple[str, str, str, WayName]]:
    """Decisions with a charge that waits, is being sent, or is due to be looked for."""
    charge, decision = database.charge, database.decision
    now = here.clock()
    waiting = or_(
        and_(charge.c.state == State.INTENDED, or_(charge.c.due_at.is_(None), charge.c.due_at <= now)),
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
        session = Session.from_json(here.vault.open_bytes(row.session))
        if rows and f"Patient/{session.context.patient}" == rows[0].charge.patient:
            launch = Opened(row.id, issuer, session, row.person)
            server = _server(here, launch)
            if server is not None:
                return outgoing(here, issuer, name, server, session), f"Quarterhour for {launch.who}"
    return None


def _server(here: Installation, launch: Opened) -> Server | None:
    try:
        return server_for(here, launch)
    except LaunchRefused:  # its permission has run out
        return None
