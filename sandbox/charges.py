"""What this EHR accepts as a new or changed resource: the second opinion on what an app writes."""

from __future__ import annotations

from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from .outcome import Refused
from .store import Resource, Store

WRITABLE = ("ChargeItem", "Claim", "Provenance")
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
    if resource_type == "Claim" and not _exists(resource["patient"].get("reference"), "Patient", store):
        raise Refused(422, "business-rule", "Claim.patient: no such patient.")
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


# Charges as Oracle Health takes them: an operation, and nothing of the sender's kept.
# https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-chargeitem-create-post.html

EXTENSIONS = "https://fhir-ehr.cerner.com/r4/StructureDefinition"
_KEPT = ("extension", "code", "subject", "context", "occurrenceDateTime", "performer", "quantity")


def created_by_operation(parameters: Any, store: Store) -> Resource:
    """The charge that ``$create`` makes of its parameters, priced and without any identifier."""
    given = {each.get("name"): each for each in parameters.get("parameter", [])}
    charge = given.get("chargeItem", {}).get("resource")
    if not str(given.get("transactionId", {}).get("valueUuid", "")).startswith("urn:uuid:"):
        raise Refused(400, "required", "transactionId: a urn:uuid is needed.")
    accept(charge, "ChargeItem", store)
    if charge["status"] != "unknown":
        raise Refused(422, "business-rule", "ChargeItem.status must be unknown.")
    for element in ("subject", "context", "occurrenceDateTime", "quantity"):
        if element not in charge:
            raise Refused(422, "required", f"ChargeItem.{element} is missing.")
    coding = charge["code"]["coding"]
    if len(coding) != 1 or "/CodeSystem/BillCodes-" not in coding[0].get("system", ""):
        raise Refused(422, "code-invalid", "ChargeItem.code: one coding of a bill code system.")
    schedules = [each.get("url") for each in coding[0].get("extension", [])]
    if f"{EXTENSIONS}/bill-code-schedule" not in schedules:
        raise Refused(422, "required", "ChargeItem.code: the bill code schedule is missing.")
    kept = {name: charge[name] for name in _KEPT if name in charge}
    return {"resourceType": "ChargeItem", "status": "billable", **kept}


def credited_by_operation(parameters: Any, charge: Resource) -> None:
    """Whether ``$credit`` may take this charge back. Raises ``Refused``."""
    given = {each.get("name"): each for each in parameters.get("parameter", [])}
    for name in ("subject", "context"):
        if given.get(name, {}).get("valueReference") != charge.get(name):
            raise Refused(422, "business-rule", f"{name} is not the charge's.")
    if given.get("versionId", {}).get("valueId") != charge["meta"]["versionId"]:
        raise Refused(409, "conflict", "versionId is not the charge's version.")
    if any(each["url"] == f"{EXTENSIONS}/offset-by" for each in charge.get("extension", [])):
        raise Refused(422, "business-rule", "The charge was credited already.")
