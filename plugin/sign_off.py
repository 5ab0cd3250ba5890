"""From a review to charges on their way: sign-off, corrections, and the chart compared once more."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import IntegrityError

from ..core.findings import Status
from ..core.visit_json import suggestion_json
from ..fhir.charge_item import Charge, withdrawal_of
from ..fhir.errors import EhrError
from ..fhir.normalise import PreparedVisit
from ..fhir.server import Server
from ..fhir.way import UPDATES, Capabilities, Way, WayName, way_for
from ..launch.context import Session
from ..launch.issuers import Issuer
from ..launch.scopes import resource_scope
from . import audit, database, leases, outbox, presenters, reasons, same_day, suggested, ways
from .charges import charges_from
from .flow import keep_read, key_of, read_on_record
from .installation import Installation
from .review import Review
from .rights import NotAllowed, NotYet, Obstacle
from .sessions import Opened, server_for
from .vault import Vault
from .ways import way_by

_OF_VISIT = (
    select(database.decision)
    .where(database.decision.c.visit == bindparam("key"), database.decision.c.revision > suggested.REVISION)
    .order_by(database.decision.c.revision.desc())
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A decision as it is read back, with what became of its charges."""

    id: str
    revision: int
    signed_at: datetime
    mine: bool
    way: WayName
    record: Any  # what was signed: the suggestion as JSON, the answers, who
    rows: tuple[outbox.Row, ...]
    standing: tuple[outbox.Row, ...]  # what is charged for the visit now, by this or an earlier decision

    @property
    def settled(self) -> bool:
        """Whether nothing is left to send."""
        return all(row.state is outbox.State.CONFIRMED for row in self.rows)

    @property
    def correctable(self) -> bool:
        """Whether it is known of every charge if it was written: only then can it be corrected."""
        return all(row.state in {outbox.State.CONFIRMED, outbox.State.REFUSED} for row in self.rows)


def decision_of(here: Installation, launch: Opened, key: str) -> Signed | None:
    """The newest decision on a visit, whoever made it. A suggestion is none."""
    with database.reading(here.engine) as connection:
        return decision_in(connection, here, launch, key)


def decision_in(connection: Connection, here: Installation, launch: Opened, key: str) -> Signed | None:
    """As ``decision_of``, among other reads."""
    decisions = connection.execute(_OF_VISIT, {"key": key}).all()
    if not decisions:
        return None
    newest = decisions[0]
    rows = {row.id: outbox.charges_of(connection, here.vault, row.id) for row in decisions}
    return Signed(
        id=newest.id,
        revision=newest.revision,
        signed_at=newest.signed_at,
        mine=newest.person == launch.person,
        way=newest.way,
        record=here.vault.open(newest.sealed),
        rows=rows[newest.id],
        standing=_standing(row for decision in reversed(decisions) for row in rows[decision.id]),
    )


def _standing(rows: Iterable[outbox.Row]) -> tuple[outbox.Row, ...]:
    """The confirmed charges without those that were taken back."""
    confirmed = [row for row in rows if row.state is outbox.State.CONFIRMED]
    taken_back = {row.charge.withdraws for row in confirmed}
    return tuple(
        row for row in confirmed if not row.charge.takes_back and row.charge.identifier not in taken_back
    )


def refuse_to_sign(here: Installation, launch: Opened, key: str, obstacles: tuple[Obstacle, ...]) -> None:
    """Raises ``NotAllowed``, on record, where there is anything against this person's signing; also as
    ``server_for``, before anything is signed, where the EHR would no longer take it.
    """
    if not obstacles:
        server_for(here, launch)
        return
    with here.engine.begin() as connection:
        audit.record(
            connection,
            here.vault,
            now=here.clock(),
            action="sign-off-refused",
            who=launch.who,
            issuer=launch.issuer.iss,
            visit=key,
            what={"why": [obstacle.message for obstacle in obstacles]},
        )
    raise NotAllowed(
        " ".join(obstacle.message for obstacle in obstacles),
        advice=" ".join(obstacle.advice for obstacle in obstacles),
    )


