"""Suggestions that stand in the EHR before anybody reviewed them: `planned` ChargeItems with our tag.

A site's option (``[issuers.NAME.writing] suggest = true``), for ways that can update a charge. What capture
and the review page call:

    write_suggestions(here, issuer, server, visit, reviewed) -> Standing
        ``visit``: flow.key_of's key. ``reviewed``: review(prepared, Answers(), here.library). Written as they
        are now: new lines created, changed ones updated, others aborted; none while the review is blocked.
        Safe to repeat. Does nothing once the visit is signed, or while what a person turned down is the same.
    take_back_suggestions(here, issuer, server, visit, why) -> Standing
        Aborts them: the visit was cancelled, or charged elsewhere. With ``who``, a person turned them down.
    resume(here, issuer, server, visit) -> Standing
        Goes on where the EHR did not answer. ``waiting(here)`` lists what has something due.
    left(here, visit) -> rows
        What is not known to be gone from the EHR; where charges leave by a way that cannot change it there,
        it is taken back before anything is signed.

``Standing.due_at`` says when to come again; None: not before something changes. The server may be a
clinician's or a backend service's; no person's permission is needed, for nothing here can be billed.

They are kept as revision 0 of the visit's decisions, with charges in the outbox like any other: the same
identifiers, lease and search before a second try. Sign-off takes their rows over in its own transaction, so
that a suggestion becomes what was signed and never stands beside it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from ..fhir.charge_item import Charge, Stood
from ..fhir.server import Server
from ..fhir.systems import APP
from ..fhir.way import UPDATES, WayName, way_for
from ..launch.issuers import Issuer
from . import audit, database, leases, outbox
from .charges import charges_from
from .installation import Installation
from .outbox import Row, State
from .review import Review
from .ways import way_by

REVISION = 0  # a visit's suggestion; its decisions count from 1
NO_LONGER = "Taken back by Quarterhour: it is no longer suggested."
NOT_SIGNED = "Taken back: it was suggested, and the clinician signed something else."


@dataclass(frozen=True, slots=True)
class Standing:
    """A visit's suggestion in the outbox, and what keeps it from being written; both empty: there is none."""

    rows: tuple[Row, ...] = ()
    why_not: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do about it but to review it."""
        return all(row.state in {State.CONFIRMED, State.REFUSED} for row in self.rows)

    @property
    def due_at(self) -> datetime | None:
        """When to go on; None where there is nothing to go on with. What is in doubt holds up the rest."""
        left = [row for row in self.rows if row.state not in _ENDED]
        doubtful = [row for row in left if row.state in outbox.DOUBTFUL]
        return min((row.due_at or row.updated_at for row in doubtful or left), default=None)


_ENDED = {State.CONFIRMED, State.REFUSED}


def write_suggestions(
    here: Installation,
    issuer: Issuer,
    server: Server,
    visit: str,
    reviewed: Review,
    *,
    who: str = APP,
    person: str = "",
) -> Standing:
    """Puts what is suggested now into the outbox and sends it. Never raises for the EHR's sake.

    ``who`` and ``person`` (an index, as of a launch) name the one whose page it was, if it was anybody's.
    """
    way, why_not = _way_of(here, issuer, server)
    if way is None:
        return Standing(why_not=why_not)
    now = here.clock()
    lines = () if reviewed.blocked else charges_from(here, issuer, reviewed, now, enterer=APP)
    wanted = tuple(replace(charge, status="planned", suggested=True) for charge in lines)
    with here.engine.begin() as connection:
        hold(connection, visit)
        if _is_signed(connection, visit):
            return Standing()
        before = _suggestion(connection, visit)
        record: dict[str, Any] = here.vault.open(before.sealed) if before else {"turned_down": None}
        if record["turned_down"] == _said(wanted):
            return standing(here, visit, connection)
        if before is None and not wanted:
            return Standing()
        decision = before.id if before else secrets.token_hex(16)
        if before is None:
            _insert(connection, here, decision, visit, issuer, way, person, now)
        else:
            _keep(connection, here, decision, None)
        mine = _Over(here, connection, issuer.iss, decision, decision, now)
        changed = mine.put(wanted, NO_LONGER, APP)
        if changed:
            audit.record(
                connection,
                here.vault,
                now=now,
                action="suggested",
                who=who,
                issuer=issuer.iss,
                visit=visit,
                what={"charges": changed},
            )
    return resume(here, issuer, server, visit, who=who)


def take_back_suggestions(
    here: Installation,
    issuer: Issuer,
    server: Server,
    visit: str,
    why: str,
    *,
    who: str = APP,
    by_hand: bool = False,
) -> Standing:
    """Aborts what is suggested. A person's word (``who``) stands until something else is suggested.

    ``by_hand``: as ``outbox.send``.
    """
    now = here.clock()
    with here.engine.begin() as connection:
        hold(connection, visit)
        before = _suggestion(connection, visit)
        if before is None or _is_signed(connection, visit):
            return Standing()
        rows = outbox.charges_of(connection, here.vault, before.id)
        if who != APP:
            _keep(connection, here, before.id, _said(row.charge for row in rows if not row.charge.takes_back))
        mine = _Over(here, connection, before.issuer, before.id, before.id, now)
        changed = mine.put((), " ".join(why.split()), who)
        audit.record(
            connection,
            here.vault,
            now=now,
            action="suggestion-taken-back",
            who=who,
            issuer=issuer.iss,
            visit=visit,
            what={"why": why, "charges": changed},
        )
    return resume(here, issuer, server, visit, who=who, by_hand=by_hand)


def resume(
    here: Installation,
    issuer: Issuer,
    server: Server,
    visit: str,
    *,
    who: str = APP,
    by_hand: bool = False,
) -> Standing:
    """Sends what is left of a visit's suggestion, as the outbox does: it looks before it tries again."""
    with here.engine.begin() as connection:
        before = _suggestion(connection, visit)
    if before is None:
        return Standing()
    way = way_by(before.way, here.writing[issuer.id], server, provenance=False, timeout=issuer.read_timeout)
    outbox.send(here.outbox, way, before.id, who=who, by_hand=by_hand)
    return standing(here, visit)


