"""CDS Hooks: what is offered, and what each hook is answered (https://cds-hooks.hl7.org/2.0/)."""

import json
import re
from dataclasses import replace
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import event

from quarterhour.core.visit import History
from quarterhour.launch.context import encounter_in
from quarterhour.plugin import database
from quarterhour.plugin.app import create_app
from quarterhour.plugin.metrics import text_of

HOOKS = ("patient-view", "encounter-start", "encounter-discharge", "appointment-book")
APPOINTMENTS = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [{"resource": {"resourceType": "Appointment", "id": "a1", "status": "proposed"}}],
}


def test_discovery_lists_the_services_with_the_ids_that_ehrs_have_registered(ehr):
    answer = ehr.http.get(f"{ehr.app_url}/cds-services", timeout=5)
    services = answer.json()["services"]
    assert {service["hook"]: service["id"] for service in services} == {
        hook: f"quarterhour-{hook}" for hook in HOOKS
    }
    assert all(service["title"] and service["description"] for service in services)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    prefetch = {service["hook"]: service.get("prefetch") for service in services}
    assert prefetch["patient-view"] == {"coverages": "Coverage?patient={{context.patientId}}"}
    assert prefetch["encounter-discharge"] is None


def test_nothing_is_offered_until_an_operator_turns_it_on(an_asking):
    both = an_asking()
    nobody = replace(
        both.here.issuers, all=tuple(one.model_copy(update={"cds": None}) for one in both.here.issuers)
    )
    client = create_app(replace(both.here, issuers=nobody)).test_client()
    assert client.get("/cds-services").json == {"services": []}
    assert client.post("/cds-services/quarterhour-patient-view", json={}).status_code == 404


def test_a_hook_that_the_operator_turned_off_is_not_offered(an_asking):
    both = an_asking(cds='hooks = ["patient-view"]')
    services = both.http.get(f"{both.app_url}/cds-services", timeout=5).json()["services"]
    assert [service["hook"] for service in services] == ["patient-view"]
    address = both.address("encounter-start")
    assert both.post(address, both.request("encounter-start"), both.token(address)).status_code == 404


@pytest.mark.parametrize("hook", ["patient-view", "encounter-start", "encounter-discharge"])
def test_a_visit_that_waits_is_told_with_a_link_that_opens_it(ehr, hook):
    (card,) = ehr.ask(hook)
    assert card["summary"] == "1 visit has therapy units that nobody has reviewed."
    assert "20 November 2026, PT: 3 units suggested" in card["detail"]
    (link,) = card["links"]
    assert (link["type"], link["url"]) == ("smart", f"{ehr.app_url}/launch")
    assert encounter_in(link["appContext"]) == ehr.sandbox.scenario("cms-ex1").encounter


def test_a_card_names_nobody(ehr):
    text = json.dumps(ehr.ask())
    visit = ehr.sandbox.scenario("cms-ex1")
    patient = ehr.sandbox.store.get("Patient", visit.patient).resource
    words = [visit.patient, patient["birthDate"], patient["identifier"][0]["value"], visit.user]
    words += [patient["name"][0]["family"], *patient["name"][0]["given"]]
    assert [word for word in words if word in text] == []


def test_a_visit_with_findings_is_a_warning_and_says_how_many(ehr):
    (card,) = ehr.ask(scenario="missing-minutes")
    assert card["indicator"] == "warning"
    assert re.search(r"\d findings? to weigh", card["detail"])


def test_a_patient_without_a_visit_that_waits_gets_no_card(ehr):
    assert ehr.ask(scenario="cms-ex2") == []


def test_no_service_ever_answers_with_an_action(ehr):
    for hook in HOOKS:
        address = ehr.address(hook)
        answer = ehr.post(address, ehr.request(hook), ehr.token(address)).json()
        assert set(answer) == {"cards"}
        assert not any("suggestions" in card for card in answer["cards"])


def test_a_signed_visit_waits_no_more(an_asking):
    both = an_asking()
    both.capture("cms-ex1")
    assert len(both.ask()) == 1
    with both.here.engine.begin() as connection:
        (visit,) = connection.scalars(
            database.known_visit.select().with_only_columns(database.known_visit.c.visit)
        )
        connection.execute(
            database.decision.insert().values(
                id="d", visit=visit, revision=1, issuer=both.issuer.iss, person="p",
                signed_at=both.clock(), sealed=b"", way="ticket",
            )
        )  # fmt: skip
    assert both.ask() == []


def test_the_visit_that_is_open_in_the_ehr_comes_first(an_asking):
    both = an_asking()
    both.capture("two-disciplines-pt", "two-disciplines-ot")
    for open_one, other in [
        ("two-disciplines-pt", "two-disciplines-ot"),
        ("two-disciplines-ot", "two-disciplines-pt"),
    ]:
        (card,) = both.ask("encounter-discharge", open_one)
        assert card["summary"].startswith("2 visits have therapy units")
        opened = [encounter_in(link["appContext"]) for link in card["links"]]
        assert opened == [both.sandbox.scenario(one).encounter for one in (open_one, other)]


