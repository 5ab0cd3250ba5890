"""Charges on their way out: intended, then sent, then known to be there, or known not to be.

A charge is stored in the transaction of its decision and its audit entry, before anybody else hears of it.
One writer an encounter at a time: a lease that is renewed with every step and fences off whoever lost it.
No second try before a search for our identifier, and no search that finds nothing counts before the
longest request has ended and the other side's index has caught up: a time-out tells nothing about what
was done (https://hl7.org/fhir/R4/http.html#ccreate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select, update

from ..fhir.charge_item import Charge, Written
from ..fhir.claim import claim_identifier
from ..fhir.errors import EhrError, NotAuthorized, OnRecord, RateLimited, Refused, ServerFailed, Unreachable
from ..fhir.way import BY_IDENTIFIER, UPDATES, Way
from . import audit, database, leases
from .leases import Lease, LeaseLost
from .vault import Vault

log = structlog.get_logger()

# A process that slept between its note that it sends and the sending itself must not send any more. What
# still goes out has left before its lease ends: a token may be renewed on the way, and the request repeated.
LATEST_START = timedelta(seconds=15)
# Between tries at what cannot be reached, each pause twice as long as the one before.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=20), timedelta(minutes=15)
NOT_ASKED = "Whether it arrived cannot be asked for by this way. Look at billing's side, then settle it here."


class State(StrEnum):
    """Where a charge is."""

    INTENDED = "intended"  # stored, and not on the other side
    SENDING = "sending"  # being sent; found so after a crash, it is unknown
    CONFIRMED = "confirmed"  # done, as the row's ``how`` says
    REFUSED = "refused"  # the other side said no, and did nothing
    UNKNOWN = "unknown"  # no answer, or none that tells


DOUBTFUL = frozenset({State.SENDING, State.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Row:
    """One charge of a decision and what became of it."""

    charge: Charge
    state: State
    how: str | None  # a word of fhir.charge_item.HOW
    reference: str | None
    problem: str | None
    attempts: int
    prepared: tuple[str, ...] | None  # None: not yet prepared
    due_at: datetime | None  # nothing is done before; None: at once, or never without a person
    updated_at: datetime


@dataclass(frozen=True)
class Outbox:
    """The database's side of sending."""

    engine: Engine
    vault: Vault
    clock: Callable[[], datetime]


def intend(
    connection: Connection, vault: Vault, decision: str, charges: Iterable[Charge], now: datetime
) -> None:
    """Stores the charges of a decision, to be sent; within the caller's transaction."""
    rows = intended(vault, decision, charges, now)
    if rows:
        connection.execute(database.charge.insert(), rows)


def intended(
    vault: Vault, decision: str, charges: Iterable[Charge], now: datetime, first: int = 0
) -> list[dict[str, Any]]:
    """The rows of charges that nobody has heard of yet, sealed; their positions count from ``first``."""
    return [
        {
            "identifier": charge.identifier,
            "decision": decision,
            "position": position,
            "state": State.INTENDED,
            "sealed": vault.seal_bytes(charge.to_json()),
            "attempts": 0,
            "updated_at": now,
        }
        for position, charge in enumerate(charges, start=first)
    ]


def charges_of(connection: Connection, vault: Vault, decision: str) -> tuple[Row, ...]:
    """The charges of a decision, in its order."""
    table = database.charge
    rows = connection.execute(select(table).where(table.c.decision == decision).order_by(table.c.position))
    return tuple(
        Row(
            charge=vault.open(row.sealed, Charge),
            state=State(row.state),
            how=row.how,
            reference=vault.open(row.reference, str) if row.reference else None,
            problem=vault.open(row.problem, str) if row.problem else None,
            attempts=row.attempts,
            prepared=vault.open(row.prepared, tuple[str, ...]) if row.prepared else None,
            due_at=row.due_at,
            updated_at=row.updated_at,
        )
        for row in rows
    )


