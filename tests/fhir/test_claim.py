"""A draft Claim against an EHR faked at the wire: what counts as filed, and what only as a doubt."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import requests
import responses

from quarterhour.fhir import errors
from quarterhour.fhir.charge_item import Charge, identifier_for, withdrawal_of
from quarterhour.fhir.claim import DraftClaim, claim, claim_identifier
from quarterhour.fhir.server import Server

BASE = "https://ehr.example/fhir"
CLAIMS = f"{BASE}/Claim"
NOW = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)


def a_charge(code="97110", units=2):
    known = {"patient": "Patient/1", "encounter": "Encounter/1", "date_of_service": date(2026, 11, 20)}
    return Charge(
        identifier=identifier_for(BASE, code=code, modifiers=("GP",), **known),
        **known,
        code=code,
        units=units,
        modifiers=("GP",),
        services=("Procedure/1",),
        performers=("Practitioner/1",),
        enterer="Practitioner/1",
        entered_at=NOW,
        rationale="23 minutes make 2 units.",
        coverage="Coverage/1",
    )


CHARGES = (a_charge(), a_charge("97112", 1))
PREPARED = (claim_identifier(CHARGES),)


def filed(charges=CHARGES, id_="9", **changed):
    """The Claim as an EHR that took these charges gives it back."""
    made = json.loads(json.dumps(claim(charges, claim_identifier(charges)), default=float))
    return {**made, "id": id_, "meta": {"versionId": "1"}, **changed}


def bundle(*found):
    return {"resourceType": "Bundle", "entry": [{"resource": each} for each in found]}


def withdrawal(charge, reference):
    return withdrawal_of(charge, reference, why="Wrong units.", by="Practitioner/1", at=NOW)


@pytest.fixture
def wire():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def way(wire):
    server = Server(BASE, "token", requests.Session(), retries=0, sleep=lambda _: None)
    return DraftClaim(server, timedelta(seconds=65))


UNANSWERED = {
    "429": {"status": 429},
    "403": {"status": 403},
    "404": {"status": 404},
    "500": {"status": 500},
    "no connection": {"body": requests.exceptions.ConnectionError("refused")},
    "HTML": {"body": "<html>"},
}


@pytest.mark.parametrize("then", UNANSWERED)
def test_a_claim_that_was_created_and_cannot_be_read_is_a_doubt_and_no_refusal(wire, way, then):
    wire.post(CLAIMS, status=201, headers={"Location": f"{CLAIMS}/9"})
    wire.get(f"{CLAIMS}/9", **UNANSWERED[then])
    with pytest.raises(errors.Unknown):
        way.write(CHARGES, PREPARED)


@pytest.mark.parametrize("then", UNANSWERED)
def test_a_claim_that_was_there_already_and_cannot_be_found_is_a_doubt_and_no_refusal(wire, way, then):
    wire.post(CLAIMS, status=200, json=filed())
    wire.get(CLAIMS, **UNANSWERED[then])
    with pytest.raises(errors.Unknown):
        way.write(CHARGES, PREPARED)


@pytest.mark.parametrize(
    ("status", "error"),
    [(422, errors.Unprocessable), (403, errors.Forbidden), (404, errors.NotFound), (429, errors.RateLimited)],
)
def test_a_claim_that_the_ehr_did_not_take_is_refused_and_no_doubt(wire, way, status, error):
    wire.post(CLAIMS, status=status)
    with pytest.raises(error):
        way.write(CHARGES, PREPARED)


def test_a_claim_without_a_body_is_read_where_it_was_filed(wire, way):
    wire.post(CLAIMS, status=201, headers={"Location": f"{CLAIMS}/9"})
    wire.get(f"{CLAIMS}/9", json=filed())
    assert [written.reference for written in way.write(CHARGES, PREPARED)] == ["Claim/9#1", "Claim/9#2"]


def test_a_server_s_remarks_among_what_was_found_are_passed_over(wire, way):
    remarks = {"resourceType": "OperationOutcome", "issue": [{"diagnostics": "Ignored a parameter."}]}
    wire.get(CLAIMS, json=bundle(remarks, filed()))
    assert way.find(CHARGES[0], PREPARED).reference == "Claim/9#1"
    wire.replace(responses.GET, CLAIMS, json=bundle(remarks))
    assert way.find(CHARGES[0], PREPARED) is None


def test_among_claims_that_cannot_be_read_ours_is_not_known_to_be_missing(wire, way):
    wire.get(CLAIMS, json=bundle({"resourceType": "Claim", "id": 9}))
    with pytest.raises(errors.BadAnswer, match="whether ours is among"):
        way.find(CHARGES[0], PREPARED)


# Taking back


@pytest.mark.parametrize("patient", ["Patient/1", f"{BASE}/Patient/1"])
def test_items_are_taken_out_of_the_draft_however_it_names_the_patient(wire, way, patient):
    wire.get(f"{CLAIMS}/9", json=filed(patient={"reference": patient}))
    put = wire.put(f"{CLAIMS}/9", json=filed())
    (written,) = way.write((withdrawal(CHARGES[0], "Claim/9#1"),), PREPARED)
    assert written.how == "withdrawn"
    assert [each["sequence"] for each in json.loads(put.calls[0].request.body)["item"]] == [2]


def test_the_claim_of_another_patient_is_left_alone(wire, way):
    wire.get(f"{CLAIMS}/9", json=filed(patient={"reference": "Patient/2"}))
    with pytest.raises(errors.WrongPatient):
        way.write((withdrawal(CHARGES[0], "Claim/9#1"),), PREPARED)


@pytest.mark.parametrize("body", ["<html>", "[]", '"x"', '{"resourceType": "Patient", "id": "9"}'])
def test_what_is_no_claim_takes_nothing_back(wire, way, body):
    wire.get(f"{CLAIMS}/9", body=body)
    one = withdrawal(CHARGES[0], "Claim/9#1")
    for ask in (lambda: way.write((one,), PREPARED), lambda: way.find(one, PREPARED)):
        with pytest.raises(errors.BadAnswer):
            ask()


def test_a_claim_that_is_gone_is_for_a_person_to_look_at(wire, way):
    wire.get(f"{CLAIMS}/9", status=404)
    with pytest.raises(errors.OnRecord, match="Claim/9 is no longer in the EHR"):
        way.find(withdrawal(CHARGES[0], "Claim/9#1"), PREPARED)


LATER = replace(a_charge("97140", 1), identifier=identifier_for(
    BASE, patient="Patient/1", encounter="Encounter/1", date_of_service=date(2026, 11, 20), code="97140",
    modifiers=("GP",), sequence=2,
))  # fmt: skip
BOTH = (withdrawal(CHARGES[0], "Claim/9#1"), withdrawal(LATER, "Claim/10#1"))


def test_charges_of_two_claims_are_each_taken_out_of_their_own(wire, way):
    """As after a second correction: what the first one left, and what it made."""
    wire.get(f"{CLAIMS}/9", json=filed())
    wire.get(f"{CLAIMS}/10", json=filed((LATER,), "10"))
    first = wire.put(f"{CLAIMS}/9", json=filed())
    second = wire.put(f"{CLAIMS}/10", json=filed((LATER,), "10"))
    assert [each.how for each in way.write(BOTH, PREPARED)] == ["withdrawn", "withdrawn"]
    assert [each["sequence"] for each in json.loads(first.calls[0].request.body)["item"]] == [2]
    assert json.loads(second.calls[0].request.body)["status"] == "cancelled"


def test_nothing_is_taken_out_of_one_claim_where_the_other_is_no_draft_any_more(wire, way):
    wire.get(f"{CLAIMS}/9", json=filed())
    wire.get(f"{CLAIMS}/10", json=filed((LATER,), "10", status="active"))
    with pytest.raises(errors.OnRecord, match="no draft any more"):
        way.write(BOTH, PREPARED)


def test_where_the_second_claim_is_refused_the_first_was_changed_all_the_same(wire, way):
    wire.get(f"{CLAIMS}/9", json=filed())
    wire.get(f"{CLAIMS}/10", json=filed((LATER,), "10"))
    wire.put(f"{CLAIMS}/9", json=filed())
    wire.put(f"{CLAIMS}/10", status=412)
    with pytest.raises(errors.Unknown):
        way.write(BOTH, PREPARED)
