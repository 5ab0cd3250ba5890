"""Minutes that stand elsewhere than in a start and an end: only where the site says so, and always told."""

import pytest

from quarterhour.core.findings import Severity

URL = "https://site.example/minutes"


def field(**value):
    return [{"url": URL, **value}]


def quantity(value, unit="min"):
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def minutes(prepared):
    return [service.minutes for service in prepared.visit.services]


def ids(prepared):
    return [finding.id for finding in prepared.findings]


@pytest.fixture
def with_field(ehr):
    ehr.site = {"minutes_extensions": [URL]}
    return ehr


@pytest.mark.parametrize(
    "value",
    [
        {"valueInteger": 38},
        {"valuePositiveInt": 38},
        {"valueDecimal": 38},
        {"valueQuantity": quantity(38)},
        {"valueDuration": quantity(2280, "s")},
        {"valueQuantity": {"value": 38, "unit": "min"}},
    ],
)
def test_the_sites_own_field_gives_the_minutes_and_the_reviewer_is_told(with_field, value):
    with_field.procedure("97110", None, None, performedDateTime="2026-11-20", extension=field(**value))
    prepared = with_field.visit()
    assert minutes(prepared) == [38]
    assert ids(prepared) == ["minutes-source"]


def test_a_field_that_the_site_did_not_name_is_nothing(ehr):
    ehr.procedure("97110", None, None, performedDateTime="2026-11-20", extension=field(valueInteger=38))
    assert minutes(ehr.visit()) == [None]


@pytest.mark.parametrize(
    "value",
    [
        {"valueInteger": 0},
        {"valueInteger": -15},
        {"valueInteger": 24 * 60},
        {"valueInteger": "38"},
        {"valueQuantity": quantity(38, "mm")},
        {"valueQuantity": {"value": 38}},
        {"valueQuantity": quantity(0.3, "s")},
        {"valueInteger": 38, "valueDecimal": 39},
        {},
    ],
)
def test_what_is_not_surely_a_number_of_minutes_is_not_counted(with_field, value):
    with_field.procedure("97110", None, None, performedDateTime="2026-11-20", extension=field(**value))
    prepared = with_field.visit()
    assert minutes(prepared) == [None]
    assert [(f.id, f.severity) for f in prepared.findings] == [("minutes-unreadable", Severity.CRITICAL)]


def test_start_and_end_come_first_and_a_difference_is_told(with_field):
    with_field.procedure("97110", "09:00", "09:15", extension=field(valueInteger=15))
    assert ids(with_field.visit()) == []
    with_field.resources.pop()
    with_field.procedure("97110", "09:00", "09:15", extension=field(valueInteger=16))
    prepared = with_field.visit()
    assert minutes(prepared) == [None]
    assert prepared.visit.services[0].start is not None
    assert ids(prepared) == ["minutes-differ"]


def test_an_end_before_the_start_is_not_papered_over_by_another_source(with_field):
    with_field.procedure("97110", "09:15", "09:00", extension=field(valueInteger=15))
    assert minutes(with_field.visit()) == [None]


def test_seconds_of_a_code_are_added_up_before_they_become_minutes(with_field):
    for _ in range(2):
        seconds = field(valueQuantity=quantity(460, "s"))
        with_field.procedure("97110", None, None, performedDateTime="2026-11-20", extension=seconds)
    assert minutes(with_field.visit()) == [7, 8]  # 7:40 twice is 15:20


# Observations


@pytest.fixture
def with_rows(ehr):
    ehr.site = {"minutes_observations": {"urn:flowsheet|EX": "97110"}}
    return ehr


def row(ehr, value=quantity(23), code="EX", **changed):  # noqa: B008 - not changed by anyone
    elements = {
        "status": "final",
        "code": {"coding": [{"system": "urn:flowsheet", "code": code}]},
        "subject": {"reference": "Patient/P1"},
        "encounter": {"reference": "Encounter/E1"},
        "effectiveDateTime": "2026-11-20T09:40:00-05:00",
        "valueQuantity": value,
    }
    return ehr.add("Observation", f"O{len(ehr.resources)}", **{**elements, **changed})


def undated(ehr, code="97110", **changed):
    return ehr.procedure(code, None, None, performedDateTime="2026-11-20", **changed)


def test_a_flowsheet_row_gives_the_minutes_of_its_code(with_rows):
    undated(with_rows)
    undated(with_rows, "97140")
    row(with_rows)
    prepared = with_rows.visit()
    assert minutes(prepared) == [23, None]
    assert with_rows.searches("Observation")[0]["code"] == ["urn:flowsheet|EX"]


def test_an_observation_that_names_its_procedure_is_of_that_one_only(with_rows):
    undated(with_rows, id="a")
    undated(with_rows, id="b")
    row(with_rows, partOf=[{"reference": "Procedure/b"}])
    assert minutes(with_rows.visit()) == [None, 23]


def test_a_row_that_could_be_of_two_procedures_is_of_neither(with_rows):
    undated(with_rows)
    undated(with_rows)
    row(with_rows)
    assert minutes(with_rows.visit()) == [None, None]


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "preliminary"},
        {"status": "entered-in-error"},
        {"encounter": {"reference": "Encounter/E2"}},
        {"subject": {"reference": "Patient/P2"}},
        {"modifierExtension": [{"url": "urn:x"}]},
        {"code": "OTHER"},
    ],
)
def test_a_row_that_is_not_surely_this_ones_is_not_used(with_rows, changed):
    undated(with_rows)
    row(with_rows, **changed)
    assert minutes(with_rows.visit()) == [None]


def test_two_rows_for_one_procedure_are_told_and_not_added(with_rows):
    undated(with_rows)
    row(with_rows)
    row(with_rows, quantity(5))
    prepared = with_rows.visit()
    assert minutes(prepared) == [None]
    assert "minutes-unreadable" in ids(prepared)


def test_without_the_setting_nobody_asks_for_observations(ehr):
    undated(ehr)
    ehr.visit()
    assert ehr.searches("Observation") == []


def test_rows_that_may_not_be_read_are_told(with_rows):
    undated(with_rows)
    with_rows.refused["Observation"] = 403
    assert ids(with_rows.visit()) == ["minutes-source"]


# Notes


@pytest.mark.parametrize("text", ["Ther ex 15 min, cues", "15 minutes", "for 15min.", "15 mins, then rest"])
def test_minutes_in_a_note_are_proposed_and_not_counted(ehr, text):
    undated(ehr, id="PR1", note=[{"text": text}])
    prepared = ehr.visit()
    assert prepared.proposals["Procedure/PR1"].minutes == 15
    assert minutes(prepared) == [None]


@pytest.mark.parametrize(
    "text", ["10 min warm-up, 15 min exercise", "0 min", "1.5 min", "2026-11-15 min", "5 minor faults", ""]
)
def test_a_note_that_is_not_clear_proposes_nothing(ehr, text):
    undated(ehr, note=[{"text": text}])
    assert ehr.visit().proposals == {}


def test_where_the_time_is_known_a_note_proposes_nothing(ehr):
    ehr.procedure("97110", "09:00", "09:15", note=[{"text": "20 min"}])
    assert ehr.visit().proposals == {}