def refuse_to_correct(here: Installation, launch: Opened, signed: Signed) -> None:
    """Raises ``NotYet`` where the way that its charges left by is not configured any more."""
    lacks = here.writing[launch.issuer.id].lacks_for(signed.way)
    if lacks:
        raise NotYet(
            f"These charges left by the way '{signed.way}', which is not configured any more, and by another way "
            "they cannot be taken back. Nothing was signed.",
            advice="Correct them on billing's side, or ask your administrator to set "
            f"{' and '.join(lacks)} again in the issuer's writing table.",
        )


def way_of(here: Installation, launch: Opened, corrects: Signed | None = None) -> WayName:
    """By which a decision's charges will leave: the site's word, or what the EHR offers.

    A correction leaves as what it corrects did: by another way nothing could be taken back.
    """
    if corrects is not None:
        return corrects.way
    settings = here.writing[launch.issuer.id]
    return way_for(settings, _capabilities(here, launch) if settings.way == "auto" else Capabilities())


def known_way(here: Installation, issuer: Issuer) -> WayName | None:
    """The same, where nobody has to be asked."""
    settings, can = here.writing[issuer.id], here.capabilities.get(issuer.id)
    return way_for(settings, can or Capabilities()) if can or settings.way != "auto" else None


def _capabilities(here: Installation, launch: Opened) -> Capabilities:
    """Asked once in the life of a process; what could not be read is asked again."""
    return here.capabilities.get(launch.issuer.id) or here.capabilities_of(
        launch.issuer, server_for(here, launch)
    )


def sign(
    here: Installation,
    launch: Opened,
    key: str,
    reviewed: Review,
    *,
    not_reread: str | None = None,
    corrects: Signed | None = None,
) -> None:
    """Makes the decision final: stored with its charges and its audit entry, or not at all.

    A second click, a reload or a repeated POST finds the first one's decision and changes nothing. With
    ``corrects`` it is the next revision: what changed is taken back and charged anew, the rest stands.
    ``not_reread`` says why the chart could not be compared with what was reviewed. Raises as
    ``charges_to_sign``, and ``NotYet`` where a suggestion would be left in the EHR beside what is signed.
    """
    now = here.clock()
    revision = corrects.revision + 1 if corrects else 1
    charges = charges_to_sign(here, launch, reviewed, corrects)
    answered = reasons.reasoned(reviewed.answers.notes, reviewed.findings)
    way = way_of(here, launch, corrects)
    _take_back_first(here, launch, key, way)
    signed = {
        "suggestion": suggestion_json(reviewed.suggestion).decode() if reviewed.suggestion else None,
        "answers": reviewed.answers,
        "settled": presenters.settled(reviewed),  # as it was read before signing
        "reasons": answered,
        "chart": reviewed.prepared.visit.services,
        "visit": reviewed.visit,  # all that the suggestion was made of, to make it again
        "versions": reviewed.prepared.versions,
        "not_reread": not_reread,
        "policy": reviewed.policy,
        "discipline": reviewed.visit.discipline,
        "correction": reviewed.answers.correction if corrects else None,
        "who": launch.who,
        "roles": sorted(launch.roles or ()),
        "name": launch.session.id.name or reviewed.prepared.user,
    }
    row: dict[str, Any] = {
        "id": secrets.token_hex(16),
        "visit": key,
        "revision": revision,
        "issuer": launch.issuer.iss,
        "person": launch.person,
        "signed_at": now,
        "way": way,
        "replaces": corrects.id if corrects else None,
        "place": reviewed.prepared.decided_that_day + 1,
        **same_day.found_by(
            here.vault,
            launch.issuer.iss,
            reviewed.prepared.patient,
            reviewed.prepared.encounter,
            reviewed.visit.date_of_service,
            charges,
        ),
    }
    made = made_ready(here.vault, row, signed, charges, who=launch.who)
    before_review = suggested.may_stand(here, launch.issuer, key)
    try:
        with here.engine.begin() as connection:
            if corrects and not _may_correct(connection, here, launch, key, reviewed, corrects):
                return
            if before_review:
                suggested.hold(connection, key)
            if before_review and suggested.stands(connection, key):
                if way not in UPDATES:
                    _refuse_beside(suggested.left(here, key, connection), launch)
                connection.execute(_DECIDE, dict(made.row))
                charges = suggested.take_over(connection, here, key, made.row["id"], charges, launch.who, now)
                entry = _entry(here.vault, made.row, made.plain, charges, launch.who)
                audit.add(connection, here.vault, entry, audit.last(connection))
            else:
                store(connection, here.vault, made)
    except IntegrityError:
        found = decision_of(here, launch, key)
        if found is None or found.revision < revision:  # what stood in the way is no earlier click
            if not same_day.is_taken(here.engine, row["day"], row["place"]):
                raise
            raise NotYet(
                "Another visit of this day was signed just now, so this one was not: its charges may change.",
                advice="Go back to the review. What you settled is kept, and what was signed there comes off.",
            ) from None
    else:
        here.metrics.signed(
            launch.issuer.id,
            way,
            corrects=corrects is not None,
            failed=(finding.id for finding in reviewed.findings if finding.status is Status.FAIL),
            answered=(one.id for one in answered),
            attested=(put for code in reviewed.answers.modifiers_on.values() for put in code),
        )


