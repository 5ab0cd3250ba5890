"""Typed views of just the elements that we use, each resource decoded by itself.

What we do not name here cannot break us; what we name and cannot read becomes an ``Unread`` with its JSON
path. The views say nothing about meaning: that is ``normalise.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import msgspec

from .systems import (
    AWAITS_RELEASE,
    BILLING_SYSTEMS,
    CHARGE_IDENTIFIER,
    CHARGE_MODIFIER,
    CHARGE_TAG,
    MEDPLUM_MODIFIER,
    ORACLE_EXTENSIONS,
    SUGGESTED,
    is_billing_code,
)

_DIGITS = 12  # before or behind the point; no quantity of a visit needs more


@dataclass(frozen=True, slots=True)
class Unread:
    """A resource that could not be read: which (None where not even that is legible), where in it, why."""

    reference: str | None
    path: str  # JSON path as msgspec gives it, "$.performedPeriod.start"
    reason: str


class _View(msgspec.Struct, frozen=True, rename="camel"):
    """An element: camelCase in JSON, unknown parts passed over. Type checkers want ``frozen`` on each."""


class Coding(_View, frozen=True):
    system: str | None = None
    code: str | None = None
    display: str | None = None


class CodeableConcept(_View, frozen=True):
    coding: tuple[Coding, ...] | None = None
    text: str | None = None

    @property
    def codings(self) -> tuple[Coding, ...]:
        return self.coding or ()


class Identifier(_View, frozen=True):
    type: CodeableConcept | None = None
    system: str | None = None
    value: str | None = None


class Reference(_View, frozen=True):
    reference: str | None = None
    identifier: Identifier | None = None
    display: str | None = None


class Period(_View, frozen=True):
    start: str | None = None
    end: str | None = None


class Quantity(_View, frozen=True):
    value: Decimal | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None

    @property
    def amount(self) -> Decimal | None:
        """The value where it is a number that arithmetic can take: 1e999999 as an int takes minutes."""
        value = self.value
        if value is None or not value.is_finite():
            return None
        return value if value == 0 or abs(value.adjusted()) < _DIGITS else None


class Meta(_View, frozen=True):
    version_id: str | None = None
    tag: tuple[Coding, ...] | None = None


class HumanName(_View, frozen=True):
    use: str | None = None
    text: str | None = None
    family: str | None = None
    given: tuple[str, ...] | None = None
    prefix: tuple[str, ...] | None = None
    suffix: tuple[str, ...] | None = None


class _Resource(_View, frozen=True):
    """What every resource has. An element under ``modifierExtension`` or ``implicitRules`` may turn the
    meaning round, so whoever finds one sets the resource aside (https://hl7.org/fhir/R4/extensibility.html).
    """

    resource_type: str
    id: str
    meta: Meta | None = None
    implicit_rules: str | None = None
    modifier_extension: tuple[msgspec.Raw, ...] | None = None

    @property
    def reference(self) -> str:
        return f"{self.resource_type}/{self.id}"

    @property
    def version(self) -> str | None:
        return self.meta.version_id if self.meta else None

    @property
    def may_mean_otherwise(self) -> bool:
        return bool(self.modifier_extension or self.implicit_rules)


class EncounterParticipant(_View, frozen=True):
    individual: Reference | None = None


class Encounter(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/encounter.html for the elements."""

    status: str | None = None
    subject: Reference | None = None
    period: Period | None = None
    length: msgspec.Raw = msgspec.Raw(b"null")  # a ceiling only: unreadable, it must not stop the visit
    participant: tuple[EncounterParticipant, ...] | None = None
    service_provider: Reference | None = None
    account: tuple[Reference, ...] | None = None


class ProcedurePerformer(_View, frozen=True):
    function: CodeableConcept | None = None
    actor: Reference | None = None
    on_behalf_of: Reference | None = None
    modifier_extension: tuple[msgspec.Raw, ...] | None = None


class Note(_View, frozen=True):
    text: str | None = None


class Procedure(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/procedure.html for the elements."""

    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    performed_period: Period | None = None
    performed_date_time: str | None = None
    performer: tuple[ProcedurePerformer, ...] | None = None
    part_of: tuple[Reference, ...] | None = None
    reason_code: tuple[CodeableConcept, ...] | None = None
    note: tuple[Note, ...] | None = None
    extension: tuple[msgspec.Raw, ...] | None = None


class Observation(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/observation.html for the elements."""

    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    part_of: tuple[Reference, ...] | None = None
    focus: tuple[Reference, ...] | None = None
    derived_from: tuple[Reference, ...] | None = None
    value_quantity: Quantity | None = None


class Patient(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/patient.html for the elements."""

    identifier: tuple[Identifier, ...] | None = None
    name: tuple[HumanName, ...] | None = None
    gender: str | None = None
    birth_date: str | None = None


class Practitioner(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/practitioner.html for the elements."""

    name: tuple[HumanName, ...] | None = None


class PractitionerRole(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/practitionerrole.html for the elements."""

    active: bool | None = None
    practitioner: Reference | None = None
    organization: Reference | None = None
    code: tuple[CodeableConcept, ...] | None = None
    specialty: tuple[CodeableConcept, ...] | None = None
    period: Period | None = None


class Organization(_Resource, frozen=True):
    """https://hl7.org/fhir/R4/organization.html; also as contained in a Coverage."""

    identifier: tuple[Identifier, ...] | None = None
    name: str | None = None


class CoverageClass(_View, frozen=True):
    type: CodeableConcept | None = None
    value: str | None = None


class Coverage(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/coverage.html for the elements."""

    status: str | None = None
    type: CodeableConcept | None = None
    beneficiary: Reference | None = None
    payor: tuple[Reference, ...] | None = None
    period: Period | None = None
    order: int | None = None
    class_: tuple[CoverageClass, ...] | None = msgspec.field(default=None, name="class")
    contained: tuple[msgspec.Raw, ...] | None = None


class ModifierPart(_View, frozen=True):
    url: str
    value_positive_int: int | None = None
    value_unsigned_int: int | None = None
    value_codeable_concept: CodeableConcept | None = None


class Extension(_View, frozen=True):
    url: str
    extension: tuple[ModifierPart, ...] | None = None
    value_codeable_concept: CodeableConcept | None = None


class ChargeItemPerformer(_View, frozen=True):
    actor: Reference | None = None


class ChargeItem(_Resource, frozen=True):
    """See https://hl7.org/fhir/R4/chargeitem.html for the elements."""

    identifier: tuple[Identifier, ...] | None = None
    extension: tuple[Extension, ...] | None = None
    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    context: Reference | None = None
    occurrence_date_time: str | None = None
    occurrence_period: Period | None = None
    performer: tuple[ChargeItemPerformer, ...] | None = None
    performing_organization: Reference | None = None
    quantity: Quantity | None = None
    service: tuple[Reference, ...] | None = None
    entered_date: str | None = None

    def values_under(self, system: str) -> frozenset[str]:
        """Our own identifiers, or another system's."""
        return frozenset(
            known.value for known in self.identifier or () if known.system == system and known.value
        )

    @property
    def is_suggestion(self) -> bool:
        """Whether it stands for nothing yet: our own, planned, and nobody has reviewed it.

        A server may keep a tag that an update leaves out, so the tag alone says nothing
        (https://hl7.org/fhir/R4/resource.html#tag-updates).
        """
        tags = {tag.code for tag in (self.meta.tag if self.meta else None) or () if tag.system == CHARGE_TAG}
        return (
            self.status == "planned"
            and SUGGESTED["code"] in tags
            and AWAITS_RELEASE["code"] not in tags
            and bool(self.values_under(CHARGE_IDENTIFIER))
        )

    @property
    def billing_codes(self) -> tuple[str, ...]:
        return billing_codes(self.code)

    @property
    def units(self) -> int | None:
        """Whole units, or None where the quantity is missing or not whole."""
        value = self.quantity.amount if self.quantity else None
        return int(value) if value is not None and value == int(value) else None

    @property
    def modifiers(self) -> tuple[str, ...]:
        """Those in our own extension by rank, or in Medplum's or Oracle's in their order."""
        ranked = []
        for place, extension in enumerate(self.extension or ()):
            if extension.url == MEDPLUM_MODIFIER and extension.value_codeable_concept:
                codes = extension.value_codeable_concept.codings
                ranked += [(place, coding.code) for coding in codes if coding.code]
            if extension.url not in {CHARGE_MODIFIER, f"{ORACLE_EXTENSIONS}/modifier-code"}:
                continue
            parts = {part.url: part for part in extension.extension or ()}
            rank = parts.get("rank") or parts.get(f"{ORACLE_EXTENSIONS}/priority")
            code = parts.get("code")
            concept = code.value_codeable_concept if code else None
            order = ((rank.value_positive_int or rank.value_unsigned_int) if rank else None) or 0
            ranked += [(order, coding.code) for coding in (concept.codings if concept else ()) if coding.code]
        return tuple(code for _, code in sorted(ranked))


_Kind = TypeVar("_Kind", bound=msgspec.Struct)
_TYPE = re.compile(r"[A-Z][A-Za-z]{2,50}")
_HISTORY = re.compile(r"/_history/.*$")


class _Entry(_View, frozen=True):
    resource: msgspec.Raw = msgspec.Raw(b"null")  # a union with None would not take objects


class _Named(_View, frozen=True):
    resource_type: str | None = None
    id: str | None = None


def resources(entries: Iterable[msgspec.Raw], kind: type[_Kind]) -> tuple[list[_Kind], list[Unread]]:
    """The resources of one kind in a Bundle's entries, and those that could not be read.

    Entries of other kinds (OperationOutcomes with a server's remarks, included resources) are passed over.
    """
    read: list[_Kind] = []
    unread: list[Unread] = []
    for entry in entries:
        try:
            raw = msgspec.json.decode(entry, type=_Entry).resource
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            unread.append(Unread(None, *_where_and_why(error)))
            continue
        resource = resource_from(raw, kind)
        if isinstance(resource, Unread):
            unread.append(resource)
        elif resource is not None:
            read.append(resource)
    return read, unread


def as_sent(entries: Iterable[msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Each entry's whole resource by its reference, the first copy of each, for those that have one."""
    sent: dict[str, msgspec.Raw] = {}
    for entry in entries:
        try:
            raw = msgspec.json.decode(entry, type=_Entry).resource
            named = msgspec.json.decode(raw, type=_Named)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # ``resources`` names it
        sent.setdefault(f"{named.resource_type}/{named.id}", raw)
    return sent


def resource_from(raw: bytes | msgspec.Raw, kind: type[_Kind]) -> _Kind | Unread | None:
    """The resource, why it could not be read, or None where it is of another kind."""
    try:
        named = msgspec.json.decode(raw, type=_Named)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        named = _Named()
    reference = f"{kind.__name__}/{named.id}" if named.id else None
    if named.resource_type is not None and named.resource_type != kind.__name__:
        if _TYPE.fullmatch(named.resource_type):
            return None
        return Unread(reference, "$.resourceType", "No type of resource")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Unread(reference, *_where_and_why(error))


def _where_and_why(error: Exception) -> tuple[str, str]:
    """Msgspec says "Expected `str`, got `int` - at `$.code`"; its words quote no value from the chart."""
    reason, _, path = str(error).partition(" - at ")
    return path.strip("`") or "$", reason


def bare(reference: Reference | str | None, base_url: str = "") -> str | None:
    """Patient/P1 for https://ehr/fhir/Patient/P1/_history/3; another server's address stays whole."""
    text = reference.reference if isinstance(reference, Reference) else reference
    if text is None:
        return None
    if base_url:
        text = text.removeprefix(base_url.rstrip("/") + "/")
    return _HISTORY.sub("", text)


def billing_codes(concept: CodeableConcept | None) -> tuple[str, ...]:
    """The distinct CPT and HCPCS codes of a concept, in its order."""
    codes = (
        coding.code.strip()
        for coding in (concept.codings if concept else ())
        if coding.system in BILLING_SYSTEMS and coding.code
    )
    return tuple(dict.fromkeys(code for code in codes if is_billing_code(code)))


def name_of(person: Patient | Practitioner | None) -> str | None:
    """A name for the page: the official or usual one as text, else its parts in their order."""
    names = person.name or () if person else ()
    if not names:
        return None
    name = min(
        names,
        key=lambda known: ("official", "usual").index(known.use) if known.use in ("official", "usual") else 2,
    )
    parts = (*(name.prefix or ()), *(name.given or ()), name.family or "", *(name.suffix or ()))
    return name.text or " ".join(part for part in parts if part) or None
