"""For whoever runs it: metrics, health, and one id through all logs; and nothing of a patient in any of it."""

import io
import json
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import pytest
import requests
import structlog
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine
from waitress import create_server
from waitress.wasyncore import close_all

from quarterhour.launch import http
from quarterhour.launch.errors import EhrUnavailable
from quarterhour.launch.issuers import Issuers
from quarterhour.plugin import flow, sessions
from quarterhour.plugin.app import create_app
from quarterhour.plugin.cli_serve import log_as_json, proxied
from quarterhour.plugin.health import newest_migration, problems
from quarterhour.sandbox.faults import Fault

TOKEN = "a token of sixteen letters and more"
CANARY = "Zyxwvutsr"


@pytest.fixture
def watched(a_clinic):
    return a_clinic(metrics_token=TOKEN)


def scraped(clinic, *, token=TOKEN):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(f"{clinic.app_url}/metrics", headers=headers, timeout=10)


def samples(clinic):
    """Every number by its name and the values of its labels, in the order of their names."""
    text = scraped(clinic).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- metrics ------------------------------------------------------------------------------------------------


def test_metrics_are_off_until_the_operator_names_a_reader(clinic):
    assert scraped(clinic).status_code == 404


@pytest.mark.parametrize(
    "token", [None, "", "a token of sixteen letters and mor", TOKEN + "x", TOKEN.upper()]
)
def test_without_the_token_there_is_no_such_page(watched, token):
    refused = scraped(watched, token=token)
    assert refused.status_code == 404
    assert "quarterhour_" not in refused.text


def test_with_the_token_they_are_read(watched):
    answer = scraped(watched)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "# TYPE quarterhour_ehr_seconds histogram" in answer.text


@pytest.mark.parametrize(
    ("named", "status"), [("127.0.0.1", 200), ("10.0.0.0/8, ::1", 404), ("127.0.0.0/8", 200)]
)
def test_an_address_that_the_operator_named_needs_no_token(a_clinic, named, status):
    clinic = a_clinic(metrics_from=named)
    assert scraped(clinic, token=None).status_code == status


def test_guessing_ends_after_a_while(watched):
    assert {scraped(watched, token=f"guess {number}").status_code for number in range(60)} == {404}
    assert scraped(watched).status_code == 404


def test_what_happened_is_counted(watched):
    person = watched.person()
    watched.sandbox.faults.add(Fault("status", path="/fhir/Coverage", status=503, times=1))
    receipt = person.sign("cms-ex1")
    assert "Written." in receipt.text, receipt.text
    found = samples(watched)
    assert found["quarterhour_suggestions_total", "sandbox", "opened"] == 1
    assert found["quarterhour_sign_offs_total", "sandbox", "first", "charge-item"] == 1
    assert found["quarterhour_charges", "confirmed", "charge-item"] == 2
    assert found["quarterhour_ehr_errors_total", "sandbox", "5xx"] == 1
    assert found["quarterhour_ehr_seconds_count", "sandbox"] > 10
    assert found["quarterhour_findings_total", "kx-threshold", "not-checked"] == 1
    assert any(key[0] == "quarterhour_findings_total" and key[-1] == "passed" for key in found)
    assert found["quarterhour_jobs", "capture", "waiting"] == 0


def test_a_second_look_at_a_visit_is_no_second_suggestion(watched):
    person = watched.person()
    person.launch("cms-ex1")
    person.launch("cms-ex1")
    assert samples(watched)["quarterhour_suggestions_total", "sandbox", "opened"] == 1


def test_a_charge_that_waits_says_for_how_long(watched):
    person = watched.person()
    confirm = person.confirm("cms-ex1")
    watched.sandbox.faults.add(Fault("status", method="POST", path="/fhir/ChargeItem", status=503, times=50))
    person.press(confirm, "Sign off 2 charges")
    watched.clock.forward(minutes=5)
    found = samples(watched)
    assert found["quarterhour_outbox_oldest_seconds", "charge-item"] == 300
    assert sum(value for key, value in found.items() if key[0] == "quarterhour_charges") == 2