def left_behind(here: Installation, issuer: Issuer, key: str, way: WayName) -> tuple[outbox.Row, ...]:
    """What was suggested in the EHR and would be left there: charges that leave by this way cannot change it."""
    if way in UPDATES or not suggested.may_stand(here, issuer, key):
        return ()
    return suggested.left(here, key)


def _take_back_first(here: Installation, launch: Opened, key: str, way: WayName) -> None:
    """Has that taken back, by the way by which it was written. Raises ``NotYet`` where that does not succeed."""
    if left_behind(here, launch.issuer, key, way):
        why = f"Taken back by Quarterhour: charges leave by '{way}' now."
        server = server_for(here, launch)
        suggested.take_back_suggestions(here, launch.issuer, server, key, why, by_hand=True)
        _refuse_beside(suggested.left(here, key), launch)


def _refuse_beside(left: tuple[outbox.Row, ...], launch: Opened) -> None:
    if left:
        records = ", ".join(row.reference or row.charge.code for row in left)
        problem = next((row.problem for row in left if row.problem), "It does not answer.")
        raise NotYet(
            f"{launch.issuer.name} still has what was suggested there before it was reviewed ({records}), and it "
            f"could not be taken back: {problem} Nothing was signed; what you settled is kept.",
            advice="Try again in a few minutes. If it stays so, ask your administrator to let Quarterhour change "
            "these records again, or to have them removed in the EHR; then sign off.",
        )


def charges_to_sign(
    here: Installation, launch: Opened, reviewed: Review, corrects: Signed | None
) -> tuple[Charge, ...]:
    """What will be written. Raises ``NotYet`` for a correction that changes nothing, and where the EHR would
    have a charge of which the chart does not say who performed it.
    """
    now = here.clock()
    revision = corrects.revision + 1 if corrects else 1
    wanted = charges_from(here, launch.issuer, reviewed, now, enterer=launch.who, sequence=revision)
    nobodys = dict.fromkeys(charge.code for charge in wanted if not charge.performers)
    if nobodys and way_of(here, launch, corrects) not in ways.WITHOUT_EHR:
        raise NotYet(
            f"The chart does not say who performed {', '.join(nobodys)}, and a charge in {launch.issuer.name} has "
            "to name them. Nothing was signed; what you settled is kept.",
            advice="Document in the EHR who it was, then go back to the review and read the chart again; or leave "
            "the service out there, with a reason.",
        )
    if corrects is None:
        return wanted
    charges = corrected(corrects.standing, wanted, reviewed.answers.correction, now, revision)
    if not charges:
        raise NotYet(
            "This correction changes nothing of what is charged, so nothing was signed.",
            advice="Change on the review page what was wrong, then sign off. The charges stand as they are.",
        )
    return charges


_DECIDE = database.decision.insert()
_CHARGE = database.charge.insert()


@dataclass(frozen=True, slots=True)
class Ready:
    """A decision with its charges and its audit entry, sealed before the transaction that stores them."""

    row: Mapping[str, Any]
    plain: bytes
    charges: list[dict[str, Any]]
    entry: audit.Draft


