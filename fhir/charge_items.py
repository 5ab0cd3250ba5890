"""Charges as ChargeItems: in one transaction where the EHR has them, else one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec
from fhir.resources.R4B.provenance import Provenance

from .charge_item import (
    Charge,
    Written,
    charge_item,
    check_ours,
    find_charge,
    identifier_query,
    item_in,
    write_charge,
)
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
from .server import Server
from .suggested_charge import (
    GONE,
    Change,
    Plan,
    find_in_place,
    planned,
    plans_in,
    put,
    put_in_place,
    takes_a_place,
)
from .systems import APP, CHARGE_ITEM_STATUS
from .views import bare

# What a charge may be in and still be taken back by us; a billed one is billing's.
_OPEN = CHARGE_ITEM_STATUS - {"billed", "aborted", "entered-in-error"}


@dataclass(frozen=True)
class OneByOne:
    """A conditional create a charge, and a search before any second try."""

    server: Server
    wait: timedelta
    modifiers: Literal["own", "medplum"] = "own"
    withdrawn_status: str = "aborted"
    name: Literal["charge-item"] = "charge-item"
    finds: bool = True
    by_identifier: bool = True
    together: bool = False

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """What stands in the charges' places; nothing where that can be nothing of ours."""
        return planned(self.server, charges, self.modifiers)

    def find(self, charge: Charge, prepared: tuple[str, ...] = ()) -> Written | None:  # noqa: ARG002
        """By our identifier; a withdrawal by the status of what it takes back."""
        return _found(self.server, charge)

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...] = ()) -> tuple[Written, ...]:
        """One charge at a time; the caller gives one."""
        (charge,) = charges
        if charge.withdraws:
            return (withdraw(self.server, charge, self.withdrawn_status),)
        (plan,) = plans_in(prepared, charges)
        if isinstance(plan, Written):
            return (plan,)
        if isinstance(plan, Change):
            return (put_in_place(self.server, charge, plan),)
        return (write_charge(self.server, charge, self.modifiers),)


@dataclass(frozen=True)
class InOneTransaction:
    """All charges, and the Provenance of them, wholly or not at all.

    https://hl7.org/fhir/R4/http.html#transaction
    """

    server: Server
    wait: timedelta
    modifiers: Literal["own", "medplum"] = "own"
    withdrawn_status: str = "aborted"
    provenance: bool = True
    name: Literal["transaction"] = "transaction"
    finds: bool = True
    by_identifier: bool = True
    together: bool = True

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """What stands in the charges' places; nothing where that can be nothing of ours."""
        return planned(self.server, charges, self.modifiers)

    def find(self, charge: Charge, prepared: tuple[str, ...] = ()) -> Written | None:  # noqa: ARG002
        """By our identifier; a withdrawal by the status of what it takes back."""
        return _found(self.server, charge)

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...] = ()) -> tuple[Written, ...]:
        """One Bundle; withdrawals are updates in it, each with If-Match."""
        asked = [
            self._entry(charge, plan)
            for charge, plan in zip(charges, plans_in(prepared, charges), strict=True)
        ]
        entries = [entry for entry in asked if not isinstance(entry, Written)]
        if not entries:
            return tuple(entry for entry in asked if isinstance(entry, Written))
        signed = [
            (charge, entry)
            for charge, entry in zip(charges, asked, strict=True)
            if not (charge.takes_back or charge.suggested or isinstance(entry, Written))
        ]
        if self.provenance and signed:
            entries.append(_provenance_entry(signed))
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        try:
            body = self.server.transact(bundle)
        except (TimedOut, Dropped, BadAnswer, ServerFailed) as error:
            raise _unknown(error) from error
        try:
            answered = iter(_answered(body, len(entries)))
            return tuple(
                entry if isinstance(entry, Written) else self._written(charge, entry, next(answered))
                for charge, entry in zip(charges, asked, strict=True)
            )
        except EhrError as error:  # also what says no to one charge: the others were written
            raise _unknown(error) from error

    def _entry(self, charge: Charge, plan: Plan) -> dict[str, Any] | Written:
        """What the Bundle says of a charge; or what stands there already, so that it need say nothing."""
        if charge.withdraws:
            return _update_entry(*withdrawn_item(self.server, charge, self.withdrawn_status))
        if isinstance(plan, Written):
            return plan
        if isinstance(plan, Change):
            return _update_entry(plan.item, plan.version)
        return {
            "fullUrl": f"urn:uuid:{charge.identifier}",
            "resource": json.loads(charge_item(charge, self.modifiers).model_dump_json()),
            "request": {"method": "POST", "url": "ChargeItem", "ifNoneExist": identifier_query(charge)},
        }

    def _written(self, charge: Charge, asked: dict[str, Any], entry: _Answered) -> Written:
        response = entry.response
        located = self.server.located(response.location or "")
        if charge.withdraws:
            return Written(charge.withdrawn_reference or "", located[1] if located else None, "withdrawn")
        if asked["request"]["method"] == "PUT":
            body = bytes(entry.resource)
            view = item_in(body) if body != b"null" else None
            if view is not None:
                check_ours(charge, view, self.server)
            version = (located[1] if located else None) or (view.version if view else None)
            return put(charge, asked["request"]["url"], version)
        if response.status.startswith("200"):  # it was there already: it must be ours, and say the same
            found = find_charge(self.server, charge)
            if found is None:
                raise BadAnswer("The EHR says that this charge exists, but does not find it yet.")
            return found
        if bytes(entry.resource) != b"null":
            check_ours(charge, item_in(bytes(entry.resource)), self.server)
        if located is None:
            raise BadAnswer("The EHR did not say where it filed the charge.")
        return Written(located[0], located[1], "created")