def test_what_is_signed_over_is_counted_by_finding_and_what_is_attested_by_modifier(watched):
    watched.installation.metrics.signed(
        "sandbox",
        "claim",
        corrects=True,
        failed=["minutes-below-minimum", "minutes-below-minimum", "kx-threshold"],
        answered=["kx-threshold", "not-failed-any-more"],
        attested=["KX", "59", "whatever a form may bring"],
    )
    found = samples(watched)
    assert found["quarterhour_sign_offs_total", "sandbox", "correction", "claim"] == 1
    assert found["quarterhour_findings_signed_over_total", "no", "minutes-below-minimum"] == 1
    assert found["quarterhour_findings_signed_over_total", "yes", "kx-threshold"] == 1
    attested = {key[-1] for key in found if key[0] == "quarterhour_modifiers_attested_total"}
    assert attested == {"KX", "59", "other"}


def test_an_ehr_that_does_not_answer_is_counted_as_such(watched):
    watched.sandbox.faults.add(Fault("drop", path="/fhir/*", times=200))
    watched.person().launch("cms-ex1")
    errors = {why for name, *_, why in samples(watched) if name == "quarterhour_ehr_errors_total"}
    assert errors == {"connection"}


# --- health -------------------------------------------------------------------------------------------------


def test_it_lives_and_is_ready_and_no_ehr_is_asked(clinic):
    before = len(clinic.sandbox.requests("GET", "*"))
    for path, word in (("live", "live\n"), ("ready", "ready\n")):
        answer = requests.get(f"{clinic.app_url}/health/{path}", timeout=5)
        assert (answer.status_code, answer.text) == (200, word)
    assert len(clinic.sandbox.requests("GET", "*")) == before


def test_without_its_database_it_lives_and_is_not_ready(clinic, tmp_path):
    nowhere = replace(clinic.installation, engine=create_engine(f"sqlite:///{tmp_path}/no/such/folder/db"))
    page = create_app(nowhere).test_client()
    assert page.get("/health/live").status_code == 200
    ready = page.get("/health/ready")
    assert (ready.status_code, ready.text) == (503, "not ready\n")


def test_a_database_of_another_version_is_not_ready(clinic):
    with clinic.installation.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert problems(clinic.installation) == (f"the database is at version 0001, not {newest_migration()}",)


def test_a_key_that_is_gone_is_not_ready_and_only_the_operator_reads_which(a_clinic, monkeypatch):
    clinic = a_clinic(metrics_token=TOKEN)
    issuer = next(iter(clinic.installation.issuers)).model_copy(
        update={"client_auth": "client_secret_basic", "client_secret_env": "QUARTERHOUR_TEST_GONE"}
    )
    monkeypatch.delenv("QUARTERHOUR_TEST_GONE", raising=False)
    broken = replace(clinic.installation, issuers=replace(clinic.installation.issuers, all=(issuer,)))
    page = create_app(broken).test_client()
    assert page.get("/health/ready").text == "not ready\n"
    told = page.get("/health/ready", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (told.status_code, told.json) == (
        503,
        {"problems": ["issuers.sandbox.client_secret_env: QUARTERHOUR_TEST_GONE is not set"]},
    )


# --- one id for a request, in our log and in the EHR's --------------------------------------------------------


@pytest.fixture
def as_served(monkeypatch):
    """Everything that is logged, as `quarterhour serve` writes it."""
    written = io.StringIO()
    before = structlog.get_config()
    log_as_json()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(written), cache_logger_on_first_use=False)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.configure(**before)


def test_what_is_read_for_a_page_carries_the_pages_id_to_the_ehr(clinic, as_served):
    page = clinic.person().launch("cms-ex1")
    at_the_ehr = [
        one.request_id for one in clinic.sandbox.requests("GET", "/fhir/*") if "well-known" not in one.path
    ]
    ours = {event["request_id"] for event in as_served() if event["event"] == "request"}
    assert page.status == 200
    assert len(at_the_ehr) >= 6
    assert len(set(at_the_ehr)) == len(at_the_ehr)
    assert {id_.partition(".")[0] for id_ in at_the_ehr} <= ours


def test_the_token_request_carries_it_too(clinic, as_served):
    clinic.person().launch("cms-ex1")
    (asked,) = clinic.sandbox.requests("POST", "/oauth/token")
    assert asked.request_id.partition(".")[0] in {event["request_id"] for event in as_served()}