def made_ready(
    vault: Vault, row: Mapping[str, Any], signed: Any, charges: tuple[Charge, ...], *, who: str
) -> Ready:
    """``row`` is the decision's without what is sealed, ``signed`` what was decided."""
    plain = msgspec.json.encode(signed)
    return Ready(
        row={**row, "sealed": vault.seal_bytes(plain)},
        plain=plain,
        charges=outbox.intended(vault, row["id"], charges, row["signed_at"]),
        entry=_entry(vault, row, plain, charges, who),
    )


def store(connection: Connection, vault: Vault, made: Ready) -> None:
    """All of it, in the caller's transaction. Raises ``IntegrityError`` where the visit is decided already."""
    after = audit.last(connection)
    with database.together(connection):
        connection.execute(_DECIDE, dict(made.row))
        if made.charges:
            connection.execute(_CHARGE, made.charges)
        audit.add(connection, vault, made.entry, after)


def _entry(
    vault: Vault, row: Mapping[str, Any], plain: bytes, charges: tuple[Charge, ...], who: str
) -> audit.Draft:
    """The trail refers to the decision by digests and does not repeat it."""
    digests = audit.decided(row["id"], plain, ((charge.identifier, charge.to_json()) for charge in charges))
    return audit.drafted(
        vault,
        now=row["signed_at"],
        action="corrected" if row["replaces"] else "signed",
        who=who,
        issuer=row["issuer"],
        visit=row["visit"],
        what={**digests, "replaces": row["replaces"]},
    )


def _may_correct(
    connection: Connection,
    here: Installation,
    launch: Opened,
    key: str,
    reviewed: Review,
    corrects: Signed,
) -> bool:
    """Whether what is corrected is still the newest: an earlier click, or somebody else, may have corrected it.

    Raises ``NotYet`` where it is being written just now, or may have been.
    """
    newest = decision_in(connection, here, launch, key)
    if newest is None or newest.id != corrects.id:
        return False
    encounter = outbox.encounter_key(here.vault, launch.issuer.iss, reviewed.prepared.encounter)
    if leases.is_held(connection, encounter, here.clock()) or not newest.correctable:
        raise NotYet(
            "It is not known yet of every charge whether it was written, so the correction was not signed.",
            advice="Your correction is kept. Look at the receipt, and sign off once every charge is settled.",
        )
    return True


def corrected(
    standing: tuple[outbox.Row, ...],
    wanted: tuple[Charge, ...],
    why: str | None,
    now: datetime,
    revision: int = 2,
) -> tuple[Charge, ...]:
    """What makes of the standing charges the wanted ones: first what is taken back, then what is new.

    The same code, units and modifiers in their order is the same charge and is left alone.
    """
    kept: set[str] = set()
    new: list[Charge] = []
    for charge in wanted:
        alike = next((row.charge for row in standing if _same(row.charge, charge)), None)
        if alike is not None:
            kept.add(alike.identifier)
            continue
        old = next((row.charge for row in standing if row.charge.code == charge.code), None)
        new.append(replace(charge, replaces=old.identifier if old else None))
    taken_back = [
        withdrawal_of(
            row.charge,
            row.reference,
            why=" ".join((why or "Corrected.").split()),
            by=wanted[0].enterer if wanted else row.charge.enterer,
            at=now,
            revision=revision,
        )
        for row in standing
        if row.charge.identifier not in kept
    ]
    return (*taken_back, *new)


def _same(one: Charge, other: Charge) -> bool:
    return (one.code, one.units, one.modifiers) == (other.code, other.units, other.modifiers)


def send(here: Installation, launch: Opened, signed: Signed, *, by_hand: bool = False) -> bool:
    """Sends what the decision still has to send. False: it is being sent already."""
    way = outgoing(here, launch.issuer, signed.way, server_for(here, launch), launch.session)
    return outbox.send(here.outbox, way, signed.id, who=launch.who, by_hand=by_hand)


