"""A charge, and how it becomes a ChargeItem in the EHR: built, validated, written once, found again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal

import msgspec
from fhir.resources.R4B.chargeitem import ChargeItem
from pydantic import ValidationError

from ..core.visit import Discipline
from .errors import (
    BadAnswer,
    Dropped,
    EhrError,
    OnRecord,
    ServerFailed,
    TimedOut,
    Unknown,
    WrongPatient,
)
from .person import Person
from .server import Server
from .systems import (
    APP,
    AWAITS_RELEASE,
    CHARGE_IDENTIFIER,
    CHARGE_ITEM_STATUS,
    CHARGE_MODIFIER,
    CHARGED_STATUS,
    DISCIPLINE_MODIFIERS,
    MEDPLUM_MODIFIER,
    PARTICIPATION,
    SUGGESTED,
    is_billing_code,
    system_of_code,
    system_of_modifier,
)
from .views import ChargeItem as ChargeItemView
from .views import bare, resources

# Made once with uuid4 and never changed: an identifier must come out the same for ever.
_NAMESPACE = uuid.UUID("6f1d4c0e-4f0b-4c57-9a1e-0d8f6f3a2b71")


@dataclass(frozen=True, slots=True)
class Stood:
    """How a record of ours may stand under a charge's identifier before the charge takes its place."""

    status: str
    units: int
    modifiers: tuple[str, ...]
    version: str | None  # the EHR's, as it answered us; None where it is not known


