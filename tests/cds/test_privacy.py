"""What is logged and counted of calls, cards, feedback and captured visits holds nothing of a patient."""

import io
import json

import pytest
import requests
import structlog

from quarterhour.plugin.cli_serve import log_as_json

TOKEN = "a token of sixteen letters and more"


@pytest.fixture
def as_served():
    """Everything that is logged, as `quarterhour serve` writes it."""
    written = io.StringIO()
    before = structlog.get_config()
    log_as_json()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(written), cache_logger_on_first_use=False)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.configure(**before)


@pytest.fixture
def both(an_asking):
    return an_asking(metrics_token=TOKEN)


def metrics(both):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return requests.get(f"{both.app_url}/metrics", headers=headers, timeout=5).text


def test_no_log_and_no_number_names_a_patient_a_visit_or_a_token(both, as_served):
    both.capture("cms-ex1")
    access = both.here.access(both.issuer).token
    sent = {"access_token": access, "token_type": "Bearer", "expires_in": 300, "scope": "", "subject": "x"}
    (card,) = both.ask(fhirAuthorization=sent)
    why = {"userComment": "Zyxwvutsr has paid"}
    both.tell({"card": card["uuid"], "outcome": "overridden", "overrideReason": why})
    token = both.token("https://elsewhere.invalid")
    assert both.post(both.address(), both.request(), token).status_code == 401
    both.post(both.address(), b'{"hook": "Zyxwvutsr', both.token(both.address()))
    told = metrics(both)
    visit = both.sandbox.scenario("cms-ex1")
    words = ["Zyxwvutsr", visit.patient, visit.encounter, visit.user, access, token, card["uuid"], TOKEN]
    everything = f"{as_served()} {told}"
    assert {"cds", "cds_feedback", "cds_refused", "captured"} <= {line["event"] for line in as_served()}
    assert [word for word in words if word in everything] == []


def test_calls_cards_and_feedback_are_counted(both):
    both.capture("cms-ex1")
    (card,) = both.ask()
    both.ask(scenario="cms-ex2")
    both.tell({"card": card["uuid"], "outcome": "overridden"})
    both.post(both.address(), both.request(), "x")
    lines = metrics(both).splitlines()
    service = 'service="quarterhour-patient-view"'
    assert f'quarterhour_cds_seconds_count{{outcome="answered",{service}}} 1.0' in lines
    assert f'quarterhour_cds_seconds_count{{outcome="no-cards",{service}}} 1.0' in lines
    assert f"quarterhour_cds_refused_total{{{service}}} 1.0" in lines
    assert 'quarterhour_cds_cards{finding="unreviewed-units",outcome="overridden"} 1.0' in lines
    assert 'quarterhour_suggestions_total{issuer="sandbox",way="captured"} 1.0' in lines


def test_what_a_worker_reads_carries_the_id_of_its_job(both, as_served):
    both.capture("cms-ex1", "cms-ex2")
    (first, second) = [line["request_id"] for line in as_served() if line["event"] == "captured"]
    assert first != second
    reads = both.sandbox.requests("GET", "/fhir/*")
    assert {one.request_id.partition(".")[0] for one in reads if "/Patient/" in one.path} == {first, second}
