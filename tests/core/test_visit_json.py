"""The visit document: what is read, what is refused by name, and that the schemas say the same."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from quarterhour.core.calculate import Answered, Refused, answer_json
from quarterhour.core.library import Library
from quarterhour.core.side_by_side import side_by_side
from quarterhour.core.suggestion import suggest
from quarterhour.core.visit import (
    AlreadyCharged,
    Contract,
    Discipline,
    History,
    PhaseOfCare,
    Provider,
    Service,
    Setting,
    Visit,
)
from quarterhour.core.visit_json import (
    SCHEMAS,
    RefusalDocument,
    SuggestionDocument,
    Unreadable,
    read_visit,
    schema,
    suggestion_json,
)

LIBRARY = Library.load()
EASTERN = timezone(timedelta(hours=-5))
LEAST = {"policy": "cms-part-b", "date_of_service": "2026-03-02", "services": []}
WHOLE = {
    "id": "v1",
    "policy": "cms-part-b",
    "date_of_service": "2026-03-02",
    "discipline": "OT",
    "setting": "outpatient-hospital",
    "provider": {"tin": "T1", "specialty": "OT"},
    "services": [
        {
            "code": "97530",
            "minutes": 20,
            "assistant_minutes": 5,
            "concurrent_minutes": 3,
            "performer": "p1",
            "condition": "c1",
            "documentation": ["type", "rationale", "area", "setting-frequency", "minutes"],
        },
        {"code": "97165", "start": "2026-03-02T10:00-05:00", "end": "2026-03-02T10:30:15-05:00"},
        {"code": "97012", "units": 2},
    ],
    "already_charged": [{"code": "97530", "units": 1, "tin": "T1", "specialty": "OT"}],
    "phase_of_care": "later",
    "total_treatment_minutes": 75,
    "history": {
        "evaluations": 1,
        "treatment_visits": 5,
        "treatment_visits_elsewhere": 0,
        "referral_on_file": True,
        "therapy_amount": "1234.50",
    },
    "contract": {
        "daily_maximum": 100,
        "amounts": {"97530": "70.10", "97012": 40.1},
        "successors_of_deleted_codes": False,
    },
    "modifiers": {"97530": ["GO", "59"]},
}


def read(document):
    return read_visit(json.dumps(document).encode())


def refused(document):
    with pytest.raises(Unreadable) as caught:
        read_visit(document if isinstance(document, bytes) else json.dumps(document).encode())
    return caught.value


def test_every_field_is_read():
    assert read(WHOLE) == (
        Visit(
            date_of_service=date(2026, 3, 2),
            discipline=Discipline.OT,
            services=(
                Service(
                    "97530", 20, 5, 3, performer="p1", condition="c1",
                    documentation=("type", "rationale", "area", "setting-frequency", "minutes"),
                ),
                Service(
                    "97165",
                    start=datetime(2026, 3, 2, 10, 0, tzinfo=EASTERN),
                    end=datetime(2026, 3, 2, 10, 30, 15, tzinfo=EASTERN),
                ),
                Service("97012", units=2),
            ),
            id="v1",
            setting=Setting.OUTPATIENT_HOSPITAL,
            provider=Provider("T1", "OT"),
            already_charged=(AlreadyCharged("97530", 1, "T1", "OT"),),
            phase_of_care=PhaseOfCare.LATER,
            total_treatment_minutes=75,
            history=History(1, 5, 0, True, Decimal("1234.50")),
            contract=Contract(Decimal(100), {"97530": Decimal("70.10"), "97012": Decimal("40.1")}, False),
            modifiers={"97530": ("GO", "59")},
        ),
        "cms-part-b",
    )  # fmt: skip


def test_what_is_optional_may_be_left_out_or_null():
    visit, policy = read(LEAST)
    assert visit == Visit(date(2026, 3, 2), None, ())
    assert policy == "cms-part-b"
    optional = set(WHOLE) - set(LEAST) - {"id", "setting", "already_charged"}
    assert read({**LEAST, **dict.fromkeys(optional)})[0] == visit


def test_amounts_do_not_pass_through_a_float():
    line = (
        b'{"policy":"p","date_of_service":"2026-03-02","services":[],"history":{"therapy_amount":2480.005}}'
    )
    assert read_visit(line)[0].history.therapy_amount == Decimal("2480.005")


def service(**fields):
    return {**LEAST, "id": "v9", "services": [{"code": "97110", "minutes": 10}, {"code": "97140", **fields}]}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (service(minutes=-1), "services[1].minutes"),
        (service(minutes=7.5), "services[1].minutes"),
        (service(minutes="20"), "services[1].minutes"),
        (service(minutes=True), "services[1].minutes"),
        (service(minutes=1441), "services[1].minutes"),
        (service(minutes=1440), "services"),  # with the other service's 10 more than a day
        (service(assistant_minutes=-1), "services[1].assistant_minutes"),
        (service(concurrent_minutes=1441), "services[1].concurrent_minutes"),
        (service(units=-1), "services[1].units"),
        (service(minuts=20), "services[1].minuts"),
        (service(code=""), "services[1].code"),
        (service(documentation=["colour"]), "services[1].documentation[0]"),
        (service(start="2026-03-02T10:00:00"), "services[1].start"),
        (service(start="ten o'clock"), "services[1].start"),
        (service(end="0001-01-01T00:00:00+14:00"), "services[1].end"),
        (service(start="2026-03-02T10:00-05:00", end="2026-03-02T09:59-05:00"), "services[1].end"),
        (service(start="2026-03-02T10:00-05:00", end="2026-03-03T10:01-05:00"), "services[1].end"),
        ({**LEAST, "services": [{}]}, "services[0].code"),
        ({**LEAST, "services": {}}, "services"),
        ({**LEAST, "date_of_service": "2026-02-30"}, "date_of_service"),
        ({**LEAST, "date_of_service": "02/03/2026"}, "date_of_service"),
        ({**LEAST, "date_of_service": "9999-12-31"}, "date_of_service"),
        ({**LEAST, "date_of_service": "0001-01-01"}, "date_of_service"),
        ({**LEAST, "discipline": "DC"}, "discipline"),
        ({**LEAST, "discipline": ["PT", "OT"]}, "discipline"),
        ({**LEAST, "setting": "home"}, "setting"),
        ({**LEAST, "phase_of_care": "middle"}, "phase_of_care"),
        ({**LEAST, "provider": {"npi": "1"}}, "provider.npi"),
        ({**LEAST, "history": {"visits": 1}}, "history.visits"),
        ({**LEAST, "history": {"evaluations": -1}}, "history.evaluations"),
        ({**LEAST, "history": {"therapy_amount": "-1"}}, "history.therapy_amount"),
        ({**LEAST, "history": {"therapy_amount": "NaN"}}, "history.therapy_amount"),
        ({**LEAST, "history": {"therapy_amount": "1e999999"}}, "history.therapy_amount"),
        ({**LEAST, "contract": {"daily_maximum": "1e-999999"}}, "contract.daily_maximum"),
        ({**LEAST, "contract": {"amounts": {"97110": "much"}}}, "contract.amounts[...]"),
        ({**LEAST, "contract": {"amounts": {"97110": "-5"}}}, "contract.amounts.97110"),
        ({**LEAST, "modifiers": {"97110": ["GPX"]}}, "modifiers[...][0]"),
        ({**LEAST, "already_charged": [{"code": "97110"}]}, "already_charged[0].units"),
        ({**LEAST, "colour": "red"}, "colour"),
        ({"id": "v9", "policy": "cms-part-b", "services": []}, "date_of_service"),
        ({"id": "v9", "date_of_service": "2026-03-02", "services": []}, "policy"),
        ([], ""),
    ],
)
def test_what_cannot_be_is_refused_by_name(document, path):
    error = refused(document)
    assert error.path == path
    assert error.message.endswith(".")
    assert "`" not in error.message


def test_a_refusal_keeps_the_id_where_there_is_one():
    assert refused(service(minutes=-1)).visit_id == "v9"
    assert refused({**LEAST, "id": 7}).visit_id is None
    assert refused({**LEAST, "minuts": 1}).visit_id is None


@pytest.mark.parametrize(
    "line",
    [b"", b"nope", b"{", b'{"id": "x"', b"\xff\xfe{}", b'{"id": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000],
)
def test_what_is_not_json_is_refused(line):
    assert refused(line).visit_id is None


def test_messages_are_for_people():
    assert refused(service(minutes=7.5)).message == "Expected a whole number, got a number with a fraction."
    assert refused(service(minuts=1)).message == "Unknown field 'minuts'."
    assert refused({**LEAST, "date_of_service": "1"}).message == "Invalid date; it is written YYYY-MM-DD."
    assert "has no offset from UTC" in refused(service(start="2026-03-02T10:00")).message


# ---- what goes out --------------------------------------------------------------------------------


def test_the_document_has_the_fields_of_the_contract_and_no_others():
    visit, policy = read(WHOLE)
    document = json.loads(suggestion_json(suggest(visit, LIBRARY.policy(policy), LIBRARY)))
    assert list(document) == [
        "id", "policy", "date_of_service", "discipline", "rule",
        "total_timed_minutes", "total_treatment_minutes", "total_timed_units",
        "lines", "ties", "lines_if", "findings", "checks_passed", "terms", "engine",
    ]  # fmt: skip
    line = document["lines"][0]
    assert list(line) == ["code", "units", "units_of_day", "minutes", "modifiers", "because"]
    assert list(line["modifiers"][0]) == ["code", "reason", "source"]
    assert list(line["because"][0]) == ["says", "source"]
    finding = document["findings"][0]
    assert list(finding) == ["id", "status", "severity", "message", "codes", "source"]
    assert list(finding["source"]) == ["title", "section", "url", "read_on"]
    assert list(document["terms"][0]) == ["name", "value", "since", "source"]
    assert (document["id"], document["policy"], document["discipline"]) == ("v1", "cms-part-b", "OT")
    assert set(document["engine"]) == {"version", "policies", "edits"}


def test_a_suggestion_says_which_edits_spoke_and_how_old_they_were():
    visit, _ = read(LEAST)
    engine = suggest(visit, LIBRARY.policy("cms-part-b"), LIBRARY).engine
    assert "of 2024-07-01" in engine["edits"]
    assert "before this date of service" in engine["edits"]
    tufts = suggest(visit, LIBRARY.policy("tufts-commercial-pt"), LIBRARY).engine
    assert ("edits" in tufts) == (
        "procedure_to_procedure_edits" in LIBRARY.policy("tufts-commercial-pt").terms
    )


def test_amounts_of_terms_are_strings():
    visit, policy = read(LEAST)
    document = json.loads(suggestion_json(suggest(visit, LIBRARY.policy(policy), LIBRARY)))
    (amount,) = [term["value"] for term in document["terms"] if term["name"] == "kx_amount"]
    assert amount == "2480.00"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_that_ships_is_the_one_of_the_code(name):
    shipped = Path(__file__).parent.parent.parent / "core" / f"{name}.schema.json"
    assert json.loads(shipped.read_text()) == schema(name)


def test_the_schema_of_the_visit_knows_every_field_and_refuses_others():
    parts = schema("visit")["$defs"]
    assert set(parts["VisitDocument"]["properties"]) == set(WHOLE)
    assert parts["VisitDocument"]["required"] == ["policy", "date_of_service", "services"]
    assert all(part["additionalProperties"] is False for part in parts.values())
    assert parts["HistoryDocument"]["properties"]["therapy_amount"]["anyOf"][0]["type"] == [
        "string",
        "number",
    ]


def test_every_answer_is_a_document_of_the_schema():
    """msgspec decodes by the same types that the schema is made from, and refuses what is not in them."""
    for policy in LIBRARY.ids:
        for document in (WHOLE, LEAST, service(minutes=20), service()):
            visit, _ = read(document)
            suggestion = suggest(visit, LIBRARY.policy(policy), LIBRARY)
            for also in (None, side_by_side(suggestion, LIBRARY.ids, LIBRARY)):
                written = answer_json(Answered(suggestion, also))
                decoded = msgspec.json.decode(written, type=SuggestionDocument)
                assert msgspec.json.encode(decoded) == written
    written = answer_json(Refused("x", "why", "where"))
    assert msgspec.json.encode(msgspec.json.decode(written, type=RefusalDocument)) == written


def test_times_in_utc_are_read():
    visit, _ = read(service(start="2026-03-02T15:00:00Z", end="2026-03-02T15:20:00+00:00"))
    assert visit.services[1].start == datetime(2026, 3, 2, 15, tzinfo=UTC)


@pytest.mark.parametrize(("number", "fits"), [(500, True), (501, False)])
def test_what_was_charged_is_as_long_as_services_may_be(number, fits):
    charged = [{"code": f"{code:05}", "units": 1} for code in range(number)]
    document = json.dumps(LEAST | {"already_charged": charged}).encode()
    if fits:
        assert len(read_visit(document)[0].already_charged) == number
        return
    with pytest.raises(Unreadable) as refused:
        read_visit(document)
    assert refused.value.path == "already_charged"
