"""Charges as a draft Claim: one for a visit, one item a charge, for a clearing house or a billing server.

https://hl7.org/fhir/R4/claim.html. A draft is nobody's demand for payment yet: billing completes it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import msgspec
from fhir.resources.R4B.claim import Claim as ValidClaim
from pydantic import ValidationError

from .charge_item import Charge, Written
from .errors import (
    BadAnswer,
    Dropped,
    EhrError,
    NotFound,
    OnRecord,
    ServerFailed,
    TimedOut,
    Unknown,
    WrongPatient,
)
from .server import Created, Server
from .systems import CHARGE_IDENTIFIER, CLAIM_IDENTIFIER, system_of_code, system_of_modifier
from .views import Identifier, Meta, Reference, bare, resources

CLAIM_CHARGE = "https://quarterhour.org/fhir/StructureDefinition/claim-item-charge"
_NAMESPACE = uuid.UUID("3b0f6a52-9c0d-4e0f-8a63-1a8f1f0c9a51")


@dataclass(frozen=True)
class DraftClaim:
    """All charges of a decision in one Claim, wholly or not at all."""

    server: Server
    wait: timedelta
    name: Literal["claim"] = "claim"
    finds: bool = True
    by_identifier: bool = True
    together: bool = True

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """The Claim's identifier: it follows from those of its charges, and is kept with each of them."""
        return (claim_identifier(charges),)

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:
        """The Claim under that identifier, and the charge in it. Raises ``OnRecord`` for several Claims."""
        if charge.withdraws:
            claim = self._claim_of(charge)
            gone = claim.get("status") in {"cancelled", "entered-in-error"} or not _items_of(claim, charge)
            return Written(charge.withdrawn_reference or "", _version(claim), "withdrawn") if gone else None
        (identifier,) = prepared
        entries = self.server.search("Claim", {"identifier": f"{CLAIM_IDENTIFIER}|{identifier}"})
        claims, unread = resources(entries, Claim)
        ours = [view for view in claims if identifier in {known.value for known in view.identifier or ()}]
        if len(ours) > 1:
            listed = ", ".join(f"Claim/{claim.id}" for claim in ours)
            raise OnRecord(f"The EHR holds {len(ours)} records of the same Claim: {listed}.")
        if ours:
            return self._place(self._ours(ours[0], charge), charge, "already-there")
        if unread:
            raise BadAnswer(
                f"The EHR's list of Claims holds {len(unread)} that cannot be read, so whether ours is among "
                "them is not known. Look at the visit's Claims in the EHR."
            )
        return None

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:
        """Create the Claim, or take items out of an earlier one (over the version that was read).

        As ``write_charge``: once the Claim may be there, whatever goes wrong is ``Unknown``.
        """
        if all(charge.withdraws for charge in charges):
            return self._withdraw(charges)
        (identifier,) = prepared
        body = claim(charges, identifier)
        try:
            created = self.server.create(body, f"identifier={CLAIM_IDENTIFIER}|{identifier}")
        except (TimedOut, Dropped, BadAnswer, ServerFailed) as error:
            raise _unknown(error) from error
        try:
            return self._filed(charges, prepared, created)
        except EhrError as error:
            raise _unknown(error) from error

    def _filed(
        self, charges: tuple[Charge, ...], prepared: tuple[str, ...], created: Created
    ) -> tuple[Written, ...]:
        """Where in the Claim that was created, or was there already, each charge stands."""
        if created.status == 200:  # noqa: PLR2004 - it was there already, and the body may be stale
            return tuple(self._sure(self.find(charge, prepared)) for charge in charges)
        body = created.body.strip() or self.server.read(created.location or "")
        view = self._ours(_view_of(body), charges[0])
        return tuple(self._sure(self._place(view, charge, "created")) for charge in charges)

    def _ours(self, view: Claim, charge: Charge) -> Claim:
        if bare(view.patient, self.server.base_uri) != charge.patient:
            raise WrongPatient("The EHR answered with a Claim of another patient.")
        return view

    def _place(self, view: Claim, charge: Charge, how: str) -> Written | None:
        for item in view.item or ():
            if charge.identifier in item.charges:
                version = view.meta.version_id if view.meta else None
                return Written(f"Claim/{view.id}#{item.sequence}", version, how)
        return None

    @staticmethod
    def _sure(written: Written | None) -> Written:
        if written is None:
            raise BadAnswer("The EHR's Claim does not show the charge.")
        return written

    def _withdraw(self, charges: tuple[Charge, ...]) -> tuple[Written, ...]:
        """A draft that loses items keeps the rest; one that loses all is cancelled.

        They may stand in several Claims, one of each revision: all are read before the first is changed.
        """
        changed = {}
        for charge in charges:
            claim_reference, _, _ = (charge.withdrawn_reference or "").partition("#")
            if claim_reference not in changed:
                of_it = [each for each in charges if _is_in(each, claim_reference)]
                changed[claim_reference] = self._without(of_it)
        versions: dict[str, str | None] = {}
        for claim_reference, (record, version) in changed.items():
            try:
                versions[claim_reference] = self.server.update(record, version).version
            except (TimedOut, Dropped, BadAnswer, ServerFailed) as error:
                raise _unknown(error) from error
            except EhrError as error:
                if versions:  # what was taken out before it is to be looked at
                    raise _unknown(error) from error
                raise
        return tuple(
            Written(
                reference := charge.withdrawn_reference or "",
                versions[reference.partition("#")[0]],
                "withdrawn",
            )
            for charge in charges
        )

    def _without(self, withdrawals: list[Charge]) -> tuple[dict[str, Any], str | None]:
        """The Claim without these charges, and the version it was read at."""
        record = self._claim_of(withdrawals[0])
        if record.get("status") not in {"draft", "cancelled"}:
            raise OnRecord(
                f"{withdrawals[0].withdrawn_reference} is no draft any more. Ask billing to correct it."
            )
        taken = {id(item) for charge in withdrawals for item in _items_of(record, charge)}
        left = [item for item in record.get("item", []) if id(item) not in taken]
        return ({**record, "item": left} if left else {**record, "status": "cancelled"}), _version(record)

    def _claim_of(self, withdrawal: Charge) -> dict[str, Any]:
        """The EHR's own record, whole: what we do not know of it goes back as it came."""
        reference, _, _ = (withdrawal.withdrawn_reference or "").partition("#")
        if not reference:
            raise OnRecord("It is not known where the charge to take back is.")
        try:
            body = self.server.read(reference)
        except NotFound as error:
            raise OnRecord(f"{reference} is no longer in the EHR.", words=error.words) from error
        self._ours(_view_of(body), withdrawal)
        return dict(json.loads(body))


