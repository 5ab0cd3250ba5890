"""Charges on their way to the EHR: intended, then sent, then known to be there, or known not to be.

A charge is stored in the transaction of its decision and its audit entry, before the EHR hears of it.
One writer a decision at a time (a lease), and no second try before a search for our identifier: a
time-out tells nothing about what the EHR did (https://hl7.org/fhir/R4/http.html#ccreate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import Connection, Engine, or_, select, update

from ..fhir.charge_item import Charge, find_charge, write_charge
from ..fhir.errors import Conflict, EhrError, NotAuthorized, RateLimited, Refused, Unreachable
from ..fhir.server import Server
from . import audit, database
from .vault import Vault

log = structlog.get_logger()

LEASE = timedelta(minutes=2)


class State(StrEnum):
    """Where a charge is. Only ``intended`` may be written without a search."""

    INTENDED = "intended"  # stored; the EHR has not been asked
    SENDING = "sending"  # the EHR is being asked; found so after a crash, it is unknown
    CONFIRMED = "confirmed"  # the EHR has it, under this reference
    REFUSED = "refused"  # the EHR said no
    UNKNOWN = "unknown"  # no answer, or none that tells


@dataclass(frozen=True, slots=True)
class Row:
    """One charge of a decision and what became of it."""

    charge: Charge
    state: State
    reference: str | None
    problem: str | None
    attempts: int


def intend(
    connection: Connection, vault: Vault, decision: str, charges: Iterable[Charge], now: datetime
) -> None:
    """Stores the charges of a decision, to be sent; within the caller's transaction."""
    for position, charge in enumerate(charges):
        connection.execute(
            database.charge.insert().values(
                identifier=charge.identifier,
                decision=decision,
                position=position,
                state=State.INTENDED,
                sealed=vault.seal(charge),
                attempts=0,
                updated_at=now,
            )
        )


def charges_of(connection: Connection, vault: Vault, decision: str) -> tuple[Row, ...]:
    """The charges of a decision, in its order."""
    table = database.charge
    rows = connection.execute(select(table).where(table.c.decision == decision).order_by(table.c.position))
    return tuple(
        Row(
            charge=vault.open(row.sealed, Charge),
            state=State(row.state),
            reference=vault.open(row.reference, str) if row.reference else None,
            problem=vault.open(row.problem, str) if row.problem else None,
            attempts=row.attempts,
        )
        for row in rows
    )


def send(
    engine: Engine,
    vault: Vault,
    server: Server,
    decision: str,
    *,
    who: str,
    clock: Callable[[], datetime],
) -> bool:
    """Writes what is not yet confirmed. False: somebody else is at it just now.

    Never raises for the EHR's sake: what happened to each charge stands in its row, and the next call
    goes on from there.
    """
    if not _leased(engine, decision, clock()):
        return False
    try:
        with engine.begin() as connection:
            rows = charges_of(connection, vault, decision)
        for row in rows:
            if row.state is State.CONFIRMED:
                continue
            _mark_sending(engine, decision, row.charge, clock())
            state, reference, problem = _tried(server, row)
            _settle(engine, vault, row.charge, state, who, clock(), reference=reference, problem=problem)
            if state in {State.INTENDED, State.UNKNOWN}:
                break  # the next one would meet the same wall
    finally:
        _release(engine, decision)
    return True


def _tried(server: Server, row: Row) -> tuple[State, str | None, str | None]:
    """One try at one charge: its state now, its reference, and what the EHR said against it."""
    # Only a charge that was never sent is written unseen: even a refusal may come from a server between
    # us and the EHR, after the EHR carried it out.
    never_sent = row.state is State.INTENDED
    as_before = State.INTENDED if never_sent else State.UNKNOWN
    try:
        written = None if never_sent else find_charge(server, row.charge)
    except Conflict as error:
        return State.REFUSED, None, _in_words(error)
    except EhrError as error:  # looking told nothing
        return as_before, None, _in_words(error)
    try:
        written = written or write_charge(server, row.charge)
    except (Unreachable, RateLimited, NotAuthorized) as error:
        # This try was not carried out; whether an earlier one was stays as doubtful as before.
        return as_before, None, _in_words(error)
    except Refused as error:
        return State.REFUSED, None, _in_words(error)
    except EhrError as error:
        return State.UNKNOWN, None, _in_words(error)
    return State.CONFIRMED, written.reference, None


def _in_words(error: EhrError) -> str:
    return " ".join([str(error), *(f"The EHR says: {words}" for words in error.words)])


def _mark_sending(engine: Engine, decision: str, charge: Charge, now: datetime) -> None:
    """Durable before the request leaves, so that a crash leaves a doubt and not a blank; renews the lease."""
    with engine.begin() as connection:
        table = database.charge
        connection.execute(
            update(table)
            .where(table.c.identifier == charge.identifier)
            .values(state=State.SENDING, updated_at=now, attempts=table.c.attempts + 1)
        )
        connection.execute(
            update(database.decision)
            .where(database.decision.c.id == decision)
            .values(leased_until=now + LEASE)
        )


def _settle(
    engine: Engine,
    vault: Vault,
    charge: Charge,
    state: State,
    who: str,
    now: datetime,
    *,
    reference: str | None = None,
    problem: str | None = None,
) -> None:
    """What became of a charge, and the audit entry of it."""
    with engine.begin() as connection:
        table = database.charge
        connection.execute(
            update(table)
            .where(table.c.identifier == charge.identifier)
            .values(
                state=state,
                updated_at=now,
                reference=vault.seal(reference) if reference else table.c.reference,
                problem=vault.seal(problem) if problem else None,
            )
        )
        audit.record(
            connection,
            vault,
            now=now,
            action=f"charge-{state}",
            who=who,
            what={"charge": charge.identifier, "reference": reference, "problem": problem},
        )
    log.info("charge", state=str(state), identifier=charge.identifier)


def _leased(engine: Engine, decision: str, now: datetime) -> bool:
    """Whether this caller is now the decision's one writer."""
    table = database.decision
    with engine.begin() as connection:
        taken = connection.execute(
            update(table)
            .where(table.c.id == decision, or_(table.c.leased_until.is_(None), table.c.leased_until < now))
            .values(leased_until=now + LEASE)
        )
    return taken.rowcount == 1


def _release(engine: Engine, decision: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            update(database.decision).where(database.decision.c.id == decision).values(leased_until=None)
        )
