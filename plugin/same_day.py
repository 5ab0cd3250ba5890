"""What was signed here for the day of a visit under another one, as far as the EHR's chart does not show it.

Each visit counts its whole day, and what is charged of it already comes off. A chart brings ChargeItems only: what
went to billing as a file or a message, left as a Claim or on paper, or still waits in the outbox, is in none. Without
it a day's second visit would be charged the first one's services once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, bindparam, or_, select, update

from ..core.findings import Finding, Severity, Status
from ..core.visit import AlreadyCharged, Discipline, Provider, Visit
from ..fhir.charge_item import Charge
from ..fhir.charged import ExistingCharge, is_another_disciplines
from ..fhir.normalise import PreparedVisit
from ..fhir.way import UPDATES, WayName
from . import database, outbox
from .outbox import State
from .presenters import discipline_name, short_date
from .vault import Vault

_DECIDED = (
    select(
        database.decision.c.id,
        database.decision.c.visit,
        database.decision.c.revision,
        database.decision.c.way,
        database.decision.c.day,
        database.decision.c.services,
    )
    .where(
        or_(
            database.decision.c.day == bindparam("day"),
            database.decision.c.encounter == bindparam("encounter"),
        ),
        database.decision.c.revision > 0,  # a suggestion is no decision
    )
    .order_by(database.decision.c.signed_at, database.decision.c.revision)
)
_SIGNED = select(database.decision.c.sealed).where(database.decision.c.id == bindparam("id"))
SHORT = 16  # hexadecimal digits of a service's index: enough to tell the services of one encounter apart


def found_by(
    vault: Vault, iss: str, patient: str, encounter: str, day: date, charges: Collection[Charge]
) -> dict[str, str]:
    """The columns of a decision by which it is found here."""
    services = sorted({service for charge in charges if not charge.takes_back for service in charge.services})
    return {
        "day": _day(vault, iss, patient, day),
        "encounter": outbox.encounter_key(vault, iss, encounter),
        "services": " ".join(_service(vault, iss, service) for service in services),
    }


def _day(vault: Vault, iss: str, patient: str, day: date) -> str:
    return vault.index("day", iss, patient, day.isoformat())


def _service(vault: Vault, iss: str, reference: str) -> str:
    return vault.index("service", iss, reference)[:SHORT]


@dataclass(frozen=True, slots=True)
class _Signed:
    """A charge of another visit here that comes off this one."""

    charge: Charge
    reference: str | None
    way: WayName
    discipline: Discipline | None
    provider: Provider
    of_the_day: bool  # False: of another day or discipline, but of services that this visit has


def with_signed(
    connection: Connection, vault: Vault, iss: str, key: str, prepared: PreparedVisit
) -> PreparedVisit:
    """The visit with these charges among those that come off its units, and findings that tell of them.

    A charge of services that this visit has comes off whatever it was signed as: their discipline, day or billing
    group may have been put right since. Any other comes off where it is of this day and, as far as is known, of this
    discipline; the count itself compares billing groups. What the chart shows is the chart's to say.
    """
    day = _day(vault, iss, prepared.patient, prepared.visit.date_of_service)
    named = {"day": day, "encounter": outbox.encounter_key(vault, iss, prepared.encounter)}
    decided: list[Row[Any]] = list(connection.execute(_DECIDED, named))
    mine = {_service(vault, iss, one.reference) for one in prepared.visit.services if one.reference}
    visits = {
        row.visit
        for row in decided
        if row.visit != key and (row.day == day or not mine.isdisjoint((row.services or "").split()))
    }
    others = [row for row in decided if row.visit in visits]
    unclaimed = [charge for charge in prepared.charges if charge.counted]
    findings: list[Finding] = []
    comes_off: list[_Signed] = []
    for one in _signed(connection, vault, others, prepared):
        alike = next((shown for shown in unclaimed if may_be(shown, one.charge, one.way)), None)
        if alike is None:
            comes_off.append(one)
        else:
            unclaimed.remove(alike)
            findings.append(taken_for_one(one.charge, alike))
    already = [
        AlreadyCharged(one.charge.code, one.charge.units, one.provider.tin, one.provider.specialty)
        for one in comes_off
    ]
    charges = [
        ExistingCharge(
            one.reference or one.charge.identifier,
            one.charge.code,
            one.charge.units,
            one.charge.status,
            counted=True,
            identifiers=(one.charge.identifier,),
        )
        for one in comes_off
    ]
    return replace(
        prepared,
        visit=replace(prepared.visit, already_charged=(*prepared.visit.already_charged, *already)),
        charges=(*prepared.charges, *charges),
        findings=(*prepared.findings, *findings, *_told(comes_off)),
        decided_that_day=sum(row.day == day for row in decided),
    )


def is_taken(engine: Engine, day: str, place: int) -> bool:
    """Whether a decision has this place among those of the day."""
    table = database.decision
    with database.reading(engine) as connection:
        asked = select(table.c.id).where(table.c.day == day, table.c.place == place)
        return connection.scalar(asked) is not None


def _signed(
    connection: Connection, vault: Vault, decided: list[Row[Any]], prepared: PreparedVisit
) -> Iterator[_Signed]:
    mine = {service.reference for service in prepared.visit.services}
    for visit in dict.fromkeys(row.visit for row in decided):
        revisions = [row for row in decided if row.visit == visit]
        record = vault.open(connection.execute(_SIGNED, {"id": revisions[-1].id}).scalar_one())
        discipline = Discipline(record["discipline"]) if record["discipline"] else None
        theirs, way = msgspec.convert(record["visit"], Visit).provider, revisions[-1].way
        another = is_another_disciplines(discipline, prepared.visit.discipline, prepared.other_disciplines)
        for row in _charged(connection, vault, revisions):
            of_the_day = not another and row.charge.date_of_service == prepared.visit.date_of_service
            same_services = not mine.isdisjoint(row.charge.services)
            if (of_the_day or same_services) and not _is_shown(row, way, prepared):
                provider = prepared.visit.provider if same_services else theirs
                yield _Signed(row.charge, row.reference, way, discipline, provider, of_the_day)


def _charged(connection: Connection, vault: Vault, revisions: Collection[Row[Any]]) -> list[outbox.Row]:
    """What is charged by these revisions of one visit: what was written, and what the newest still has to write."""
    newest = max(row.revision for row in revisions)
    rows = [
        (row, revision.revision == newest)
        for revision in revisions
        for row in outbox.charges_of(connection, vault, revision.id)
    ]
    taken_back = {row.charge.withdraws for row, _ in rows if row.state is State.CONFIRMED}
    return [
        row
        for row, is_newest in rows
        if (is_newest or row.state is State.CONFIRMED)
        and not row.charge.takes_back
        and row.charge.identifier not in taken_back
    ]


def _is_shown(row: outbox.Row, way: WayName, prepared: PreparedVisit) -> bool:
    """Whether the chart has this very charge, and so says itself what it is worth now.

    A suggestion that was taken back stands there under the same identifier, whatever way the charge left by then.
    """
    here = row.reference if row.state is State.CONFIRMED else None
    return any(
        (here is not None and shown.reference == here)
        or (way in UPDATES and row.charge.identifier in shown.identifiers)
        for shown in prepared.charges
    )


def _told(comes_off: list[_Signed]) -> Iterator[Finding]:
    """One finding for each visit that they were signed for."""
    visits: dict[tuple[Any, ...], list[_Signed]] = {}
    for one in comes_off:
        visits.setdefault((one.charge.encounter, one.charge.date_of_service, one.discipline), []).append(one)
    for (encounter, day, discipline), signed in visits.items():
        lines = ", ".join(f"{one.charge.code} × {one.charge.units}" for one in signed)
        codes = tuple(dict.fromkeys(one.charge.code for one in signed))
        if signed[0].of_the_day:
            severity = Severity.INFO
            says = (
                f"{lines}: signed in Quarterhour for another visit of this day ({encounter}), and not in the chart; "
                "taken off here."
            )
        else:
            severity = Severity.WARNING
            says = (
                f"{lines}: signed in Quarterhour before, for services of this visit ({short_date(day)}, "
                f"{discipline_name(discipline)}); taken off here. If day or discipline was wrong there, correct that "
                "visit first."
            )
        yield Finding("signed-before", Status.FAIL, severity, says, codes)


def may_be(shown: ExistingCharge, charge: Charge, way: WayName) -> bool:
    """Whether a charge of the chart that does not say whose it is may be this one, entered by billing's interface.

    What we enter in the chart ourselves says so.
    """
    alike = (shown.code, shown.units) == (charge.code, charge.units)
    return way not in UPDATES and not shown.identifiers and alike


def taken_for_one(charge: Charge, shown: ExistingCharge) -> Finding:
    """Tells of that."""
    says = (
        f"{charge.code} × {charge.units}: signed in Quarterhour ({charge.encounter}), and charged in the chart as "
        f"{shown.reference}, which does not say whose it is. Both are taken for one charge. Check that nothing is "
        "charged twice."
    )
    return Finding("signed-before", Status.NOT_CHECKED, Severity.WARNING, says, (charge.code,))


def index_older(engine: Engine, vault: Vault) -> None:
    """Makes decisions from before there was this index found by it."""
    table = database.decision
    older = select(table.c.id, table.c.issuer).where(table.c.day.is_(None), table.c.revision > 0)
    with engine.begin() as connection:
        for row in connection.execute(older).all():
            charges = [each.charge for each in outbox.charges_of(connection, vault, row.id)]
            if charges:
                one = charges[0]
                named = found_by(vault, row.issuer, one.patient, one.encounter, one.date_of_service, charges)
                connection.execute(update(table).where(table.c.id == row.id).values(**named))