def standing(here: Installation, visit: str, connection: Connection | None = None) -> Standing:
    """What is suggested for a visit, as far as it is known; nothing once it is signed."""
    if connection is None:
        with here.engine.begin() as opened:
            return standing(here, visit, opened)
    before = _suggestion(connection, visit)
    return Standing(outbox.charges_of(connection, here.vault, before.id) if before else ())


def left(here: Installation, visit: str, connection: Connection | None = None) -> tuple[Row, ...]:
    """What was suggested and is not known to be gone from the EHR; nothing once it is signed."""
    return tuple(
        row
        for row in standing(here, visit, connection).rows
        if not (row.charge.takes_back and row.state is State.CONFIRMED)
    )


def waiting(here: Installation) -> list[tuple[str, str]]:
    """Issuer and visit of every suggestion that has something due, the oldest first."""
    decision, charge = database.decision, database.charge
    now = here.clock()
    due = select(charge.c.decision).where(
        charge.c.state.in_([State.INTENDED, State.SENDING, State.UNKNOWN]),
        charge.c.due_at.is_(None) | (charge.c.due_at <= now),
    )
    held = select(charge.c.decision).where(charge.c.state == State.UNKNOWN, charge.c.due_at > now)
    query = (
        select(decision.c.issuer, decision.c.visit)
        .where(decision.c.revision == REVISION, decision.c.id.in_(due), decision.c.id.not_in(held))
        .order_by(decision.c.signed_at)
    )
    with here.engine.begin() as connection:
        return [(row.issuer, row.visit) for row in connection.execute(query)]


# --- what sign-off calls, within its transaction ----------------------------------------------------------


def may_stand(here: Installation, issuer: Issuer, visit: str) -> bool:
    """Whether sign-off has to look for a suggestion: there can be one, or was one before it was switched off."""
    if here.writing[issuer.id].suggest:
        return True
    with here.engine.begin() as connection:
        return stands(connection, visit)


def stands(connection: Connection, visit: str) -> bool:
    """Whether a suggestion was ever written for this visit."""
    return _suggestion(connection, visit) is not None


def hold(connection: Connection, visit: str) -> None:
    """Nobody else suggests or signs this visit until the transaction ends; SQLite's BEGIN sees to it itself."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (int(visit[:15], 16),))


def take_over(
    connection: Connection,
    here: Installation,
    visit: str,
    decision: str,
    charges: tuple[Charge, ...],
    who: str,
    now: datetime,
) -> tuple[Charge, ...]:
    """Stores a decision's charges in the place of what was suggested; all of them, what is taken back first."""
    before = _suggestion(connection, visit)
    if before is None:
        outbox.intend(connection, here.vault, decision, charges, now)
        return charges
    return _Over(here, connection, before.issuer, before.id, decision, now).put(charges, NOT_SIGNED, who)


