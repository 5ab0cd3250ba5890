"""A charge on its way into the EHR: what is sent, and what counts as written."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
from fhir.resources.R4B.chargeitem import ChargeItem

from quarterhour.core.visit import Discipline
from quarterhour.fhir import errors
from quarterhour.fhir.charge_item import (
    Charge,
    Written,
    charge_item,
    find_charge,
    identifier_for,
    write_charge,
)
from quarterhour.fhir.server import Server

BASE = "https://ehr.example/fhir"
ITEMS = f"{BASE}/ChargeItem"
EST = timezone(timedelta(hours=-5))
SYSTEM = "https://quarterhour.org/fhir/charge"

KEY = {
    "patient": "Patient/P1",
    "encounter": "Encounter/E1",
    "date_of_service": date(2026, 11, 20),
    "code": "97110",
    "modifiers": ("GP", "59"),
}
CHARGE = Charge(
    identifier=identifier_for(BASE, **KEY),
    patient="Patient/P1",
    encounter="Encounter/E1",
    date_of_service=date(2026, 11, 20),
    code="97110",
    units=2,
    modifiers=("GP", "59"),
    services=("Procedure/PR1", "Procedure/PR2"),
    performers=("Practitioner/T1",),
    enterer="Practitioner/T1",
    entered_at=datetime(2026, 11, 20, 10, 2, 11, tzinfo=EST),
    rationale="38 timed minutes make 3 units; 97110 has 23 of them: 2 units.",
    start=datetime(2026, 11, 20, 9, 0, tzinfo=EST),
    end=datetime(2026, 11, 20, 9, 38, tzinfo=EST),
)


def stored(id_="7", **changed):
    """The ChargeItem as an EHR that took CHARGE gives it back."""
    item = json.loads(charge_item(CHARGE).model_dump_json())
    return {**item, "id": id_, "meta": {"versionId": "1"}, **changed}


def bundle(*items):
    return {"resourceType": "Bundle", "entry": [{"resource": item} for item in items]}


@pytest.fixture
def server():
    return Server(BASE, "token", requests.Session(), sleep=lambda _: None)


# The identifier


def test_the_same_charge_has_the_same_identifier_on_every_machine():
    assert identifier_for("https://ehr.example/fhir", **KEY) == "bb1a5e13-4a3a-5ffc-a8a1-ba7d4115f785"


@pytest.mark.parametrize(
    "other",
    [
        {"patient": "Patient/P2"},
        {"encounter": "Encounter/E2"},
        {"date_of_service": date(2026, 11, 21)},
        {"code": "97112"},
        {"modifiers": ("GP",)},
        {"modifiers": ()},
        {"sequence": 2},
    ],
)
def test_any_difference_makes_another_identifier(other):
    assert identifier_for(BASE, **{**KEY, **other}) != identifier_for(BASE, **KEY)


@pytest.mark.parametrize("modifiers", [(), ("59",), ("CQ", "KX")])
def test_where_no_modifier_says_it_the_discipline_makes_another_identifier(modifiers):
    bare = {**KEY, "modifiers": modifiers}
    made = {identifier_for(BASE, **bare, discipline=each) for each in (None, *Discipline)}
    assert len(made) == 1 + len(Discipline)


@pytest.mark.parametrize("modifier", ["GP", "GO", "GN"])
def test_where_a_modifier_says_it_the_identifier_stays_what_it_was_before_it_held_disciplines(modifier):
    before = identifier_for(BASE, **{**KEY, "modifiers": (modifier, "59")})
    for discipline in Discipline:
        made = identifier_for(BASE, **{**KEY, "modifiers": ("59", modifier)}, discipline=discipline)
        assert made == before
    assert modifier != "GP" or before == "bb1a5e13-4a3a-5ffc-a8a1-ba7d4115f785"


def test_the_identifier_with_a_discipline_is_the_same_on_every_machine():
    made = identifier_for(BASE, **{**KEY, "modifiers": ()}, discipline=Discipline.PT)
    assert made == "ed21cb6a-571f-51d6-8dbf-3fbd8f5e4b24"


def test_another_ehr_makes_another_identifier():
    assert identifier_for("https://other.example/fhir", **KEY) != identifier_for(BASE, **KEY)


def test_the_order_of_modifiers_and_a_last_slash_make_no_difference():
    assert identifier_for(BASE + "/", **{**KEY, "modifiers": ("59", "GP")}) == identifier_for(BASE, **KEY)


# What is sent


def test_a_charge_item_carries_all_that_billing_needs():
    item = json.loads(charge_item(CHARGE).model_dump_json())
    assert item["identifier"] == [{"system": SYSTEM, "value": CHARGE.identifier}]
    assert item["status"] == "billable"
    assert item["code"] == {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "97110"}]}
    assert item["subject"] == {"reference": "Patient/P1"}
    assert item["context"] == {"reference": "Encounter/E1"}
    assert item["occurrencePeriod"] == {
        "start": "2026-11-20T09:00:00-05:00",
        "end": "2026-11-20T09:38:00-05:00",
    }
    assert [each["actor"]["reference"] for each in item["performer"]] == ["Practitioner/T1"]
    assert item["quantity"] == {"value": 2}
    assert item["enterer"] == {"reference": "Practitioner/T1"}
    assert item["enteredDate"] == "2026-11-20T10:02:11-05:00"
    assert item["service"] == [{"reference": "Procedure/PR1"}, {"reference": "Procedure/PR2"}]
    assert item["note"] == [{"text": CHARGE.rationale}]


def test_modifiers_go_in_their_order_each_under_its_own_system():
    modifiers = json.loads(charge_item(CHARGE).model_dump_json())["extension"]
    parts = [{part["url"]: part for part in each["extension"]} for each in modifiers]
    assert [
        (
            part["rank"]["valuePositiveInt"],
            part["code"]["valueCodeableConcept"]["coding"][0]["code"],
            part["code"]["valueCodeableConcept"]["coding"][0]["system"],
        )
        for part in parts
    ] == [
        (1, "GP", "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"),
        (2, "59", "http://www.ama-assn.org/go/cpt"),
    ]


def test_a_hcpcs_code_goes_under_its_own_system():
    item = charge_item(replace(CHARGE, code="G0283"))
    assert item.code.coding[0].system == "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"


def test_without_times_the_day_stands_alone_and_nothing_is_empty():
    charge = replace(CHARGE, start=None, end=None, modifiers=())
    item = json.loads(charge_item(charge).model_dump_json())
    assert item["occurrenceDateTime"] == "2026-11-20"
    assert "occurrencePeriod" not in item
    assert "extension" not in item
    assert "account" not in item


def test_organization_account_and_reason_go_along_where_they_are_known():
    charge = replace(CHARGE, organization="Organization/O1", account="Account/A1", reason="M54.50")
    item = json.loads(charge_item(charge).model_dump_json())
    assert item["performingOrganization"] == {"reference": "Organization/O1"}
    assert item["account"] == [{"reference": "Account/A1"}]
    assert item["reason"][0]["coding"][0] == {"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "M54.50"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": 0},
        {"units": -1},
        {"code": "9711"},
        {"code": "97110 "},
        {"status": "draft"},  # a required binding that fhir.resources lets through
        {"modifiers": ("gp",)},
        {"modifiers": ("GP", "GP")},
        {"services": ()},
        {"performers": ()},
        {"rationale": ""},
        {"rationale": "two\nlines"},
        {"start": None},
        {"end": datetime(2026, 11, 20, 8, 59, tzinfo=EST)},
        {"entered_at": datetime(2026, 11, 20, 10, 2)},  # noqa: DTZ001 - a time without a zone is the point
        {"patient": ""},
    ],
)
def test_a_charge_that_makes_no_sense_is_not_built(wrong):
    with pytest.raises(ValueError):
        charge_item(replace(CHARGE, **wrong))


def test_a_charge_comes_out_of_the_outbox_as_it_went_in():
    assert Charge.from_json(CHARGE.to_json()) == CHARGE
    bare = replace(CHARGE, start=None, end=None, entered_at=datetime(2026, 11, 20, 15, tzinfo=UTC))
    assert Charge.from_json(bare.to_json()) == bare


# Written


@responses.activate
def test_a_new_charge_is_created_conditionally_and_checked():
    responses.post(ITEMS, json=stored(), status=201, headers={"Location": f"{ITEMS}/7/_history/1"})
    server = Server(BASE, "token", requests.Session())
    assert write_charge(server, CHARGE) == Written("ChargeItem/7", "1", "created")
    request = responses.calls[0].request
    assert request.headers["If-None-Exist"] == f"identifier={SYSTEM}|{CHARGE.identifier}"
    ChargeItem.model_validate_json(request.body)


@responses.activate
def test_an_ehr_that_sends_no_body_is_asked_for_it(server):
    responses.post(ITEMS, body=b"", status=201, headers={"Location": f"{ITEMS}/7/_history/1"})
    responses.get(f"{ITEMS}/7", json=stored())
    assert write_charge(server, CHARGE) == Written("ChargeItem/7", "1", "created")


@responses.activate
def test_a_charge_that_was_there_already_is_looked_up_and_compared(server):
    responses.post(ITEMS, body=b"", status=200)
    responses.get(ITEMS, json=bundle(stored()))
    assert write_charge(server, CHARGE) == Written("ChargeItem/7", "1", "already-there")
    query = parse_qs(urlsplit(responses.calls[1].request.url).query)
    assert query == {"identifier": [f"{SYSTEM}|{CHARGE.identifier}"]}


@responses.activate
def test_one_that_is_there_and_not_yet_found_is_unknown(server):
    responses.post(ITEMS, body=b"", status=200)
    responses.get(ITEMS, json=bundle())
    with pytest.raises(errors.Unknown, match="looked for again"):
        write_charge(server, CHARGE)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"quantity": {"value": 3}}, "the units"),
        ({"code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "97112"}]}}, "the code"),
        ({"subject": {"reference": "Patient/P2"}}, "the patient"),
        ({"context": {"reference": "Encounter/E2"}}, "the visit"),
        ({"status": "aborted"}, "the status"),
    ],
)
@responses.activate
def test_one_that_is_there_and_says_something_else_is_a_conflict(server, changed, named):
    responses.post(ITEMS, body=b"", status=200)
    responses.get(ITEMS, json=bundle(stored(**changed)))
    with pytest.raises(errors.Conflict, match=f"differs in {named}"):
        write_charge(server, CHARGE)


@pytest.mark.parametrize("changed", [{"status": "billed"}, {"extension": []}, {"quantity": {"value": 2.0}}])
@responses.activate
def test_what_an_ehr_may_do_to_a_charge_is_no_conflict(server, changed):
    responses.get(ITEMS, json=bundle(stored(**changed)))
    assert find_charge(server, CHARGE) == Written("ChargeItem/7", "1", "already-there")


@pytest.mark.parametrize(
    "answer",
    [
        {"body": requests.ReadTimeout()},
        {"body": requests.ConnectionError("reset by peer")},
        {"status": 500, "body": b""},
        {"status": 503, "body": b""},
        {"status": 201, "body": b"<html>"},
        {"status": 201, "body": b'{"resourceType": "Charge'},
        {"status": 201, "body": b""},  # and no Location
        {"status": 201, "json": {"resourceType": "OperationOutcome", "issue": []}},
        {"status": 201, "json": stored(subject={"reference": "Patient/P2"})},
        {"status": 201, "json": stored(identifier=[{"system": SYSTEM, "value": "another"}])},
        {"status": 302, "body": b"", "headers": {"Location": "https://elsewhere.example/"}},
    ],
)
@responses.activate
def test_an_answer_that_leaves_it_open_is_unknown_and_nothing_is_sent_again(server, answer):
    responses.post(ITEMS, **answer)
    with pytest.raises(errors.Unknown, match="looked for before anything is sent again"):
        write_charge(server, CHARGE)
    assert len(responses.calls) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.Refused),
        (401, errors.NotAuthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (412, errors.Conflict),
        (422, errors.Unprocessable),
        (429, errors.RateLimited),
    ],
)
@responses.activate
def test_a_plain_no_is_a_no(server, status, error):
    responses.post(ITEMS, status=status, json={"resourceType": "OperationOutcome", "issue": []})
    with pytest.raises(error):
        write_charge(server, CHARGE)


# Found again


@responses.activate
def test_none_is_found_where_there_is_none(server):
    responses.get(ITEMS, json=bundle())
    assert find_charge(server, CHARGE) is None


@responses.activate
def test_an_ehr_that_ignores_the_identifier_does_not_pass_off_other_charges(server):
    others = [stored("1", identifier=[{"system": SYSTEM, "value": "x"}]), stored("2", identifier=[])]
    responses.get(ITEMS, json=bundle(*others))
    assert find_charge(server, CHARGE) is None
    responses.replace("GET", ITEMS, json=bundle(*others, stored("3")))
    assert find_charge(server, CHARGE).reference == "ChargeItem/3"


@responses.activate
def test_two_of_the_same_are_a_conflict_that_names_both(server):
    responses.get(ITEMS, json=bundle(stored("3"), stored("4")))
    with pytest.raises(errors.Conflict, match="ChargeItem/3, ChargeItem/4"):
        find_charge(server, CHARGE)


@responses.activate
def test_one_that_cannot_be_read_may_be_ours_so_nothing_is_said(server):
    responses.get(ITEMS, json=bundle(stored("3", quantity="two")))
    with pytest.raises(errors.BadAnswer, match="not known"):
        find_charge(server, CHARGE)