@dataclass(frozen=True, slots=True)
class Charge:
    """One line that a clinician signed off, with all that the EHR needs. References are relative.

    ``start`` and ``end`` are aware, or both None where the chart does not say; then the date of service
    stands alone. ``modifiers`` are in the order in which they are to be billed.
    """

    identifier: str  # a UUID, made by identifier_for
    patient: str
    encounter: str
    date_of_service: date
    code: str
    units: int
    modifiers: tuple[str, ...]
    services: tuple[str, ...]  # the Procedures it was counted from
    performers: tuple[str, ...]
    enterer: str  # who signed off; APP where nobody did
    entered_at: datetime
    rationale: str  # one line
    start: datetime | None = None
    end: datetime | None = None
    organization: str | None = None
    account: str | None = None
    reason: str | None = None  # an ICD-10-CM code
    status: str = "billable"
    coverage: str | None = None
    person: Person | None = None  # for ways that carry no FHIR references
    # A withdrawal takes back an earlier charge; all else is then that charge's.
    withdraws: str | None = None  # its identifier
    withdrawn_reference: str | None = None  # where it is, "ChargeItem/123"
    replaces: str | None = None  # the identifier of the charge that this one stands for now
    # Written before anybody reviewed it: planned and tagged. What takes its place keeps its identifier.
    suggested: bool = False
    stood: tuple[Stood, ...] = ()
    stood_reference: str | None = None  # where it is, if that is known

    @property
    def takes_back(self) -> bool:
        """Whether nothing is charged by it: an earlier charge or suggestion is taken back."""
        return self.withdraws is not None or self.status == "aborted"

    def to_json(self) -> bytes:
        """For the outbox; ``from_json`` gives the same charge back."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, document: bytes) -> Charge:
        """Raises ``msgspec.ValidationError`` for what ``to_json`` cannot have written."""
        return msgspec.json.decode(document, type=cls)


@dataclass(frozen=True, slots=True)
class Written:
    """What now stands in the EHR, and how it came there."""

    reference: str  # "ChargeItem/123"; a message's control id; a file's name
    version: str | None
    how: str  # a word of HOW


# What became of a charge; "accepted" alone leaves it to be found later.
HOW = frozenset(
    {
        "created",
        "updated",
        "already-there",
        "withdrawn",
        "not-there",
        "accepted",
        "acknowledged",
        "by-hand",
        "file",
        "ticket",
    }
)


def identifier_for(
    iss: str,
    *,
    patient: str,
    encounter: str,
    date_of_service: date,
    code: str,
    modifiers: Collection[str],
    discipline: Discipline | None = None,
    sequence: int = 1,
) -> str:
    """The identifier of a charge, as a UUID: the same charge always has the same, on every machine.

    The order of modifiers does not matter. ``sequence`` tells lines apart that agree in all else, and a
    correction from what it corrects. The discipline counts where no modifier says it, as under a payer that
    asks for none: the same code of PT and of OT are two charges.
    """
    parts: list[Any] = [
        iss.rstrip("/"),
        patient,
        encounter,
        date_of_service.isoformat(),
        code,
        sorted(modifiers),
        sequence,
    ]
    # Only there: what was given out before with a discipline's modifier stays what it is.
    if discipline is not None and not set(modifiers) & set(DISCIPLINE_MODIFIERS.values()):
        parts.append(discipline)
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts, separators=(",", ":"))))


def withdrawal_of(
    charge: Charge, reference: str | None, *, why: str, by: str, at: datetime, revision: int = 2
) -> Charge:
    """What takes this charge back. One a ``revision``: what was refused once can be signed again."""
    return replace(
        charge,
        identifier=str(uuid.uuid5(_NAMESPACE, f"withdrawal of {charge.identifier} by {revision}")),
        withdraws=charge.identifier,
        withdrawn_reference=reference,
        rationale=why,
        enterer=by,
        entered_at=at,
        replaces=None,
    )


def charge_item(charge: Charge, modifiers: Literal["own", "medplum"] = "own") -> ChargeItem:
    """The charge as a validated R4 ChargeItem (https://hl7.org/fhir/R4/chargeitem.html).

    A ``planned`` one is tagged: suggested, or awaiting release by a coder. Raises ``ValueError`` where the charge would
    not make a valid one, required bindings included.
    """
    _refuse_what_validation_lets_through(charge)
    item: dict[str, Any] = {
        "resourceType": "ChargeItem",
        "meta": {"tag": [SUGGESTED if charge.suggested else AWAITS_RELEASE]}
        if charge.status == "planned"
        else None,
        "extension": [
            _modifier(rank, code) if modifiers == "own" else _medplum_modifier(code)
            for rank, code in enumerate(charge.modifiers, start=1)
        ],
        "identifier": [{"system": CHARGE_IDENTIFIER, "value": charge.identifier}],
        "status": charge.status,
        "code": {"coding": [{"system": system_of_code(charge.code), "code": charge.code}]},
        "subject": {"reference": charge.patient},
        "context": {"reference": charge.encounter},
        **_occurrence(charge),
        "performer": [
            {
                "function": {"coding": [{"system": PARTICIPATION, "code": "PRF"}]},
                "actor": {"reference": performer},
            }
            for performer in charge.performers
        ],
        "performingOrganization": {"reference": charge.organization} if charge.organization else None,
        "quantity": {"value": charge.units},
        "enterer": {"display": APP} if charge.enterer == APP else {"reference": charge.enterer},
        "enteredDate": charge.entered_at.isoformat(),
        "reason": [
            {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": charge.reason}]},
        ]
        if charge.reason
        else None,
        "service": [{"reference": service} for service in charge.services],
        "account": [{"reference": charge.account}] if charge.account else None,
        "note": [{"text": charge.rationale}],
    }
    # FHIR has no empty arrays and no nulls (https://hl7.org/fhir/R4/json.html#null).
    try:
        return ChargeItem.model_validate({name: value for name, value in item.items() if value})
    except ValidationError as error:
        where = "; ".join(".".join(map(str, part["loc"])) + ": " + part["msg"] for part in error.errors())
        raise ValueError(f"This charge makes no valid ChargeItem ({where}).") from error


def write_charge(server: Server, charge: Charge, modifiers: Literal["own", "medplum"] = "own") -> Written:
    """Create the ChargeItem, once. An answer that leaves open whether it exists now is ``Unknown``.

    ``If-None-Exist`` is always sent and never relied on: several servers ignore it or race on it, so the
    caller searches (``find_charge``) before any second try. A record that was there already must say the
    same, or it is ``OnRecord``. Any other ``EhrError`` means that nothing was written.
    """
    item = json.loads(charge_item(charge, modifiers).model_dump_json())
    try:
        created = server.create(item, if_none_exist=identifier_query(charge))
    except (TimedOut, Dropped, BadAnswer, ServerFailed) as error:
        raise _unknown(error) from error
    if created.status == 200:  # noqa: PLR2004 - it was there already, and the body may be stale
        found = _looked_up(server, charge)
        if found is None:
            raise Unknown(
                "The EHR says that this charge exists, but does not find it yet. "
                "It will be looked for again before anything is sent.",
                request_id=created.request_id,
            )
        return found
    try:
        body = created.body.strip() or (server.read(created.location) if created.location else b"")
        view = item_in(body)
        check_ours(charge, view, server)
    except EhrError as error:
        raise _unknown(error) from error
    return Written(created.location or f"ChargeItem/{view.id}", created.version or view.version, "created")


def find_charge(server: Server, charge: Charge) -> Written | None:
    """The ChargeItem under our identifier, or None where the EHR finds none (yet: its search may lag).

    Raises ``OnRecord`` where there are several, or where the one there says something else than we do.
    """
    item = item_of(server, charge)
    if item is None:
        return None
    differing = differences(charge, item, server)
    if differing:
        raise OnRecord(
            f"ChargeItem/{item.id} is already in the EHR and differs in {', '.join(differing)}. "
            "Compare the two in the EHR and correct the wrong one."
        )
    return Written(f"ChargeItem/{item.id}", item.version, "already-there")


def item_of(server: Server, charge: Charge) -> ChargeItemView | None:
    """The record under our identifier, whatever it says. Raises ``OnRecord`` where there are several."""
    entries = server.search("ChargeItem", {"identifier": f"{CHARGE_IDENTIFIER}|{charge.identifier}"})
    items, unread = resources(entries, ChargeItemView)
    # A server that ignores the parameter answers with everything it has.
    ours = [item for item in items if charge.identifier in item.values_under(CHARGE_IDENTIFIER)]
    if not ours:
        if unread:
            raise BadAnswer(
                f"The EHR's list of charges holds {len(unread)} that cannot be read, so whether ours is "
                "among them is not known. Look at the visit's charges in the EHR."
            )
        return None
    if len(ours) > 1:
        raise OnRecord(
            f"The EHR holds {len(ours)} records of the same charge: {_listed(ours)}. "
            "Remove all but one in the EHR."
        )
    return ours[0]


def _looked_up(server: Server, charge: Charge) -> Written | None:
    try:
        return find_charge(server, charge)
    except OnRecord:
        raise
    except EhrError as error:
        raise _unknown(error) from error


def _unknown(error: EhrError) -> Unknown:
    return Unknown(
        "The EHR did not say clearly whether the charge was written. "
        "It will be looked for before anything is sent again.",
        request_id=error.request_id,
        words=error.words,
    )


def item_in(body: bytes) -> ChargeItemView:
    items, unread = resources([msgspec.Raw(b'{"resource":' + (body or b"null") + b"}")], ChargeItemView)
    if unread or not items:
        raise BadAnswer("The EHR's answer is no ChargeItem. Look at the visit's charges in the EHR.")
    return items[0]


def check_ours(charge: Charge, item: ChargeItemView, server: Server) -> None:
    if bare(item.subject, server.base_uri) != charge.patient:
        raise WrongPatient(
            "The EHR answered with a charge of another patient. Look at the visit's charges in the EHR."
        )
    if charge.identifier not in item.values_under(CHARGE_IDENTIFIER):
        raise BadAnswer("The EHR answered with another charge. Look at the visit's charges in the EHR.")


def differences(charge: Charge, item: ChargeItemView, server: Server) -> list[str]:
    """In what the record there differs from the charge, in words for a biller.

    An EHR that drops extensions loses the modifiers; the identifier was made from them, so they agree.
    """
    same = {
        "the patient": bare(item.subject, server.base_uri) == charge.patient,
        "the visit": bare(item.context, server.base_uri) == charge.encounter,
        "the code": charge.code in item.billing_codes,
        "the units": item.units == charge.units,
        "the modifiers": item.modifiers in {(), charge.modifiers},
        "the status": item.is_suggestion == charge.suggested
        and (item.status == charge.status or item.status in CHARGED_STATUS),
    }
    return [name for name, agrees in same.items() if not agrees]


def _listed(items: list[ChargeItemView]) -> str:
    return ", ".join(f"ChargeItem/{item.id}" for item in items)


def identifier_query(charge: Charge) -> str:
    return f"identifier={CHARGE_IDENTIFIER}|{charge.identifier}"


def _modifier(rank: int, code: str) -> Mapping[str, Any]:
    return {
        "url": CHARGE_MODIFIER,
        "extension": [
            {"url": "rank", "valuePositiveInt": rank},
            {
                "url": "code",
                "valueCodeableConcept": {"coding": [{"system": system_of_modifier(code), "code": code}]},
            },
        ],
    }


def _medplum_modifier(code: str) -> Mapping[str, Any]:
    """As Medplum's charges carry them: one extension each, in order."""
    return {
        "url": MEDPLUM_MODIFIER,
        "valueCodeableConcept": {"coding": [{"system": system_of_modifier(code), "code": code}]},
    }


def _occurrence(charge: Charge) -> dict[str, Any]:
    if charge.start is None or charge.end is None:
        return {"occurrenceDateTime": charge.date_of_service.isoformat()}
    return {"occurrencePeriod": {"start": charge.start.isoformat(), "end": charge.end.isoformat()}}


def _refuse_what_validation_lets_through(charge: Charge) -> None:
    """fhir.resources does not check required bindings, nor what a charge without it would be worth."""
    if charge.status not in ({"planned"} if charge.suggested else CHARGE_ITEM_STATUS):
        raise ValueError(f"'{charge.status}' is no status of a ChargeItem, or not of a suggested one.")
    if not is_billing_code(charge.code):
        raise ValueError(f"'{charge.code}' is no CPT or HCPCS code.")
    if charge.units < 1:
        raise ValueError(f"A charge of {charge.units} units is not written.")
    if len(set(charge.modifiers)) < len(charge.modifiers):
        raise ValueError(f"A modifier stands twice on {charge.code}: {', '.join(charge.modifiers)}.")
    if (charge.start is None) != (charge.end is None):
        raise ValueError("A charge needs both its start and its end, or neither.")
    if charge.start and charge.end and charge.end < charge.start:
        raise ValueError("A charge cannot end before it starts.")
    if any(moment and moment.tzinfo is None for moment in (charge.start, charge.end, charge.entered_at)):
        raise ValueError("Times of a charge need their offset from UTC.")
    if not charge.rationale.strip() or len(charge.rationale.splitlines()) != 1:
        raise ValueError("A charge needs one line of rationale.")
    if not charge.services or not charge.performers:
        raise ValueError("A charge names the services it was counted from and who performed them.")