def test_a_visit_that_waits_for_long_is_said_to_be_late(an_asking):
    both = an_asking()
    both.capture("cms-ex1")
    both.clock.forward(days=40)
    (card,) = both.ask()
    assert card["summary"].endswith(", 1 of them late.")
    assert card["indicator"] == "warning"


# --- thresholds, under the policy of the patient's coverage ---------------------------------------------------


@pytest.fixture(scope="module")
def near_kx(ehr):
    ehr.knows("cms-ex1", History(therapy_amount=Decimal("2400.00")))
    return ehr


def topics(cards):
    return [card["source"]["topic"]["code"] for card in cards]


@pytest.mark.parametrize("hook", ["patient-view", "encounter-start", "appointment-book"])
def test_prefetched_coverage_leads_to_the_threshold_and_nothing_is_read(near_kx, hook):
    reads = len(near_kx.sandbox.requests("GET", "/fhir/*"))
    cards = near_kx.ask(
        hook,
        prefetch={"coverages": near_kx.coverages("pat-adams")},
        context={
            "userId": "PractitionerRole/A2340113",
            "patientId": "pat-adams",
            "appointments": APPOINTMENTS,
        },
    )
    assert topics(cards)[-1] == "kx-threshold"
    assert "$2,400.00 this year is near the KX threshold, $2,480.00" in cards[-1]["summary"]
    assert len(near_kx.sandbox.requests("GET", "/fhir/*")) == reads


def ehr_token(both):
    """A token of the EHR's for us, as it would send it along."""
    return both.here.access(both.issuer).token


def authorization(both, **changed):
    return {
        "access_token": ehr_token(both),
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "user/Coverage.read",
        "subject": "cds-service4",
    } | changed


NEXT = [{"relation": "next", "url": "https://elsewhere.invalid/page2"}]


@pytest.mark.parametrize(
    "prefetch",
    [
        None,
        {},
        {"patient": {"resourceType": "Patient", "id": "pat-adams"}},
        {"coverages": {"resourceType": "OperationOutcome", "issue": []}},
        {"coverages": {"resourceType": "Bundle", "type": "searchset", "entry": [], "link": NEXT}},
        {"coverages": ["no bundle"]},
    ],
    ids=["none", "empty", "another", "outcome", "one-page-of-several", "unreadable"],
)
def test_missing_prefetch_is_read_with_the_token_that_came_along(near_kx, prefetch):
    before = len(near_kx.sandbox.requests("GET", "/fhir/Coverage"))
    cards = near_kx.ask(prefetch=prefetch, fhirAuthorization=authorization(near_kx))
    assert topics(cards) == ["unreviewed-units", "kx-threshold"]
    assert len(near_kx.sandbox.requests("GET", "/fhir/Coverage")) == before + 1


def test_without_prefetch_and_without_a_token_nothing_is_said_of_thresholds(near_kx):
    before = len(near_kx.sandbox.requests("GET", "/fhir/*"))
    assert topics(near_kx.ask()) == ["unreviewed-units"]
    assert len(near_kx.sandbox.requests("GET", "/fhir/*")) == before


def test_null_says_that_there_is_no_coverage_and_it_is_not_read_again(near_kx):
    before = len(near_kx.sandbox.requests("GET", "/fhir/*"))
    cards = near_kx.ask(prefetch={"coverages": None}, fhirAuthorization=authorization(near_kx))
    assert topics(cards) == ["unreviewed-units"]
    assert len(near_kx.sandbox.requests("GET", "/fhir/*")) == before


@pytest.mark.parametrize(
    "changed", [{"patient": "pat-brennan"}, {"token_type": "MAC"}, {"access_token": "spent"}]
)
def test_a_token_for_something_else_brings_no_threshold_and_no_error(near_kx, changed):
    cards = near_kx.ask(fhirAuthorization=authorization(near_kx) | changed)
    assert topics(cards) == ["unreviewed-units"]


def test_another_patients_coverage_decides_nothing(near_kx):
    cards = near_kx.ask(prefetch={"coverages": near_kx.coverages("pat-fischer")})
    assert topics(cards) == ["unreviewed-units"]


# --- requests that are not as they should be --------------------------------------------------------------------


def test_members_of_version_3_and_extensions_are_passed_over(ehr):
    cards = ehr.ask(
        extension={"com.example.timestamp": "2017-11-27T22:13:25Z"},
        hookVersion="3.0",
        context=ehr.request()["context"] | {"later": {"x": 1}},
    )
    assert topics(cards) == ["unreviewed-units"]


@pytest.mark.parametrize(
    "fhir_server",
    ["https://elsewhere.invalid/fhir", "https://other.example/fhir", "not an address"],
    ids=["unknown", "another-ehr-of-ours", "no-address"],
)
def test_an_fhir_server_that_is_not_the_callers_gets_no_request_and_no_card(ehr, fhir_server):
    token = authorization(ehr)
    before = len(ehr.sandbox.requests("GET", "/fhir/*"))
    assert ehr.ask(fhirServer=fhir_server, fhirAuthorization=token) == []
    assert len(ehr.sandbox.requests("GET", "/fhir/*")) == before


