"""Charges in one transaction, against an EHR faked at the wire: an answer about one says nothing of the others."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest
import requests
import responses

from quarterhour.fhir import errors
from quarterhour.fhir.charge_item import Charge, charge_item, identifier_for
from quarterhour.fhir.charge_items import InOneTransaction
from quarterhour.fhir.server import Server

BASE = "https://ehr.example/fhir"
ITEMS = f"{BASE}/ChargeItem"


def a_charge(code):
    known = {"patient": "Patient/1", "encounter": "Encounter/1", "date_of_service": date(2026, 11, 20)}
    return Charge(
        identifier=identifier_for(BASE, code=code, modifiers=("GP",), **known),
        **known,
        code=code,
        units=2,
        modifiers=("GP",),
        services=("Procedure/1",),
        performers=("Practitioner/1",),
        enterer="Practitioner/1",
        entered_at=datetime(2026, 11, 20, 17, 0, tzinfo=UTC),
        rationale="23 minutes make 2 units.",
    )


THERE, NEW = a_charge("97110"), a_charge("97112")


def stored(charge, id_, **changed):
    return {**json.loads(charge_item(charge).model_dump_json()), "id": id_, **changed}


@pytest.fixture
def wire():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        entries = [
            {"response": {"status": "200 OK", "location": "ChargeItem/1"}},
            {"response": {"status": "201 Created", "location": "ChargeItem/2"}},
        ]
        answer = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
        mock.post(BASE, json=answer)
        yield mock


@pytest.fixture
def way(wire):
    server = Server(BASE, "token", requests.Session(), retries=0, sleep=lambda _: None)
    return InOneTransaction(server, timedelta(seconds=65), provenance=False)


def found(**changed):
    return {"json": {"resourceType": "Bundle", "entry": [{"resource": stored(THERE, "1", **changed)}]}}


@pytest.mark.parametrize(
    "search",
    [
        found(quantity={"value": 9}),
        {"status": 429},
        {"status": 403},
        {"status": 401},
        {"body": requests.exceptions.ConnectionError("refused")},
        {"json": {"resourceType": "Bundle", "entry": []}},
    ],
    ids=["says something else", "429", "403", "401", "no connection", "not found yet"],
)
def test_what_is_wrong_with_one_that_was_there_leaves_all_in_doubt_since_the_other_was_created(
    wire, way, search
):
    wire.get(ITEMS, **search)
    with pytest.raises(errors.Unknown):
        way.write((THERE, NEW))


def test_one_that_was_there_and_says_the_same_is_confirmed_with_the_other(wire, way):
    wire.get(ITEMS, **found())
    assert [(each.reference, each.how) for each in way.write((THERE, NEW))] == [
        ("ChargeItem/1", "already-there"),
        ("ChargeItem/2", "created"),
    ]


@pytest.mark.parametrize(
    ("status", "error"), [(422, errors.Unprocessable), (403, errors.Forbidden), (429, errors.RateLimited)]
)
def test_a_transaction_that_was_turned_down_wrote_nothing(wire, way, status, error):
    wire.replace(responses.POST, BASE, status=status)
    with pytest.raises(error):
        way.write((THERE, NEW))