def test_every_line_of_a_request_names_it(clinic, as_served):
    clinic.person().launch("cms-ex1")
    lines = as_served()
    assert {"launch_completed", "request"} <= {line["event"] for line in lines}
    assert [line for line in lines if not re.fullmatch(r"[0-9a-f]{16}", line.get("request_id", ""))] == []


@contextmanager
def served(clinic, *, threads=2, issuers=(), **settings):
    """The application as `quarterhour serve` runs it, behind waitress; ``issuers`` besides the clinic's."""
    here = replace(
        clinic.installation,
        settings=clinic.installation.settings.model_copy(update=settings),
        issuers=Issuers((*clinic.installation.issuers, *issuers)),
    )
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        connections, ending = {}, threading.Event()
        server = create_server(
            create_app(here), map=connections, sockets=[listening], threads=threads, **proxied(here.settings)
        )

        def loop() -> None:
            while not ending.is_set():
                server.asyncore.loop(timeout=1, map=connections, count=1)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ending.set()
            server.pull_trigger()
            thread.join()
            server.task_dispatcher.shutdown()
            close_all(connections)


GIVEN = "4bf92f3577b34da6"


@pytest.mark.parametrize(
    ("proxy", "headers", "kept"),
    [
        ("127.0.0.1", {"X-Request-Id": GIVEN, "X-Forwarded-For": "10.1.2.3"}, True),
        ("127.0.0.1", {"X-Request-Id": GIVEN}, False),
        ("10.9.9.9", {"X-Request-Id": GIVEN, "X-Forwarded-For": "10.1.2.3"}, False),
        (None, {"X-Request-Id": GIVEN, "X-Forwarded-For": "10.1.2.3"}, False),
        ("127.0.0.1", {"X-Request-Id": "short", "X-Forwarded-For": "10.1.2.3"}, False),
        ("127.0.0.1", {"X-Request-Id": "x" * 65, "X-Forwarded-For": "10.1.2.3"}, False),
        ("127.0.0.1", {"X-Request-Id": "forged event=ok", "X-Forwarded-For": "10.1.2.3"}, False),
    ],
    ids=["proxy", "not-forwarded", "another-proxy", "no-proxy", "short", "long", "words"],
)
def test_an_id_is_taken_from_the_trusted_proxy_alone_and_only_well_formed(clinic, proxy, headers, kept):
    with served(clinic, trusted_proxy=proxy) as url:
        answer = requests.get(f"{url}/health/live", headers=headers, timeout=5)
    assert (answer.headers["X-Request-Id"] == GIVEN) is kept


# --- no patient in any of it ------------------------------------------------------------------------------------


def planted(clinic, visit):
    """Words in the visit's chart that stand nowhere else."""
    store, scenario = clinic.sandbox.store, clinic.sandbox.scenario(visit)
    patient = store.get("Patient", scenario.patient).resource
    store.put(
        {
            **patient,
            "name": [{"family": f"{CANARY}family", "given": [f"{CANARY}given"]}],
            "birthDate": "1931-07-29",
            "identifier": [{**patient["identifier"][0], "value": f"{CANARY}mrn"}],
        }
    )
    return [CANARY, "1931-07-29", scenario.patient, scenario.encounter, scenario.user]


def test_logs_and_metrics_of_a_whole_journey_hold_nothing_of_the_patient(watched, as_served):
    words = planted(watched, "cms-ex1")
    person = watched.person()
    watched.sandbox.faults.add(Fault("status", path="/fhir/Coverage", status=503, times=1))
    page = person.launch("cms-ex1")
    assert f"{CANARY}given" in page.html
    confirm = person.press(page, "Sign off…")
    watched.sandbox.faults.add(Fault("drop", method="POST", path="/fhir/ChargeItem", after=True))
    receipt = person.press(confirm, "Sign off 2 charges")
    person.press(receipt, "Send again")
    tokens = [token.access_token for token in watched.sandbox.smart.issued.tokens.values()]
    launch = page.url.split("/")[4]
    told = scraped(watched).text
    everything = f"{as_served()} {told}"
    assert "quarterhour_sign_offs_total" in told
    assert [word for word in (*words, *tokens, launch, TOKEN) if word in everything] == []


