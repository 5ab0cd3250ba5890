"""The person whose chart it is, as a banner shows them."""

from __future__ import annotations

from dataclasses import dataclass

from .views import HumanName, Patient

# https://terminology.hl7.org/CodeSystem-v2-0203.html: MR is the medical record number.
_RECORD_NUMBER = "MR"


@dataclass(frozen=True, slots=True)
class Person:
    """Display only; what the chart does not say is None."""

    name: str | None
    birth_date: str | None
    sex: str | None
    record_number: str | None
    family: str | None = None  # apart from the name, for those who bill by it
    given: str | None = None


def person_of(patient: Patient) -> Person:
    """Name, date of birth, sex and record number, for telling patients apart at a glance."""
    names = [name for name in patient.name or () if name.use != "old"]
    official = next((name for name in names if name.use == "official"), names[0] if names else None)
    numbers = [
        identifier.value
        for identifier in patient.identifier or ()
        if identifier.type and any(coding.code == _RECORD_NUMBER for coding in identifier.type.codings)
    ]
    return Person(
        name=_in_full(official) if official else None,
        birth_date=patient.birth_date,
        sex=patient.gender,
        record_number=next((number for number in numbers if number), None),
        family=official.family if official else None,
        given=" ".join(official.given or ()) or None if official else None,
    )


def _in_full(name: HumanName) -> str | None:
    parts = [*(name.given or ()), name.family or ""]
    return name.text or " ".join(part for part in parts if part) or None
