"""Minutes that stand elsewhere than in a start and an end: only where the site says so, and always told."""

import pytest

from quarterhour.core.findings import Severity, Status

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


# A FHIRPath expression

PATH = f"Procedure.extension.where(url = '{URL}').extension.where(url = 'treated').value"


def nested(**value):
    return [{"url": URL, "extension": [{"url": "waited", "valueInteger": 5}, {"url": "treated", **value}]}]


@pytest.fixture
def with_path(ehr):
    ehr.site = {"minutes_path": PATH}
    return ehr


@pytest.mark.parametrize(
    "value",
    [
        {"valueInteger": 38},
        {"valueDecimal": 38},
        {"valueQuantity": quantity(38)},
        {"valueDuration": quantity(2280, "s")},
        {"valueQuantity": {"value": 38, "unit": "minutes"}},
    ],
)
def test_the_sites_expression_gives_the_minutes_and_the_reviewer_is_told(with_path, value):
    undated(with_path, extension=nested(**value))
    prepared = with_path.visit()
    assert minutes(prepared) == [38]
    assert ids(prepared) == ["minutes-source"]


@pytest.mark.parametrize("search", ["date-and-encounter", "date", "patient"])
def test_the_expression_sees_the_whole_procedure_however_it_was_found(ehr, search):
    ehr.site = {"minutes_path": "Procedure.usedCode.coding.where(system='urn:min').code.toInteger()"}
    ehr.site["procedure_search"] = search
    undated(ehr, usedCode=[{"coding": [{"system": "urn:min", "code": "38"}]}])
    assert minutes(ehr.visit()) == [38]


def test_an_expression_may_calculate_and_name_its_unit(ehr):
    ehr.site = {"minutes_path": f"Procedure.extension.where(url = '{URL}').value * 60 / 60"}
    undated(ehr, extension=field(valueInteger=38))
    assert minutes(ehr.visit()) == [38]
    ehr.site = {"minutes_path": f"iif(Procedure.extension.where(url = '{URL}').exists(), 38 minutes, {{}})"}
    assert minutes(ehr.visit()) == [38]


@pytest.mark.parametrize(
    "value",
    [
        {"valueInteger": 0},
        {"valueInteger": -15},
        {"valueInteger": 24 * 60},
        {"valueString": "38"},
        {"valueBoolean": True},
        {"valueQuantity": quantity(38, "mm")},
        {"valueQuantity": quantity(0.3, "s")},
        {"valueQuantity": {"value": 38}},
        {"valueQuantity": {"value": "many", "unit": "min"}},
        {"valueRange": {"low": quantity(30), "high": quantity(38)}},
        {"valueCodeableConcept": {"text": "38"}},
    ],
)
def test_what_an_expression_gives_that_is_no_number_of_minutes_is_told_and_not_counted(with_path, value):
    undated(with_path, extension=nested(**value))
    prepared = with_path.visit()
    assert minutes(prepared) == [None]
    assert ids(prepared) == ["minutes-unreadable"]


def test_several_values_of_an_expression_are_told_and_not_added(with_path):
    undated(with_path, extension=nested(valueInteger=10) + nested(valueInteger=5))
    prepared = with_path.visit()
    assert minutes(prepared) == [None]
    assert "several durations" in prepared.findings[0].message


def test_an_expression_that_fails_on_a_procedure_is_told_with_that_procedure(ehr):
    ehr.site = {"minutes_path": "Procedure.extension.value.substring(0) + 1"}
    undated(ehr, id="odd", extension=field(valueString="x"))
    undated(ehr, "97140", id="plain")
    prepared = ehr.visit()
    assert minutes(prepared) == [None, None]
    (finding,) = prepared.findings
    assert "Procedure/odd" in finding.message


def test_where_an_expression_gives_nothing_the_minutes_are_unknown(with_path):
    undated(with_path)
    prepared = with_path.visit()
    assert minutes(prepared) == [None]
    assert ids(prepared) == []


# Which source comes first


@pytest.fixture
def with_all(ehr):
    ehr.site = {
        "minutes_extensions": [URL],
        "minutes_path": "Procedure.extension.where(url = 'urn:other').value",
        "minutes_observations": {"urn:flowsheet|EX": "97110"},
    }
    return ehr


