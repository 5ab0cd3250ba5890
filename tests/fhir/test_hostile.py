"""Charts that nobody should send: no crash, and every Procedure is counted or named."""

import json

import msgspec
import pytest
from fhir.resources.R4B.procedure import Procedure as Strict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterhour.fhir.views import Procedure, Unread, resource_from

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DATES = st.sampled_from(
    [
        "2026-11-20T09:00:00-05:00",
        "2026-11-20T09:30:00Z",
        "2026-11-20T09:30:00",
        "2026-11-20",
        "2026-11",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2026-11-20T23:59:60Z",
        "\u0000",
        "",
    ]
)
REFERENCES = st.fixed_dictionaries(
    {"reference": st.sampled_from(["Patient/P1", "Patient/P2", "#p", "urn:uuid:1", "../Patient/P1", ""])}
)
MUTATIONS = st.dictionaries(
    st.sampled_from(
        [
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
            "note",
            "meta",
        ]
    ),
    ANYTHING
    | DATES
    | REFERENCES
    | st.fixed_dictionaries({}, optional={"start": DATES | ANYTHING, "end": DATES | ANYTHING})
    | st.lists(st.fixed_dictionaries({}, optional={"actor": REFERENCES, "reference": DATES}), max_size=2),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=st.lists(MUTATIONS, min_size=1, max_size=3))
def test_every_mutated_procedure_is_counted_or_named_and_the_good_one_is_never_lost(ehr, mutations):
    ehr.resources = [each for each in ehr.resources if each["resourceType"] != "Procedure"]
    ehr.procedure("97140", "09:00", "09:15", id="good")
    mutated = [{**ehr.procedure("97110", "09:15", "09:30"), "id": f"bad{n}"} for n in range(len(mutations))]
    del ehr.resources[-len(mutated) :]
    ehr.entries["Procedure"] = [
        {"resource": {**each, **change}} for each, change in zip(mutated, mutations, strict=True)
    ]
    visits = ehr.visits()
    counted = {service.reference for prepared in visits for service in prepared.visit.services}
    said = " ".join(finding.message for prepared in visits for finding in prepared.findings)
    assert "Procedure/good" in counted
    for number, mutation in enumerate(mutations):
        reference = f"Procedure/bad{number}"
        assert reference in counted or reference in said or _of_another_day(mutation)


def _of_another_day(mutation):
    """Neither this visit's nor of its day: rightly no part of the chart."""
    return "encounter" in mutation and ("performedPeriod" in mutation or "performedDateTime" in mutation)


@given(ANYTHING)
def test_no_json_value_crashes_a_view(value):
    assert isinstance(resource_from(json.dumps(value).encode(), Procedure), Procedure | Unread | None)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"resourceType":"Procedure"}'])
def test_no_bytes_crash_a_view(raw):
    assert isinstance(resource_from(raw, Procedure), Unread)


def test_what_we_read_is_what_the_full_model_reads(ehr):
    sent = ehr.procedure(
        "97110",
        "09:00",
        "09:15:30",
        partOf=[{"reference": "Procedure/x"}],
        reasonCode=[{"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "M54.50"}]}],
        note=[{"text": "with cues"}],
        meta={"versionId": "3"},
    )
    ours = msgspec.json.decode(json.dumps(sent), type=Procedure)
    strict = Strict.model_validate(sent)
    assert ours.status == strict.status
    assert ours.code.coding[0].code == strict.code.coding[0].code
    assert ours.code.coding[0].system == strict.code.coding[0].system
    assert ours.performed_period.start == strict.performedPeriod.start.isoformat()
    assert ours.performed_period.end == strict.performedPeriod.end.isoformat()
    assert ours.subject.reference == strict.subject.reference
    assert ours.encounter.reference == strict.encounter.reference
    assert ours.performer[0].actor.reference == strict.performer[0].actor.reference
    assert ours.part_of[0].reference == strict.partOf[0].reference
    assert ours.reason_code[0].coding[0].code == strict.reasonCode[0].coding[0].code
    assert ours.note[0].text == strict.note[0].text
    assert ours.version == strict.meta.versionId