@dataclass(frozen=True)
class _Over:
    """One transaction that makes of a suggestion's charges those of ``decision``: itself, or what was signed."""

    here: Installation
    connection: Connection
    iss: str
    suggestion: str
    decision: str
    now: datetime

    def put(self, wanted: Sequence[Charge], why: str, who: str) -> tuple[Charge, ...]:
        """The charges that it stored or changed, as they are kept; what is taken back first.

        Whoever is writing them loses the lease: what they have under way becomes a doubt like any other.
        """
        rows = outbox.charges_of(self.connection, self.here.vault, self.suggestion)
        for encounter in {row.charge.encounter for row in rows}:
            key = outbox.encounter_key(self.here.vault, self.iss, encounter)
            leases.fence_off(self.connection, key)
        names = {charge.identifier for charge in wanted}
        taken_back = [
            replace(
                row.charge,
                status="aborted",
                suggested=False,
                rationale=why,
                enterer=who,
                entered_at=self.now,
            )
            for row in rows
            if row.charge.identifier not in names and not self._is_through(row)
        ]
        known = {row.charge.identifier: row for row in rows}
        kept = [
            self._one(known.get(charge.identifier), position, charge)
            for position, charge in enumerate((*taken_back, *wanted))
        ]
        return tuple(charge for charge in kept if charge is not None)

    def _is_through(self, row: Row) -> bool:
        """Whether it was taken back before, and that need not be done under another decision."""
        return row.charge.takes_back and (row.state is State.CONFIRMED or self.suggestion == self.decision)

    def _one(self, row: Row | None, position: int, charge: Charge) -> Charge | None:
        """What is kept of this charge now; None where its row says so already."""
        if row is None:
            new = outbox.intended(self.here.vault, self.decision, (charge,), self.now, first=position)
            self.connection.execute(database.charge.insert(), new)
            return charge
        if self.suggestion == self.decision and _same(row.charge, charge):
            return None
        stood, reference = row.charge.stood, row.reference or row.charge.stood_reference
        state, how, due_at = State.INTENDED, None, None
        if row.state is State.CONFIRMED:
            version = row.prepared[0] if row.prepared else None
            stood = () if row.how == "not-there" else (_as_stood(row.charge, version),)
        elif not _was_never_sent(row):
            # Also after a refusal, which may have been because of what stands there.
            state = State.UNKNOWN
            due_at = row.due_at if row.state in outbox.DOUBTFUL else self.now
            stood = (*stood, _as_stood(row.charge, None))
        elif charge.takes_back:
            state, how = State.CONFIRMED, "not-there"
        put = replace(charge, stood=stood, stood_reference=reference or None)
        self.connection.execute(
            update(database.charge)
            .where(database.charge.c.identifier == charge.identifier)
            .values(
                decision=self.decision,
                position=position,
                state=state,
                how=how,
                problem=None,
                prepared=None,
                due_at=due_at,
                updated_at=self.now,
                sealed=self.here.vault.seal(put),
            )
        )
        return put


def _as_stood(charge: Charge, version: str | None) -> Stood:
    return Stood(charge.status, charge.units, charge.modifiers, version)


def _was_never_sent(row: Row) -> bool:
    return row.state is State.INTENDED and row.attempts == 0


def _same(one: Charge, other: Charge) -> bool:
    return (one.status, one.suggested, one.units, one.modifiers) == (
        other.status,
        other.suggested,
        other.units,
        other.modifiers,
    )


def _said(charges: Iterable[Charge]) -> list[list[Any]]:
    """What a suggestion comes to, to tell whether another says the same."""
    return sorted([charge.identifier, charge.units, list(charge.modifiers)] for charge in charges)


def _way_of(here: Installation, issuer: Issuer, server: Server) -> tuple[WayName | None, str | None]:
    """By which suggestions are written; or why they are not."""
    settings = here.writing[issuer.id]
    if not settings.suggest:
        return None, "The site does not have suggestions written before they are reviewed."
    can = here.capabilities_of(issuer, server)
    way = way_for(settings, can)
    if way not in UPDATES:
        return (
            None,
            f"Charges leave by '{way}', which cannot change one in place: nothing is written before review.",
        )
    if can.unread is None and not can.updates_charges:
        return None, f"{issuer.name} does not let charges be updated: nothing is written before review."
    return way, None


def _suggestion(connection: Connection, visit: str) -> Any:
    table = database.decision
    return connection.execute(
        select(table).where(table.c.visit == visit, table.c.revision == REVISION)
    ).first()


def _is_signed(connection: Connection, visit: str) -> bool:
    table = database.decision
    signed = select(table.c.id).where(table.c.visit == visit, table.c.revision > REVISION).limit(1)
    return connection.scalar(signed) is not None


def _insert(
    connection: Connection,
    here: Installation,
    decision: str,
    visit: str,
    issuer: Issuer,
    way: WayName,
    person: str,
    now: datetime,
) -> None:
    connection.execute(
        database.decision.insert().values(
            id=decision,
            visit=visit,
            revision=REVISION,
            issuer=issuer.iss,
            person=person,
            signed_at=now,
            way=way,
            sealed=here.vault.seal({"turned_down": None}),
        )
    )


def _keep(connection: Connection, here: Installation, decision: str, turned_down: Any) -> None:
    table = database.decision
    sealed = here.vault.seal({"turned_down": turned_down})
    connection.execute(update(table).where(table.c.id == decision).values(sealed=sealed))