def send(
    here: Outbox,
    way: Way,
    decision: str,
    *,
    who: str,
    by_hand: bool = False,
) -> bool:
    """Looks for what is doubtful and writes what is not yet written. False: somebody else is at it.

    Never raises for the other side's sake: what happened to each charge stands in its row, and the next
    call goes on from there. ``by_hand``: a person asks, so what was refused is tried again, and what waits for
    the EHR does not wait. What is in doubt waits whoever asks.
    """
    encounter = _encounter_of(here, decision)
    if encounter is None:
        return True
    with here.engine.begin() as connection:
        lease = leases.take(connection, encounter, here.clock())
    if lease is None:
        return False
    writer = _Writer(here, way, decision, who, lease)
    try:
        writer.work(by_hand=by_hand)
    except LeaseLost:
        log.warning("lease_lost", decision=decision)
    finally:
        with here.engine.begin() as connection:
            leases.release(connection, lease)
    return True


@dataclass(frozen=True)
class _Writer:
    here: Outbox
    way: Way
    decision: str
    who: str
    lease: Lease

    def work(self, *, by_hand: bool) -> None:
        with self.here.engine.begin() as connection:
            if superseded(connection, self.decision):
                return
            rows = charges_of(connection, self.here.vault, self.decision)
        looked = tuple(self._looked(row, by_hand=by_hand) for row in rows)
        rows = tuple(row for row, _ in looked)
        held = {row.charge.identifier for row, hold in looked if hold}
        again = {State.INTENDED, State.REFUSED} if by_hand else {State.INTENDED}
        for withdrawals in (True, False):
            of_kind = tuple(row for row in rows if row.charge.takes_back is withdrawals)
            if any(row.state in DOUBTFUL for row in of_kind):
                return  # what comes next would meet the same wall, or overtake it
            # Of a charge that was not carried out it is only a pause, and the next one would meet the same wall.
            if not by_hand and any(row.state in again and not self._due(row) for row in of_kind):
                return
            ready = tuple(row for row in of_kind if row.state in again and row.charge.identifier not in held)
            groups = (ready,) if self.way.together else tuple((row,) for row in ready)
            for group in groups:
                if group and not self._write(group):
                    return
            with self.here.engine.begin() as connection:
                rows = charges_of(connection, self.here.vault, self.decision)
            if withdrawals and any(
                row.charge.takes_back and row.state is not State.CONFIRMED for row in rows
            ):
                return  # the new charge beside the old one would be one too many

    def _due(self, row: Row) -> bool:
        return row.due_at is None or row.due_at <= self.here.clock()

    def _looked(self, row: Row, *, by_hand: bool) -> tuple[Row, bool]:
        """The row after a search for it, where there is a doubt, or a refused one is tried again.

        And whether it must not be written, whoever asks: another record stands in its place, or nobody
        could say whether it is there.
        """
        held = False
        tried_again = by_hand and row.state is State.REFUSED and self.way.by_identifier
        if row.state not in DOUBTFUL and not tried_again:
            return row, False
        # Without what was prepared (after a restore), likeness or a file's name tell nothing.
        if not self.way.finds or (row.prepared is None and not self.way.by_identifier):
            if row.state is State.SENDING or row.problem is None:
                self._settle((row,), State.UNKNOWN, problem=NOT_ASKED)
            return self._again(row), False
        try:
            found = self.way.find(row.charge, row.prepared or ())
        except OnRecord as error:  # several, or another: a person has to look
            if self.way.by_identifier:
                self._settle((row,), State.REFUSED, problem=_in_words(error))
            else:  # one of them may be ours, and once it were refused nobody could look for it again
                self._still_doubtful(row, _in_words(error))
            held = True
        except EhrError as error:
            self._still_doubtful(row, _in_words(error))
            held = True
        else:
            if found:
                self._settle((row,), State.CONFIRMED, written=(found,))
            elif row.state in DOUBTFUL:
                self._not_found(row)
        return self._again(row), held

    def _still_doubtful(self, row: Row, problem: str) -> None:
        if row.state in DOUBTFUL:
            # What was accepted stays so: else the next look that finds nothing would have it sent again.
            self._settle((row,), State.UNKNOWN, problem=problem, how=row.how, due_at=self._later(row))

    def _not_found(self, row: Row) -> None:
        """Nothing is there. An answer only after the wait, and never where its receipt was acknowledged."""
        now = self.here.clock()
        conclusive = row.due_at or row.updated_at + self.way.wait
        if row.how == "accepted":
            problem = "The EHR took the charge and does not show it yet. It will be looked for again."
            self._settle((row,), State.UNKNOWN, problem=problem, how="accepted", due_at=self._later(row))
        elif now >= conclusive:
            self._settle((row,), State.INTENDED)
        else:
            problem = (
                f"It was not found yet, which says nothing before {conclusive:%H:%M:%S} UTC. "
                "It will be looked for again."
            )
            self._settle((row,), State.UNKNOWN, problem=problem, due_at=conclusive)

    def _later(self, row: Row) -> datetime:
        """After the wait, or half as long as it has been going on: ever more seldom."""
        now = self.here.clock()
        return now + max(self.way.wait, (now - row.charge.entered_at) / 2)

    def _again(self, row: Row) -> Row:
        with self.here.engine.begin() as connection:
            rows = charges_of(connection, self.here.vault, self.decision)
        again = next((each for each in rows if each.charge.identifier == row.charge.identifier), None)
        if again is None:  # a sign-off took it over
            raise LeaseLost
        return again

    def _write(self, group: tuple[Row, ...]) -> bool:
        """One try. Whether the next ones are worth trying."""
        charges = tuple(row.charge for row in group)
        go_on = sent = False
        try:
            self._refuse_suggestions(charges)
            self._check_lease()
            prepared = self.way.prepare(charges)
            marked = self._mark_sending(group, prepared)
            if self.here.clock() - marked > LATEST_START:
                self._settle(group, State.INTENDED, problem="It was too late to send it; nothing was sent.")
                return go_on
            sent = True
            written = self.way.write(charges, prepared)
        except (Unreachable, RateLimited, NotAuthorized) as error:
            self._not_carried_out(group, error)
        except ServerFailed as error:
            (self._unknown if sent else self._not_carried_out)(group, error)
        except Refused as error:
            self._settle(group, State.REFUSED, problem=_in_words(error))
            go_on = True
        except EhrError as error:
            (self._unknown if sent else self._not_carried_out)(group, error)
        except ValueError as error:  # it makes no valid record; nothing was sent
            self._settle(group, State.REFUSED, problem=str(error))
            go_on = True
        else:
            accepted = any(each.how == "accepted" for each in written)
            state = State.UNKNOWN if accepted else State.CONFIRMED
            due = self.here.clock() + self.way.wait if accepted else None
            self._settle(group, state, written=written, due_at=due)
            go_on = True
        return go_on

    def _refuse_suggestions(self, charges: tuple[Charge, ...]) -> None:
        """Sign-off sees to it; a way that knows charges and credits alone would make a charge of one taken back."""
        if self.way.name not in UPDATES and any(
            charge.suggested or (charge.takes_back and not charge.withdraws) for charge in charges
        ):
            raise ValueError(
                "What was suggested before review can only be changed where it stands. Nothing was sent."
            )

    def _not_carried_out(self, group: tuple[Row, ...], error: EhrError) -> None:
        """The way's preparations are never in doubt: whatever becomes of them, no charge has left."""
        due = self._not_before(group[0], error)
        self._settle(group, State.INTENDED, problem=_in_words(error), due_at=due)

    def _not_before(self, row: Row, error: EhrError) -> datetime | None:
        """When what was not carried out is tried again; a new permission is used at once."""
        if isinstance(error, NotAuthorized):
            return None
        asked_for = error.retry_after if isinstance(error, RateLimited) else None
        if asked_for:
            return self.here.clock() + timedelta(seconds=asked_for)
        before = row.due_at - row.updated_at if row.due_at and row.state is State.INTENDED else None
        pause = max(FIRST_PAUSE, 2 * before) if before else FIRST_PAUSE
        return self.here.clock() + min(pause, LONGEST_PAUSE)

    def _unknown(self, group: tuple[Row, ...], error: EhrError) -> None:
        due = self.here.clock() + self.way.wait if self.way.finds else None
        problem = _in_words(error) if self.way.finds else f"{_in_words(error)} {NOT_ASKED}"
        self._settle(group, State.UNKNOWN, problem=problem, due_at=due)

    def _mark_sending(self, group: tuple[Row, ...], prepared: tuple[str, ...]) -> datetime:
        """Durable before the request leaves, so that a crash leaves a doubt and not a blank."""
        now = self.here.clock()
        table = database.charge
        with self.here.engine.begin() as connection:
            leases.renew(connection, self.lease, now)
            connection.execute(
                update(table)
                .where(table.c.identifier.in_([row.charge.identifier for row in group]))
                .values(
                    state=State.SENDING,
                    updated_at=now,
                    due_at=now + leases.LEASE + self.way.wait,
                    attempts=table.c.attempts + 1,
                    prepared=self.here.vault.seal(prepared),
                )
            )
        return now

    def _settle(
        self,
        group: tuple[Row, ...],
        state: State,
        *,
        written: tuple[Written, ...] = (),
        how: str | None = None,
        problem: str | None = None,
        due_at: datetime | None = None,
    ) -> None:
        """What became of these charges, with an audit entry for what changed; nothing where the lease is lost."""
        now = self.here.clock()
        vault = self.here.vault
        with self.here.engine.begin() as connection:
            leases.renew(connection, self.lease, now)
            for row, done in zip(group, written or (None,) * len(group), strict=True):
                values = {
                    "state": state,
                    "updated_at": now,
                    "due_at": due_at,
                    "how": done.how if done else how,
                    "problem": vault.seal(problem) if problem else None,
                }
                if done:
                    values["reference"] = vault.seal(done.reference)
                if done and (
                    row.charge.suggested or row.charge.takes_back
                ):  # what tells our version from one that others made of it
                    values["prepared"] = vault.seal((done.version,) if done.version else ())
                connection.execute(
                    update(database.charge)
                    .where(database.charge.c.identifier == row.charge.identifier)
                    .values(**values)
                )
                if (row.state, row.how, row.problem) == (state, values["how"], problem):
                    continue  # tried or looked for again, and it is as it was
                audit.record(
                    connection,
                    vault,
                    now=now,
                    action=f"charge-{state}",
                    who=self.who,
                    issuer=issuer_of(connection, self.decision),
                    what={
                        "charge": row.charge.identifier,
                        "reference": done.reference if done else None,
                        "how": done.how if done else how,
                        "problem": problem,
                    },
                )
        for row in group:
            log.info("charge", state=str(state), identifier=row.charge.identifier)

    def _check_lease(self) -> None:
        with self.here.engine.begin() as connection:
            leases.renew(connection, self.lease, self.here.clock())


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore from a backup left in doubt: looked for by the worker, or left to a person."""

    looked_for: int
    for_a_person: int


RESTORED = (
    "The database was restored from a backup. Whether this was sent after the backup cannot be asked for by "
    "this way. Look on billing's side, then settle it here."
)


def restored(here: Outbox, who: str) -> Restored:
    """After a restore, before anything is sent: whatever was on its way may have arrived since the backup.

    What is found under our identifier is looked for before it is sent; of the rest a person says whether it
    is there. A ticket is not sent, so it stays.
    """
    charge, decision = database.charge, database.decision
    now = here.clock()
    looked_for = for_a_person = 0
    with here.engine.begin() as connection:
        rows = connection.execute(
            select(charge.c.identifier, charge.c.decision, charge.c.state, decision.c.way)
            .join_from(charge, decision)
            .where(charge.c.state != State.CONFIRMED, decision.c.way != "ticket")
        ).all()
        for row in rows:
            values: dict[str, Any] = {"state": State.UNKNOWN, "updated_at": now}
            if row.way in BY_IDENTIFIER:
                if row.state != State.INTENDED:
                    continue  # it is looked for as it is
                values |= {
                    "due_at": now,
                    "prepared": _prepared_again(connection, here, row.decision, row.way),
                }
                looked_for += 1
            else:
                values |= {"due_at": None, "prepared": None, "problem": here.vault.seal(RESTORED)}
                for_a_person += 1
            connection.execute(update(charge).where(charge.c.identifier == row.identifier).values(values))
        audit.record(
            connection,
            here.vault,
            now=now,
            action="restored",
            who=who,
            issuer=None,
            what={"looked_for": looked_for, "for_a_person": for_a_person},
        )
    return Restored(looked_for, for_a_person)


def _prepared_again(connection: Connection, here: Outbox, decision: str, way: str) -> bytes | None:
    """A Claim is found by an identifier that follows from all of its charges."""
    if way != "claim":
        return None
    charges = tuple(row.charge for row in charges_of(connection, here.vault, decision))
    return here.vault.seal((claim_identifier(tuple(each for each in charges if not each.withdraws)),))


def settle_by_hand(here: Outbox, identifier: str, *, arrived: bool, who: str, why: str) -> bool:
    """A person looked on the other side: it is there, or it is not. False: nothing doubtful by that name."""
    now = here.clock()
    table = database.charge
    state = State.CONFIRMED if arrived else State.INTENDED
    with here.engine.begin() as connection:
        settled = connection.execute(
            update(table)
            .where(table.c.identifier == identifier, table.c.state == State.UNKNOWN)
            .values(
                state=state,
                how="by-hand" if arrived else None,
                updated_at=now,
                due_at=None,
                problem=here.vault.seal(f"{who}: {why}"),
            )
        ).rowcount
        if settled:
            decision = connection.scalar(select(table.c.decision).where(table.c.identifier == identifier))
            audit.record(
                connection,
                here.vault,
                now=now,
                action=f"charge-{state}",
                who=who,
                issuer=issuer_of(connection, decision or ""),
                what={"charge": identifier, "by_hand": True, "why": why},
            )
    return bool(settled)


def encounter_key(vault: Vault, issuer: str, encounter: str) -> str:
    """What a lease is found by."""
    return vault.index("encounter", issuer, encounter)


def issuer_of(connection: Connection, decision: str) -> str | None:
    """The EHR of a decision."""
    return connection.scalar(select(database.decision.c.issuer).where(database.decision.c.id == decision))


def _encounter_of(here: Outbox, decision: str) -> str | None:
    with here.engine.begin() as connection:
        row = connection.execute(
            select(database.charge.c.sealed, database.decision.c.issuer)
            .join_from(database.charge, database.decision)
            .where(database.charge.c.decision == decision)
            .limit(1)
        ).first()
    if row is None:
        return None
    return encounter_key(here.vault, row.issuer, here.vault.open(row.sealed, Charge).encounter)


def charge_in(vault: Vault, sealed: bytes) -> Charge:
    """A stored charge."""
    return vault.open(sealed, Charge)


def superseded(connection: Connection, decision: str) -> bool:
    """Whether a later decision on the same visit stands in this one's place."""
    mine, other = database.decision.alias(), database.decision.alias()
    return (
        connection.scalar(
            select(other.c.id)
            .join_from(mine, other, mine.c.visit == other.c.visit)
            .where(mine.c.id == decision, other.c.revision > mine.c.revision)
            .limit(1)
        )
        is not None
    )


def _in_words(error: EhrError) -> str:
    return " ".join([str(error), *(f"The EHR says: {words}" for words in error.words)])