@pytest.mark.parametrize("user", ["Patient/pat-adams", "RelatedPerson/1", "", "Practitionerx/1"])
def test_cards_are_for_staff_only(ehr, user):
    assert ehr.ask(context=ehr.request()["context"] | {"userId": user}) == []


DEEP = (
    b'{"hook": "patient-view", "hookInstance": "x", "context": {"userId": "Practitioner/1", "patientId": "x", '
    b'"appointments": ' + b"[" * 100_000
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"hook":' + b"[" * 100_000,
        DEEP,
        b'{"hook": "patient-view", "hookInstance": "x", "context": {"userId": "Practitioner/1"}}',
        b'{"hook": "patient-view", "hookInstance": "x", "context": {"userId": 1, "patientId": []}}',
        b'{"x": "' + b"y" * 1_100_000 + b'"}',
    ],
    ids=[
        "empty",
        "text",
        "list",
        "nothing",
        "no-utf8",
        "deep",
        "deep-where-anything-may-stand",
        "no-patient",
        "wrong-types",
        "huge",
    ],
)
def test_what_is_no_call_is_answered_with_no_cards(ehr, body):
    address = ehr.address()
    answer = ehr.post(address, body, ehr.token(address))
    assert (answer.status_code, answer.json()) == (200, {"cards": []})


def test_what_is_nested_too_deeply_is_an_unreadable_call_and_no_fault_of_ours(an_asking):
    both = an_asking()
    assert both.post(both.address(), DEEP, both.token(both.address())).json() == {"cards": []}
    counted = text_of(both.here.metrics, both.here.engine, both.clock.now).decode()
    assert 'outcome="unreadable"' in counted
    assert 'outcome="failed"' not in counted


def test_a_call_for_another_hook_than_the_services_is_answered_with_no_cards(ehr):
    address = ehr.address("patient-view")
    answer = ehr.post(address, ehr.request("order-sign"), ehr.token(address))
    assert (answer.status_code, answer.json()) == (200, {"cards": []})


@pytest.mark.parametrize("patient", ["../Practitioner/1", "a" * 65, "", "pat adams"])
def test_a_patient_id_that_is_none_finds_nobody(ehr, patient):
    assert ehr.ask(context={"userId": "Practitioner/1", "patientId": patient}) == []


def test_an_unknown_service_is_not_found_whoever_asks(ehr):
    address = f"{ehr.app_url}/cds-services/quarterhour-order-sign"
    assert ehr.post(address, ehr.request(), ehr.token(address)).status_code == 404
    assert ehr.post(f"{address}/feedback", {}, ehr.token(address)).status_code == 404


def test_who_was_shown_cards_is_on_record(an_asking):
    both = an_asking()
    both.capture("cms-ex1")
    (card,) = both.ask()
    (entry,) = both.audited("cards-given")
    assert (entry.who, entry.what["cards"]) == ("Practitioner/pr-reyes", [card["uuid"]])


def test_no_power_cut_takes_the_entry_of_a_card_out_of_the_trail(an_asking):
    """SQLite waits for the disk with 2 (FULL), and not with 1 (NORMAL)."""
    both, waits = an_asking(), []
    both.capture("cms-ex1")

    @event.listens_for(both.here.engine, "before_cursor_execute")
    def _look(connection, _cursor, statement, *_more):
        if statement.startswith("INSERT INTO audit"):
            driver = connection.connection.driver_connection
            waits.append(driver.execute("PRAGMA synchronous").fetchone()[0])

    assert both.ask()
    assert waits == [2]


# --- from the chart through the card to the visit -------------------------------------------------------------


def test_the_card_in_the_sandboxs_chart_opens_the_visit_it_is_about(an_asking):
    both = an_asking()
    both.capture("two-disciplines-pt", "two-disciplines-ot")
    pt, ot = (both.sandbox.scenario(f"two-disciplines-{one}") for one in ("pt", "ot"))
    chart = both.http.get(f"{both.sandbox.base_url}/visits/{pt.encounter}/cards", timeout=10).text
    assert "2 visits have therapy units that nobody has reviewed." in chart
    link = next(one for one in re.findall(r'href="([^"]+)"', chart) if ot.encounter in one)
    page = both.http.get(both.sandbox.base_url + link.replace("&amp;", "&"), timeout=10).text
    launch = re.search(r'<iframe src="([^"]+)"', page)[1].replace("&amp;", "&")
    (carried,) = parse_qs(urlsplit(launch).query)["launch"]
    authorized = both.sandbox.smart.launched(
        carried
    )  # the token response says so: tests/access/test_task_launch.py
    assert encounter_in(authorized.app_context) == ot.encounter
    assert authorized.encounter == f"Encounter/{pt.encounter}"
