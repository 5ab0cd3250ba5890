"""Twenty thousand Procedures and Encounters that nobody should send, the same ones every time.

No crash, and every Procedure is counted in a visit or named to the reviewer: in a finding, as unreadable, as
another patient's. The one exception is what is certainly another day's, which an oracle of this file decides.
"""

import json
import random
import re
from collections import Counter

from quarterhour.fhir.errors import EhrError
from quarterhour.fhir.normalise import visits_from

CHARTS, EACH = 200, 50
THE_DAY = "2026-11-20"

HOSTILE = [
    "",
    " ",
    "\u0000",
    "\ud7ff\uffff",
    "\u202e0119",
    "<script>alert(1)</script>",
    "'; DROP TABLE charges; --",
    "{{7*7}}",
    "%s%n",
    "../../Patient/P1",
    "A" * 5000,
    "97110\n",
    "９７１１０",
    "null",
    "Patient/P1",
]
# Each with its calendar day in Boston, None where it has none.
DAYS = {
    f"{THE_DAY}T09:00:00-05:00": THE_DAY,
    f"{THE_DAY}T09:20:00Z": THE_DAY,
    f"{THE_DAY}T14:20:00.123456789Z": THE_DAY,
    f"{THE_DAY}T09:20:00": THE_DAY,
    THE_DAY: THE_DAY,
    "2026-11-21T04:59:59Z": THE_DAY,
    "2026-11-21T05:00:00Z": "2026-11-21",
    "2026-11-20T04:59:59Z": "2026-11-19",
    "2026-11-19T23:59:59-05:00": "2026-11-19",
    "9989-12-31T23:59:59Z": "9989-12-31",
    "2026-11": None,
    "2026": None,
    "0000-00-00": None,
    "0001-01-01T00:00:00+14:00": None,
    "1899-12-31": None,
    "9999-12-31T23:59:59-12:00": None,
    "2026-02-30": None,
    f"{THE_DAY}T24:00:00Z": None,
    f"{THE_DAY}T23:59:60Z": None,
    f"{THE_DAY}T09:00:00+99:99": None,
    "11/20/2026": None,
    "20261120090000": None,
    "-2026-11-20": None,
}
DATES = list(DAYS)
NUMBERS = [0, -1, 15, 1.5, 10**30, -(10**30), 1e300, True, False]
REFERENCES = [
    {"reference": each}
    for each in (
        "Patient/P1",
        "Patient/P2",
        "Encounter/E1",
        "Encounter/E2",
        "https://ehr.example/fhir/Patient/P1",
        "https://ehr.example/fhir/Encounter/E1/_history/2",
        "https://elsewhere.example/Patient/P1",
        "Practitioner/T1",
        "PractitionerRole/none",
        "#contained",
        "urn:uuid:3f2b1c9e-0000-4000-8000-000000000000",
        "Encounter?identifier=1",
        "",
    )
] + [{"display": "Somebody"}, {"identifier": {"value": "1"}}, {"reference": None}, {"reference": 5}]
STATUSES = [
    "completed",
    "in-progress",
    "not-done",
    "entered-in-error",
    "unknown",
    "stopped",
    "Completed",
    "finished",
]

PROCEDURE = [
    "status",
    "code",
    "subject",
    "encounter",
    "performedPeriod",
    "performedDateTime",
    "performer",
    "partOf",
    "reasonCode",
    "modifierExtension",
    "implicitRules",
    "extension",
    "note",
    "meta",
    "resourceType",
]
ENCOUNTER = ["status", "subject", "period", "length", "participant", "serviceProvider", "account", "meta"]


# What is mutated: a good Procedure, and the same without a visit, of another one, without times, of yesterday.
VARIANTS = [
    {"encounter": None},
    {"encounter": {"reference": "Encounter/E2"}},
    {
        "performedPeriod": None,
        "performedDateTime": THE_DAY,
        "extension": [{"url": "urn:other", "valueInteger": 15}],
    },
    {"performedPeriod": {"start": "2026-11-19T23:59:59-05:00"}, "encounter": {"reference": "Encounter/E2"}},
]