def test_the_extension_comes_before_the_expression_and_both_before_an_observation(with_all):
    row(with_all, quantity(23))
    procedure = undated(with_all)
    assert minutes(with_all.visit()) == [23]
    procedure["extension"] = [{"url": "urn:other", "valueInteger": 22}]
    assert minutes(with_all.visit()) == [22]
    procedure["extension"] = [{"url": "urn:other", "valueInteger": 22}, *field(valueInteger=21)]
    assert minutes(with_all.visit()) == [21]


def test_a_later_source_that_says_otherwise_is_told_and_one_that_agrees_is_not(with_all):
    undated(with_all, extension=field(valueInteger=23))
    observation = row(with_all, quantity(23))
    assert ids(with_all.visit()) == ["minutes-source"]
    observation["valueQuantity"] = quantity(22)
    prepared = with_all.visit()
    assert minutes(prepared) == [23]
    assert ids(prepared) == ["minutes-source", "minutes-differ"]
    assert "23 minutes by what is counted and 22 minutes" in prepared.findings[1].message


def test_an_unreadable_source_is_not_papered_over_by_a_later_one(with_all):
    undated(with_all, extension=field(valueString="long"))
    row(with_all, quantity(23))
    prepared = with_all.visit()
    assert minutes(prepared) == [None]
    assert ids(prepared) == ["minutes-unreadable"]


# The visit's own length


@pytest.mark.parametrize(
    "length",
    [
        quantity(44, "min"),
        quantity(2640, "s"),
        {"value": 44, "unit": "minutes"},
        {"value": 44.5, "unit": "min"},
    ],
)
def test_the_length_of_the_visit_is_a_ceiling_that_is_told(ehr, length):
    ehr.encounter["length"] = length
    ehr.procedure("97110", "09:00", "09:45")
    (finding,) = ehr.visit().findings
    assert finding.id == "longer-than-encounter"
    assert "45 minutes together, the visit itself 44 by its length" in finding.message


@pytest.mark.parametrize(
    "length", [quantity(45), quantity(1, "h"), quantity(1, "d"), {"value": 1, "unit": "hour"}]
)
def test_procedures_as_long_as_the_visit_are_not_questioned(ehr, length):
    ehr.encounter["length"] = length
    ehr.procedure("97110", "09:00", "09:45")
    assert ids(ehr.visit()) == []


def test_the_shorter_of_length_and_period_is_the_ceiling(ehr):
    ehr.encounter["length"] = quantity(2, "h")
    ehr.procedure("97110", "09:00", "10:01")
    assert "60 by its start and end" in ehr.visit().findings[0].message
    ehr.encounter["length"] = quantity(59)
    assert "59 by its length" in ehr.visit().findings[0].message


def test_the_length_of_the_visit_never_gives_minutes_to_a_code(ehr):
    ehr.encounter["length"] = quantity(45)
    undated(ehr)
    assert minutes(ehr.visit()) == [None]


@pytest.mark.parametrize(
    "length",
    [
        quantity(1, "mo"),
        quantity(0),
        quantity(-45),
        {"value": 45},
        {"unit": "min"},
        {},
        {"value": "long", "unit": "min"},
        {"value": 45, "unit": "min", "code": "mm", "system": "http://unitsofmeasure.org"},
        "PT45M",
        45,
        [],
    ],
)
def test_a_length_that_cannot_be_read_stops_nothing_and_is_told(ehr, length):
    ehr.encounter["length"] = length
    ehr.procedure("97110", "09:00", "09:45")
    prepared = ehr.visit()
    assert prepared.visit.services[0].start is not None
    assert [(f.id, f.status) for f in prepared.findings] == [("longer-than-encounter", Status.NOT_CHECKED)]


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


def test_a_row_gives_the_minutes_of_a_code_that_the_sites_map_knows(with_rows):
    with_rows.site["codes"] = {"urn:local|THEREX": "97110"}
    undated(with_rows)["code"] = {"coding": [{"system": "urn:local", "code": "THEREX"}]}
    row(with_rows)
    assert minutes(with_rows.visit()) == [23]


def test_a_procedure_that_was_entered_in_error_claims_no_row(with_rows):
    undated(with_rows, status="entered-in-error")
    undated(with_rows)
    row(with_rows)
    assert minutes(with_rows.visit()) == [23]


@pytest.mark.parametrize("number", ["1e999999", "1e9999999999", "-1e999999", "1e-999999"])
def test_an_absurd_number_is_unreadable_at_once(with_rows, number):
    undated(with_rows)
    row(with_rows, {**quantity(23), "value": number})
    assert ids(with_rows.visit()) == ["minutes-unreadable"]


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
