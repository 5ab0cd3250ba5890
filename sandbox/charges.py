"""What this EHR accepts as a new or changed resource: the second opinion on what an app writes."""

from __future__ import annotations

from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from .outcome import Refused
from .store import Resource, Store

WRITABLE = ("ChargeItem", "Provenance")
# https://hl7.org/fhir/R4/valueset-chargeitem-status.html; fhir.resources does not check required bindings.
CHARGE_ITEM_STATUS = (
    "planned",
    "billable",
    "not-billable",
    "aborted",
    "billed",
    "entered-in-error",
    "unknown",
)


def accept(resource: Any, resource_type: str, store: Store) -> None:
    """Return when a resource may be filed; else ``Refused`` (400, 422), naming the element."""
    if not isinstance(resource, dict) or resource.get("resourceType") != resource_type:
        raise Refused(400, "invalid", f"The body must be a {resource_type}.")
    try:
        get_fhir_model_class(resource_type).model_validate(resource)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (resource_type, *first["loc"]))
        raise Refused(422, "structure", f"{where}: {first['msg']}") from error
    if resource_type == "ChargeItem":
        _accept_charge_item(resource, store)


def _accept_charge_item(charge: Resource, store: Store) -> None:
    if charge["status"] not in CHARGE_ITEM_STATUS:
        raise Refused(
            422, "code-invalid", f"ChargeItem.status: {charge['status']!r} is not in the value set."
        )
    if not charge["code"].get("coding"):
        raise Refused(422, "required", "ChargeItem.code.coding: a charge needs a code.")
    subject = charge["subject"].get("reference")
    if not _exists(subject, "Patient", store):
        raise Refused(422, "business-rule", "ChargeItem.subject: no such patient.")
    context = charge.get("context", {}).get("reference")
    if context is not None:
        if not _exists(context, "Encounter", store):
            raise Refused(422, "business-rule", "ChargeItem.context: no such encounter.")
        encounter = store.get(*context.split("/"))
        if encounter is not None and encounter.patient != subject:
            raise Refused(422, "business-rule", "ChargeItem.context: the encounter of another patient.")
    value = charge.get("quantity", {}).get("value")
    if value is not None and (value <= 0 or value != int(value)):
        raise Refused(422, "business-rule", "ChargeItem.quantity: whole units, one or more.")


def _exists(reference: str | None, resource_type: str, store: Store) -> bool:
    kind, _, resource_id = (reference or "").partition("/")
    return kind == resource_type and store.get(kind, resource_id) is not None