def _unknown(error: EhrError) -> Unknown:
    return Unknown(
        "The EHR did not say clearly whether the charges were written. "
        "Each will be looked for before anything is sent again.",
        request_id=error.request_id,
        words=error.words,
    )


class _Response(msgspec.Struct):
    status: str
    location: str | None = None


class _Answered(msgspec.Struct):
    response: _Response
    resource: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct, rename="camel"):
    resource_type: str
    type: str
    entry: list[_Answered] = []


def _answered(body: bytes, expected: int) -> list[_Answered]:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.MsgspecError as error:
        raise BadAnswer("The EHR answered the transaction with no Bundle.") from error
    if answer.type != "transaction-response" or len(answer.entry) != expected:
        raise BadAnswer("The EHR's answer does not fit the transaction.")
    return answer.entry


def _found(server: Server, charge: Charge) -> Written | None:
    if charge.withdraws:
        return found_withdrawn(server, charge)
    return find_in_place(server, charge) if takes_a_place(charge) else find_charge(server, charge)


def _update_entry(item: dict[str, Any], version: str | None) -> dict[str, Any]:
    request = {"method": "PUT", "url": f"ChargeItem/{item['id']}"}
    return {"resource": item, "request": request | ({"ifMatch": f'W/"{version}"'} if version else {})}


def _provenance_entry(signed: list[tuple[Charge, dict[str, Any]]]) -> dict[str, Any]:
    """Who accepted what was assembled from which Procedures (https://hl7.org/fhir/R4/provenance.html)."""
    charges = [charge for charge, _ in signed]
    first = charges[0]
    participant = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    resource = {
        "resourceType": "Provenance",
        "target": [{"reference": entry.get("fullUrl") or entry["request"]["url"]} for _, entry in signed],
        "recorded": first.entered_at.isoformat(),
        "activity": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-DataOperation", "code": "CREATE"}]
        },
        "agent": [
            {
                "type": {"coding": [{"system": participant, "code": "author"}]},
                "who": {"reference": first.enterer},
            },
            {"type": {"coding": [{"system": participant, "code": "assembler"}]}, "who": {"display": APP}},
        ],
        "entity": [
            {"role": "source", "what": {"reference": service}}
            for service in dict.fromkeys(service for charge in charges for service in charge.services)
        ],
    }
    model = Provenance.model_validate(resource)
    return {
        "resource": json.loads(model.model_dump_json()),
        "request": {"method": "POST", "url": "Provenance"},
    }


# Taking a charge back


def found_withdrawn(server: Server, withdrawal: Charge) -> Written | None:
    """The charge that is taken back, where the EHR shows it so already."""
    item = _item_of(server, withdrawal)
    if item.get("status") not in GONE:
        return None
    return Written(withdrawal.withdrawn_reference or "", _version(item), "withdrawn")


def withdrawn_item(server: Server, withdrawal: Charge, status: str) -> tuple[dict[str, Any], str | None]:
    """The ChargeItem as it is, with its new status and the reason, and the version it was read at."""
    item = _item_of(server, withdrawal)
    if item.get("status") not in _OPEN | GONE:
        raise OnRecord(
            f"{withdrawal.withdrawn_reference} has the status '{item.get('status')}' and is no longer ours "
            "to change. Ask billing to correct it."
        )
    noted = [*item.get("note", []), {"text": withdrawal.rationale}]
    return {**item, "status": status, "note": noted}, _version(item)


def withdraw(server: Server, withdrawal: Charge, status: str) -> Written:
    """Update the charge to a status that bills nothing, over the version that was read.

    Raises as ``write_charge`` does; a charge that somebody changed in between is a ``Conflict``.
    """
    item, version = withdrawn_item(server, withdrawal, status)
    try:
        updated = server.update(item, version)
        if updated.body.strip():
            _check_patient(withdrawal, updated.body, server)
    except (TimedOut, Dropped, BadAnswer, ServerFailed, WrongPatient) as error:
        raise Unknown(
            "The EHR did not say clearly whether the charge was taken back. "
            "It will be looked at before anything is sent again.",
            request_id=error.request_id,
            words=error.words,
        ) from error
    return Written(withdrawal.withdrawn_reference or "", updated.version, "withdrawn")


def _item_of(server: Server, withdrawal: Charge) -> dict[str, Any]:
    """The EHR's own record, whole: what we do not know of it goes back as it came."""
    reference = withdrawal.withdrawn_reference
    if reference is None:
        raise OnRecord("It is not known where the charge to take back is.")
    try:
        item: Mapping[str, Any] = json.loads(server.read(reference))
    except NotFound as error:
        raise OnRecord(f"{reference} is no longer in the EHR.", words=error.words) from error
    except ValueError as error:
        raise BadAnswer("The EHR's answer is no ChargeItem.") from error
    _check_patient(withdrawal, json.dumps(item).encode(), server)
    return dict(item)


def _check_patient(withdrawal: Charge, body: bytes, server: Server) -> None:
    if bare(item_in(body).subject, server.base_uri) != withdrawal.patient:
        raise WrongPatient("The EHR answered with a charge of another patient.")


def _version(item: Mapping[str, Any]) -> str | None:
    version = item.get("meta", {}).get("versionId")
    return str(version) if version else None