def _unknown(error: EhrError) -> Unknown:
    return Unknown(
        "The EHR did not say clearly whether the Claim was written. "
        "It will be looked for before anything is sent again.",
        request_id=error.request_id,
        words=error.words,
    )


def claim_identifier(charges: tuple[Charge, ...]) -> str:
    """One for these charges, whatever their order."""
    return str(uuid.uuid5(_NAMESPACE, " ".join(sorted(charge.identifier for charge in charges))))


def claim(charges: tuple[Charge, ...], identifier: str) -> dict[str, Any]:
    """The draft Claim. Raises ``ValueError`` where a charge lacks what a Claim must say."""
    first = charges[0]
    if any(charge.coverage is None for charge in charges):
        raise ValueError("A Claim needs the coverage it goes to, and the chart has none.")
    if not first.performers:
        raise ValueError("A Claim names who performed the services.")
    resource = {
        "resourceType": "Claim",
        "identifier": [{"system": CLAIM_IDENTIFIER, "value": identifier}],
        "status": "draft",
        "type": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/claim-type", "code": "professional"}]
        },
        "use": "claim",
        "patient": {"reference": first.patient},
        "created": first.entered_at.isoformat(),
        "enterer": {"reference": first.enterer},
        "provider": {"reference": first.organization or first.performers[0]},
        "priority": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/processpriority", "code": "normal"}]
        },
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"reference": first.coverage}}],
        "item": [_item(number, charge) for number, charge in enumerate(charges, start=1)],
    }
    try:
        return dict(json.loads(ValidClaim.model_validate(resource).model_dump_json()))
    except ValidationError as error:
        where = "; ".join(".".join(map(str, part["loc"])) + ": " + part["msg"] for part in error.errors())
        raise ValueError(f"These charges make no valid Claim ({where}).") from error