def test_labels_of_metrics_take_few_values(watched):
    person = watched.person()
    for visit in ("cms-ex1", "tie-of-three", "missing-minutes"):
        person.launch(visit)
    labels = {}
    for family in text_string_to_metric_families(scraped(watched).text):
        for sample in family.samples:
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    assert set(labels) == {"issuer", "way", "finding", "outcome", "kind", "state", "le"} - (
        set() if "le" in labels else {"le"}
    )
    assert labels["issuer"] == {"sandbox"}
    assert all(re.fullmatch(r"[a-z0-9.+-]+|\+Inf", value) for values in labels.values() for value in values)


# --- an EHR that is slow ------------------------------------------------------------------------------------


def test_10_an_ehr_that_says_nothing_leaves_health_and_other_ehrs_their_threads(clinic, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE", 0.2)
    (issuer,) = clinic.installation.issuers
    with socket.create_server(("127.0.0.1", 0)) as silent:
        iss = f"http://127.0.0.1:{silent.getsockname()[1]}/fhir"
        slow = issuer.model_copy(update={"id": "slow", "iss": iss, "read_timeout": 10.0})
        with served(clinic, threads=16, issuers=(slow,)) as url:

            def start(iss, timeout=30.0):
                return requests.get(
                    f"{url}/start", params={"iss": iss}, timeout=timeout, allow_redirects=False
                ).status_code

            statuses = []
            waiting = [threading.Thread(target=lambda: statuses.append(start(iss))) for _ in range(20)]
            for thread in waiting:
                thread.start()
            # Until those beyond the bound were refused, while the others wait.
            enough = time.monotonic() + slow.read_timeout / 2
            while len(statuses) < 20 - http.PLACES and time.monotonic() < enough:
                time.sleep(0.05)
            assert statuses == [503] * (20 - http.PLACES)
            assert requests.get(f"{url}/health/live", timeout=1).text == "live\n"
            assert start(issuer.iss, timeout=1) == 302
            for thread in waiting:
                thread.join()
            assert statuses == [503] * 20


def test_10_several_silent_ehrs_together_leave_health_and_pages_their_threads(clinic, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE", 0.2)
    (issuer,) = clinic.installation.issuers
    clinic.installation.connections.share(16)
    with ExitStack() as opened:
        silent = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        slow = [
            issuer.model_copy(
                update={"id": f"slow-{port}", "iss": f"http://127.0.0.1:{port}/fhir", "read_timeout": 10.0}
            )
            for port in (each.getsockname()[1] for each in silent)
        ]
        url = opened.enter_context(served(clinic, threads=16, issuers=slow))
        statuses = []

        def start(iss):
            answer = requests.get(f"{url}/start", params={"iss": iss}, timeout=30, allow_redirects=False)
            statuses.append(answer.status_code)

        waiting = [threading.Thread(target=start, args=(each.iss,)) for each in slow for _ in range(12)]
        for thread in waiting:
            thread.start()
        enough = time.monotonic() + 5
        while len(statuses) < 24 - 14 and time.monotonic() < enough:
            time.sleep(0.05)
        assert statuses == [503] * (24 - 14)
        assert requests.get(f"{url}/health/live", timeout=1).text == "live\n"
        assert requests.get(f"{url}/", timeout=1).status_code == 200
        for thread in waiting:
            thread.join()
        assert statuses == [503] * 24


def test_10_a_page_waits_for_the_chart_and_for_new_tokens_in_one_of_the_places(clinic, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE", 0.1)
    here = clinic.installation
    (issuer,) = here.issuers
    clinic.person().launch("cms-ex1")
    (active,) = sessions.active(here, issuer)
    launch = replace(active.launch, encounter=active.launch.session.context.encounter)
    begun = flow.begin_reading(here, launch)
    ehr = here.connections.to(issuer)

    def looks():
        here.read_ahead.keep(launch.id, begun)
        return flow.with_visits(here, launch, lambda later: None)[1]

    free, over = threading.Semaphore(0), threading.Event()

    def hold():
        with ehr.place():
            free.release()
            over.wait(30)

    holding = [threading.Thread(target=hold) for _ in range(http.PLACES)]
    for thread in holding:
        thread.start()
    try:
        assert all(free.acquire(timeout=5) for _ in holding)
        for ask in (looks, lambda: flow.read_again(here, launch), lambda: sessions.renewed(here, launch)):
            with pytest.raises(EhrUnavailable, match="too many wait for a slow EHR already"):
                ask()
    finally:
        over.set()
        for thread in holding:
            thread.join()
    assert len(looks()) == 1