def outgoing(
    here: Installation, issuer: Issuer, name: WayName, server: Server, session: Session | None
) -> Way:
    """The way that a decision was signed for, as this session may use it."""
    grants = [resource_scope(scope) for scope in (session.context.scopes if session else ())]
    provenance = any(
        grant and grant.resource in {"*", "Provenance"} and "c" in grant.interactions for grant in grants
    )
    can = here.capabilities.get(issuer.id, Capabilities(provenance=True))
    return way_by(
        name,
        here.writing[issuer.id],
        server,
        provenance=can.provenance and provenance,
        timeout=issuer.read_timeout,
    )


# --- the chart, once more, at sign-off --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reread:
    """The visit as the chart has it at sign-off, against what was reviewed."""

    visits: tuple[PreparedVisit, ...]  # as they are now; empty: it could not be read
    changes: tuple[str, ...]  # in words; empty: nothing changed
    not_read: str | None = None  # why the EHR could not be asked


def reread(here: Installation, launch: Opened, key: str, reviewed: PreparedVisit) -> Reread:
    """One more round of reads, so that nobody signs what the chart no longer says.

    An EHR that is down does not keep anybody from signing: the charges wait in the outbox, and the record
    says that the chart was not compared.
    """
    try:
        visits, roles = read_on_record(here, launch)
    except EhrError as error:
        return Reread((), (), str(error))
    now = next((visit for visit in visits if key_of(here, launch, visit) == key), None)
    if now is None:
        keep_read(here, launch, visits, roles)
        return Reread((), ("The chart no longer shows this visit as it was reviewed.",))
    changes = tuple(changes_between(reviewed, now, _own_references(here, launch, key)))
    if changes:
        keep_read(here, launch, visits, roles)
    return Reread(visits, changes)


def _own_references(here: Installation, launch: Opened, key: str) -> frozenset[str]:
    signed = decision_of(here, launch, key)
    return frozenset(row.reference for row in signed.standing if row.reference) if signed else frozenset()


def changes_between(before: PreparedVisit, now: PreparedVisit, own: Collection[str] = ()) -> Iterator[str]:
    """What is different in the chart, a sentence each. ``own`` charges are no news."""
    codes = {service.reference: service.code for visit in (before, now) for service in visit.visit.services}
    for reference in dict.fromkeys((*before.versions, *now.versions)):
        name = " ".join(filter(None, (reference, codes.get(reference))))
        if reference not in now.versions:
            yield f"{name} is no longer in the chart."
        elif reference not in before.versions:
            yield f"{name} was added to the chart."
        elif before.versions[reference] != now.versions[reference] or _services(
            before, reference
        ) != _services(now, reference):
            yield f"{name} was changed in the chart."
    charged = {charge.reference: charge for charge in before.charges}
    for charge in now.charges:
        if charge.reference not in own and charged.get(charge.reference) != charge:
            word = "changed" if charge.reference in charged else "entered"
            yield f"The charge {charge.reference} ({charge.code} × {charge.units}, {charge.status}) was {word}."


def _services(prepared: PreparedVisit, reference: str) -> list[Any]:
    return [service for service in prepared.visit.services if service.reference == reference]


def without_own(prepared: PreparedVisit, signed: Signed) -> PreparedVisit:
    """The visit for a correction: what we charged ourselves is what is corrected, so it is not taken off.

    What left for billing has no record of ours in the chart; a charge there that does not say whose it is, with the
    same code and units, is taken for it, and that is told.
    """
    own = {row.reference for row in signed.standing}
    left = [row.charge for row in signed.standing if not (row.reference or "").startswith("ChargeItem/")]
    already = list(prepared.visit.already_charged)
    findings = []
    for shown in (charge for charge in prepared.charges if charge.counted):
        if shown.reference not in own:
            alike = next((charge for charge in left if same_day.may_be(shown, charge, signed.way)), None)
            if alike is None:
                continue
            left.remove(alike)
            findings.append(same_day.taken_for_one(alike, shown))
        mine = next((each for each in already if (each.code, each.units) == (shown.code, shown.units)), None)
        if mine:
            already.remove(mine)
    return replace(
        prepared,
        visit=replace(prepared.visit, already_charged=tuple(already)),
        findings=(*prepared.findings, *findings),
    )