def _item(number: int, charge: Charge) -> dict[str, Any]:
    item = {
        "extension": [
            {
                "url": CLAIM_CHARGE,
                "valueIdentifier": {"system": CHARGE_IDENTIFIER, "value": charge.identifier},
            }
        ],
        "sequence": number,
        "productOrService": {"coding": [{"system": system_of_code(charge.code), "code": charge.code}]},
        "modifier": [
            {"coding": [{"system": system_of_modifier(code), "code": code}]} for code in charge.modifiers
        ],
        "servicedDate": charge.date_of_service.isoformat(),
        "quantity": {"value": Decimal(charge.units)},
        "encounter": [{"reference": charge.encounter}],
    }
    return {name: value for name, value in item.items() if value}


# What we read back


class _ItemExtension(msgspec.Struct, rename="camel"):
    url: str
    value_identifier: Identifier | None = None


class _Item(msgspec.Struct):
    sequence: int
    extension: tuple[_ItemExtension, ...] | None = None

    @property
    def charges(self) -> set[str]:
        return {
            known.value_identifier.value
            for known in self.extension or ()
            if known.url == CLAIM_CHARGE and known.value_identifier and known.value_identifier.value
        }


class Claim(msgspec.Struct, rename="camel"):
    """Of a Claim, what tells whether it is ours and where in it a charge stands."""

    resource_type: str
    id: str
    identifier: tuple[Identifier, ...] | None = None
    status: str | None = None
    patient: Reference | None = None
    meta: Meta | None = None
    item: tuple[_Item, ...] | None = None


class _Entry(msgspec.Struct):
    resource: msgspec.Raw


def charges_in(entry: msgspec.Raw) -> Iterator[tuple[str, str, str | None]]:
    """Where in a Claim which charge of ours stands, and the Claim's status; nothing for what is no Claim."""
    with suppress(BadAnswer):
        view = _view(entry)
        for item in view.item or ():
            for identifier in sorted(item.charges):
                yield f"Claim/{view.id}#{item.sequence}", identifier, view.status


def _view(entry: msgspec.Raw) -> Claim:
    return _view_of(bytes(msgspec.json.decode(entry, type=_Entry).resource))


def _view_of(body: bytes) -> Claim:
    try:
        view = msgspec.json.decode(body, type=Claim)
    except msgspec.MsgspecError as error:
        raise BadAnswer("The EHR's answer is no Claim.") from error
    if view.resource_type != "Claim":
        raise BadAnswer("The EHR's answer is no Claim.")
    return view


def _items_of(record: dict[str, Any], withdrawal: Charge) -> list[dict[str, Any]]:
    """The items that stand for the charge which is taken back."""
    return [
        item
        for item in record.get("item", [])
        for extension in item.get("extension", [])
        if extension.get("url") == CLAIM_CHARGE
        and extension.get("valueIdentifier", {}).get("value") == withdrawal.withdraws
    ]


def _is_in(withdrawal: Charge, claim_reference: str) -> bool:
    return (withdrawal.withdrawn_reference or "").partition("#")[0] == claim_reference


def _version(record: dict[str, Any]) -> str | None:
    version = record.get("meta", {}).get("versionId")
    return str(version) if version else None