class Mutations:
    """Values of every kind, from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        """Anything JSON can say, the likely mistakes most often."""
        one = self.random.choice
        kinds = [
            lambda: None,
            lambda: one(NUMBERS),
            lambda: one(HOSTILE),
            lambda: one(DATES),
            lambda: one(STATUSES),
            lambda: one(REFERENCES),
            lambda: {"start": one(DATES), "end": one(DATES)},
            lambda: {one(("start", "end")): one([*DATES, *NUMBERS, None])},
            lambda: {"coding": [{"system": one(SYSTEMS), "code": one(CODES)}], "text": one(HOSTILE)},
            lambda: {"value": one([*NUMBERS, "15", "1e999999"]), "unit": one(["min", "h", "mo", "", None])},
            lambda: {"url": "urn:minutes", "valueInteger": one([*NUMBERS, "x", None])},
        ]
        if depth < 3:
            kinds += [
                lambda: [self.value(depth + 1) for _ in range(self.random.randrange(3))],
                lambda: {one(KEYS): self.value(depth + 1) for _ in range(self.random.randrange(3))},
                lambda: [{"actor": one(REFERENCES), "function": self.value(depth + 1)}],
            ]
        return one(kinds)()

    def mutate(self, resource, elements):
        """One to three elements missing, or something else."""
        changed = dict(resource)
        for element in self.random.sample(elements, self.random.choice([1, 1, 1, 2, 3])):
            if self.random.random() < 0.25:
                changed.pop(element, None)
            else:
                changed[element] = self.value()
        return changed


SYSTEMS = ["http://www.ama-assn.org/go/cpt", "urn:local", "http://snomed.info/sct", "", None, 5]
CODES = ["97110", "97140", "G0283", "EX", "9711", "", " 97110 ", None, 97110]
KEYS = [
    "reference",
    "start",
    "end",
    "coding",
    "code",
    "system",
    "text",
    "url",
    "actor",
    "value",
    "id",
    "extension",
]


def charts(ehr, seeds):
    """Each chart with its mutated Procedures and Encounters, and what became of it."""
    good = ehr.procedure("97110", "09:00", "09:15")
    encounter = dict(ehr.encounter)
    ehr.site = {
        "minutes_extensions": ["urn:minutes"],
        "minutes_path": "Procedure.extension.where(url = 'urn:other').value",
        "codes": {"urn:local|EX": "97140"},
    }
    for seed in seeds:
        mutations = Mutations(seed)
        kinds = [good, *({**good, **change} for change in VARIANTS)]
        procedures = [
            {**mutations.mutate(kinds[n % len(kinds)], PROCEDURE), "id": f"p{seed}-{n}"} for n in range(EACH)
        ]
        others = [{**mutations.mutate(encounter, ENCOUNTER), "id": f"e{seed}-{n}"} for n in range(EACH)]
        ehr.encounter.clear()
        ehr.encounter.update(encounter if seed % 2 else mutations.mutate(encounter, ENCOUNTER))
        ehr.resources = [each for each in ehr.resources if each is not good]
        ehr.entries["Procedure"] = [
            {"resource": {**good, "id": "good"}},
            *({"resource": p} for p in procedures),
        ]
        ehr.entries["Encounter"] = [{"resource": each} for each in others]
        try:
            chart = ehr.chart()
        except EhrError as error:
            yield seed, procedures, error, ()
            continue
        yield seed, procedures, chart, visits_from(chart, ehr.settings, ehr.now)


def known_of(visits):
    """References of the Procedures that a visit counts, and of those that are told to the reviewer."""
    counted = {service.reference for prepared in visits for service in prepared.visit.services}
    said = " ".join(finding.message for prepared in visits for finding in prepared.findings)
    return counted, set(re.findall(r"Procedure/(?:p\d+-\d+|good)\b", said))


def is_another_days(procedure, chart):
    """Certainly no part of this visit's days: dated on others, or of another visit and not dated at all."""
    visit = procedure.get("encounter")
    reference = visit.get("reference") if isinstance(visit, dict) else None
    reference = reference.removeprefix("https://ehr.example/fhir/") if isinstance(reference, str) else ""
    if reference.startswith("Encounter/E1"):
        return False
    period = procedure.get("performedPeriod")
    text = period.get("start") if isinstance(period, dict) else procedure.get("performedDateTime")
    day = DAYS.get(text) if isinstance(text, str) else None
    if day:
        return day not in {str(each) for each in chart.days}
    return reference.startswith("Encounter/E2")


def test_every_mutated_procedure_is_counted_or_named(ehr):
    """Every one of 10,000; half of the charts have a mutated Encounter too, besides 10,000 that they list."""
    counts = Counter()
    lost = []
    for seed, procedures, chart, visits in charts(ehr, range(CHARTS)):
        if isinstance(chart, EhrError):
            assert seed % 2 == 0, f"chart {seed} has a good Encounter and was refused: {chart}"
            assert str(chart), "a refusal says why"
            counts["stopped"] += len(procedures)
            continue
        counted, said = known_of(visits)
        for procedure in procedures:
            reference = f"Procedure/{procedure['id']}"
            if procedure.get("resourceType") != "Procedure":
                counts["no procedure"] += 1
                assert reference not in counted
            elif reference in counted:
                counts["counted"] += 1
            elif reference in said:
                counts["told"] += 1
            elif is_another_days(procedure, chart):
                counts["another day's"] += 1
            else:
                lost.append((seed, procedure))
        if seed % 2:
            assert "Procedure/good" in counted
    assert not lost, json.dumps(lost[:3], indent=1)
    assert counts.total() == 10_000
    # The corpus reaches everything: none of these is rare.
    assert counts["counted"] > 1_000
    assert counts["told"] > 2_500
    assert 500 < counts["another day's"] < 2_500
    assert 1_000 < counts["stopped"] < 5_000
