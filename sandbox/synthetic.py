"""The synthetic charts: short entries in ``charts/*.yaml``, written out as FHIR around a given day."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from fhir.resources.R4B import get_fhir_model_class
from ruamel.yaml import YAML

from .scenarios import Scenario
from .store import Resource

CLINIC_ZONE = ZoneInfo("America/New_York")
OPENS_BEFORE = timedelta(minutes=5)  # a visit opens before its first service and closes after its last

CPT = "http://www.ama-assn.org/go/cpt"
HCPCS = "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
NPI = "http://hl7.org/fhir/sid/us-npi"
NUCC = "http://nucc.org/provider-taxonomy"
TAX_ID = "urn:oid:2.16.840.1.113883.4.4"
PAYMENT_TYPE = "https://nahdo.org/sopt"
V3_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
V3_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
# Systems that only this EHR uses.
OWN = "https://sandbox.quarterhour.example"
MRN, PAYER_ID, LOCAL_CODE = f"{OWN}/mrn", f"{OWN}/payer-id", f"{OWN}/service"
CHARGE, MODIFIER = f"{OWN}/charge", f"{OWN}/charge-modifier"


@dataclass(frozen=True)
class Charts:
    """Everything that the EHR holds at its start; a misfiled resource with the chart it lies in."""

    resources: tuple[tuple[Resource, str | None], ...]
    scenarios: tuple[Scenario, ...]


@cache
def synthetic_charts(today: date) -> Charts:
    """The charts, their visits on the working days around ``today``; a day always gives the same."""
    reader = YAML(typ="safe", pure=True)
    folder = files(__package__) / "charts"
    clinic = reader.load((folder / "clinic.yaml").read_text("utf-8"))
    visits = reader.load((folder / "visits.yaml").read_text("utf-8"))
    resources: list[tuple[Resource, str | None]] = [(each, None) for each in _clinic(clinic)]
    patients: dict[str, Any] = {}
    scenarios = []
    for visit in visits:
        if isinstance(visit["patient"], dict):
            patients[visit["patient"]["id"]] = visit["patient"]
            resources += [(resource, None) for resource in _patient(visit["patient"], clinic)]
        else:
            visit["patient"] = patients[visit["patient"]]
        day = working_day(today, visit["working_days_ago"])
        resources += _visit(visit, day, clinic)
        scenarios.append(_scenario(visit, day))
    for resource, _ in resources:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    return Charts(tuple(resources), tuple(scenarios))


# What the visits of a crowd are made of: by discipline, who furnishes it and which codes.
_CROWD = {
    "pr-reyes": ("97110", "97112", "97140", "97530", "97116", "97035", "G0283"),
    "pr-cole": ("97110", "97112", "97140", "97530"),
    "pr-osei": ("97530", "97535", "97110"),
    "pr-lindqvist": ("92507",),
}
_FAMILIES = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Juniper", "Larch")
_GIVEN = ("Ada", "Ben", "Cleo", "Dirk", "Edda", "Finn", "Gwen", "Hugo", "Iris", "Jon", "Kai", "Lena")
_VISITS_A_PATIENT = 4


def crowd(count: int, seed: int, today: date) -> Iterator[tuple[Resource, str | None]]:
    """So many finished visits of the working days before ``today``, with their patients; the clinic is there.

    The same seed gives the same visits. One in fifty has no services, one in fifty no minutes, one in thirty
    a charge that somebody entered, and one in ten a second person's services.
    """
    rng = random.Random(seed)
    reader = YAML(typ="safe", pure=True)
    clinic = reader.load((files(__package__) / "charts" / "clinic.yaml").read_text("utf-8"))
    patient: dict[str, Any] = {}
    for number in range(count):
        if number % _VISITS_A_PATIENT == 0:
            patient = {
                "id": f"pat-crowd-{number // _VISITS_A_PATIENT}",
                "given": rng.choice(_GIVEN),
                "family": rng.choice(_FAMILIES),
                "born": date(1935, 1, 1) + timedelta(days=rng.randrange(20_000)),
                "gender": rng.choice(("female", "male")),
                "mrn": str(500_000 + number),
                "payer": rng.choice(("medicare", "medicare", "medicare", "optum", "acme")),
            }
            yield from ((each, None) for each in _patient(patient, clinic))
        by = rng.choice(tuple(_CROWD))
        codes = rng.sample(_CROWD[by], k=min(len(_CROWD[by]), rng.randint(1, 4)))
        services: list[dict[str, Any]] = [{"code": code, "minutes": rng.randint(5, 40)} for code in codes]
        kind = rng.random()
        if kind < 0.02:  # noqa: PLR2004 - the shares that the docstring names
            services = []
        elif kind < 0.04:  # noqa: PLR2004
            services[0]["time"] = "none"
        elif kind < 0.14 and by == "pr-reyes":  # noqa: PLR2004
            services[-1]["by"] = "pr-cole"
        visit: dict[str, Any] = {
            "id": f"crowd-{number}",
            "patient": patient,
            "begins": f"{rng.randint(7, 16):02}:{rng.choice(('00', '15', '30', '45'))}",
            "by": by,
            "reason": {"code": "M54.50", "name": "Low back pain"},
            "services": services,
        }
        if services and rng.random() < 1 / 30:
            note = "Entered at the front desk."
            visit["charges"] = [{"code": codes[0], "units": 1, "modifiers": ["GP"], "note": note}]
        yield from _visit(visit, working_day(today, 1 + number % _VISITS_A_PATIENT), clinic)


def working_day(today: date, days_ago: int) -> date:
    """The n-th day before ``today`` (after it, if negative) that is not a Saturday or Sunday."""
    step, day = (1 if days_ago < 0 else -1), today
    for _ in range(abs(days_ago)):
        day += timedelta(days=step)
        while day.isoweekday() > 5:  # noqa: PLR2004 - Friday
            day += timedelta(days=step)
    return day


def _scenario(visit: Any, day: date) -> Scenario:
    return Scenario(
        id=visit["id"],
        title=visit["title"],
        shows=visit["shows"],
        patient=visit["patient"]["id"],
        encounter=f"enc-{visit['id']}",
        user=visit["by"],
        payer=visit["patient"]["payer"],
        date_of_service=day,
        expected=tuple(tuple(answer.items()) for answer in visit.get("expected", [])),
        source=visit.get("source"),
        problem=visit.get("problem", False),
    )


def _clinic(clinic: Any) -> Iterator[Resource]:
    for organization in clinic["organizations"]:
        system, value = (
            (TAX_ID, organization["tax_id"])
            if "tax_id" in organization
            else (PAYER_ID, organization["payer_id"])
        )
        yield {
            "resourceType": "Organization",
            "id": organization["id"],
            "identifier": [{"system": system, "value": value}],
            "active": True,
            "name": organization["name"],
        }
    for location in clinic["locations"]:
        yield {
            "resourceType": "Location",
            "id": location["id"],
            "status": "active",
            "name": location["name"],
            "managingOrganization": {"reference": "Organization/org-harbor"},
        }
    for person in clinic["practitioners"]:
        yield {
            "resourceType": "Practitioner",
            "id": person["id"],
            "identifier": [{"system": NPI, "value": person["npi"]}],
            "active": True,
            "name": [
                {"family": person["family"], "given": [person["given"]], "suffix": [person["credential"]]}
            ],
            "qualification": [{"code": {"text": person["credential"]}}],
        }
        yield {
            "resourceType": "PractitionerRole",
            "id": f"role-{person['id']}",
            "active": True,
            "practitioner": {"reference": f"Practitioner/{person['id']}"},
            "organization": {"reference": "Organization/org-harbor"},
            "code": [{"text": person["role"]}],
            "specialty": [
                {"coding": [{"system": NUCC, "code": person["taxonomy"], "display": person["role"]}]}
            ],
        }


def _patient(person: Any, clinic: Any) -> Iterator[Resource]:
    coverage = clinic["coverages"][person["payer"]]
    yield {
        "resourceType": "Patient",
        "id": person["id"],
        "identifier": [
            {
                "type": {
                    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]
                },
                "system": MRN,
                "value": person["mrn"],
            }
        ],
        "active": True,
        "name": [{"use": "official", "family": person["family"], "given": [person["given"]]}],
        "gender": person["gender"],
        "birthDate": person["born"].isoformat(),
        "managingOrganization": {"reference": "Organization/org-harbor"},
    }
    payer = next(each for each in clinic["organizations"] if each["id"] == coverage["payer"])
    yield {
        "resourceType": "Coverage",
        "id": f"cov-{person['id']}",
        "status": "active",
        "type": {
            "coding": [{"system": PAYMENT_TYPE, "code": coverage["type"], "display": coverage["type_name"]}],
            "text": coverage["type_name"],
        },
        "subscriberId": f"SYN{person['id'].removeprefix('pat-').upper()}",
        "beneficiary": {"reference": f"Patient/{person['id']}"},
        "relationship": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/subscriber-relationship", "code": "self"}
            ]
        },
        "period": {"start": "2024-01-01"},
        "payor": [{"reference": f"Organization/{payer['id']}", "display": payer["name"]}],
        "class": [
            {
                "type": {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/coverage-class", "code": "plan"}
                    ]
                },
                "value": coverage["class"],
            }
        ],
        "order": 1,
    }


def _visit(visit: Any, day: date, clinic: Any) -> Iterator[tuple[Resource, str | None]]:
    patient = f"Patient/{visit['patient']['id']}"
    encounter = f"Encounter/enc-{visit['id']}"
    opens = datetime.combine(day, time.fromisoformat(visit["begins"]), CLINIC_ZONE)
    start = opens + OPENS_BEFORE
    procedures: list[tuple[Resource, str | None]] = []
    for number, service in enumerate(visit["services"], start=1):
        end = start + timedelta(minutes=service["minutes"])
        misfiled = patient if "subject" in service else None
        procedures.append((_procedure(visit, service, number, clinic, start=start, end=end), misfiled))
        start = end
    staff = dict.fromkeys([visit["by"], *(service.get("by", visit["by"]) for service in visit["services"])])
    yield (
        {
            "resourceType": "Encounter",
            "id": encounter.removeprefix("Encounter/"),
            "identifier": [{"system": f"{OWN}/visit", "value": f"V-{visit['id']}"}],
            "status": visit.get("status", "finished"),
            "class": {"system": V3_ACT_CODE, "code": "AMB", "display": "ambulatory"},
            "subject": {"reference": patient},
            "participant": [
                {
                    "type": [{"coding": [{"system": V3_PARTICIPATION, "code": kind}]}],
                    "individual": {"reference": f"Practitioner/{person}", "display": _name(person, clinic)},
                }
                for person, kind in zip(staff, ("PPRF", "SPRF"), strict=False)
            ],
            "period": {"start": _instant(opens)}
            | ({} if "status" in visit else {"end": _instant(start + OPENS_BEFORE)}),
            "reasonCode": [_reason(visit)],
            "location": [{"location": {"reference": f"Location/{visit.get('location', 'loc-gym')}"}}],
            "serviceProvider": {"reference": "Organization/org-harbor", "display": "Harbor Therapy Clinic"},
        },
        None,
    )
    yield from procedures
    for number, charge in enumerate(visit.get("charges", []), start=1):
        yield _charge_item(visit, charge, number, opens), None


def _procedure(
    visit: Any, service: Any, number: int, clinic: Any, *, start: datetime, end: datetime
) -> Resource:
    performer = service.get("by", visit["by"])
    procedure: Resource = {
        "resourceType": "Procedure",
        "id": f"proc-{visit['id']}-{number}",
        "status": service.get("status", "completed"),
        "subject": {"reference": f"Patient/{service.get('subject', visit['patient']['id'])}"},
        "encounter": {"reference": f"Encounter/enc-{visit['id']}"},
        "performer": [
            {
                "actor": {"reference": f"Practitioner/{performer}", "display": _name(performer, clinic)},
                "onBehalfOf": {"reference": "Organization/org-harbor"},
            }
        ],
        "location": {"reference": f"Location/{visit.get('location', 'loc-gym')}"},
        "reasonCode": [_reason(visit)],
    }
    if "code" in service:
        name = service.get("name", clinic["names"][service["code"]])
        procedure["code"] = {"coding": [_billing_code(service["code"], name)], "text": name}
    elif "local" in service:
        coding = {"system": LOCAL_CODE, "code": service["local"], "display": service["name"]}
        procedure["code"] = {"coding": [coding], "text": service["name"]}
    if "note" in service:
        procedure["note"] = [{"text": service["note"]}]
    return procedure | _performed(service.get("time", "both"), start, end)


def _performed(kind: str, start: datetime, end: datetime) -> Resource:
    if kind == "none":
        return {}
    if kind == "date-only":
        return {"performedDateTime": start.date().isoformat()}
    if kind == "start-only":
        return {"performedPeriod": {"start": _instant(start)}}
    first, last = (end, start) if kind == "swapped" else (start, end)
    return {"performedPeriod": {"start": _instant(first), "end": _instant(last)}}


def _charge_item(visit: Any, charge: Any, number: int, opens: datetime) -> Resource:
    return {
        "resourceType": "ChargeItem",
        "id": f"charge-{visit['id']}-{number}",
        "identifier": [{"system": CHARGE, "value": f"{visit['id']}-{number}"}],
        "status": "billable",
        "code": {"coding": [_billing_code(charge["code"])]},
        "subject": {"reference": f"Patient/{visit['patient']['id']}"},
        "context": {"reference": f"Encounter/enc-{visit['id']}"},
        "occurrenceDateTime": _instant(opens + OPENS_BEFORE),
        "performer": [{"actor": {"reference": f"Practitioner/{visit['by']}"}}],
        "performingOrganization": {"reference": "Organization/org-harbor"},
        "quantity": {"value": charge["units"]},
        "enterer": {"reference": f"Practitioner/{visit['by']}"},
        "enteredDate": _instant(opens + timedelta(hours=3)),
        "note": [{"text": charge["note"]}],
        "extension": [
            {
                "url": MODIFIER,
                "extension": [
                    {"url": "rank", "valuePositiveInt": rank},
                    {"url": "code", "valueCodeableConcept": {"coding": [_billing_code(modifier)]}},
                ],
            }
            for rank, modifier in enumerate(charge["modifiers"], start=1)
        ],
    }


def _billing_code(code: str, display: str | None = None) -> Resource:
    coding = {"system": CPT if code[0].isdigit() else HCPCS, "code": code}
    return coding | ({"display": display} if display else {})


def _reason(visit: Any) -> Resource:
    reason = visit["reason"]
    coding = {"system": ICD_10_CM, "code": reason["code"], "display": reason["name"]}
    return {"coding": [coding], "text": reason["name"]}


def _name(practitioner_id: str, clinic: Any) -> str:
    person = next(each for each in clinic["practitioners"] if each["id"] == practitioner_id)
    return f"{person['given']} {person['family']}, {person['credential']}"


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
