"""No request leaves for anything but the configured issuer; nothing of the patient is logged or in an address."""

import logging
import sqlite3

import pytest

from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

CANARY = "Zyxwvutsr"


def planted(clinic, visit="cms-ex1"):
    """The visit's chart with words in it that stand nowhere else; gives the words."""
    store = clinic.sandbox.store
    scenario = clinic.sandbox.scenario(visit)
    patient = dict(store.get("Patient", scenario.patient).resource)
    patient["name"] = [{"family": f"{CANARY}family", "given": [f"{CANARY}given"]}]
    patient["birthDate"] = "1931-07-29"
    patient["identifier"] = [{**patient["identifier"][0], "value": f"{CANARY}mrn"}]
    store.put(patient)
    for filed in store.all("Procedure"):
        if filed.resource["encounter"]["reference"] == f"Encounter/{scenario.encounter}":
            changed = dict(filed.resource)
            changed["code"] = {**changed["code"], "text": f"{CANARY}service"}
            changed["note"] = [{"text": f"{CANARY}note"}]
            store.put(changed, filed.patient)
    return [CANARY, "1931-07-29", scenario.patient, scenario.encounter, scenario.user]


def secrets_of(clinic, person, browser_states):
    """What opens something: tokens, codes, states, cookies."""
    tokens = [token.access_token for token in clinic.sandbox.smart.issued.tokens.values()]
    cookies = [cookie.value for cookie in person.http.adapters["http://"].jar]
    assert tokens
    assert cookies
    return [*tokens, *cookies, *browser_states]


def a_whole_journey(clinic, person):
    """Launch, a correction, a page that fails, sign-off, a lost answer, sending again, a relaunch."""
    callback = person.callback_of("cms-ex1")
    codes = [part.partition("=")[2] for part in callback.partition("?")[2].split("&")]
    clinic.sandbox.faults.add(Fault("status", path="/fhir/Procedure*", status=500, times=5))
    failed = person.open(callback)
    clinic.sandbox.faults.clear()
    page = person.open(failed.links["Try again"])
    minutes = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("minutes:"))
    why = minutes.replace("minutes:", "why:")
    person.press(page, "Recalculate", {minutes: "many", why: f"{CANARY}reason"})
    page = person.press(page, "Recalculate", {minutes: "24", why: f"{CANARY}reason"})
    confirm = person.press(page, "Sign off…")
    clinic.sandbox.faults.add(Fault("drop", method="POST", path="/fhir/ChargeItem", after=True))
    receipt = person.press(confirm, "Sign off 2 charges")
    assert "Written." in person.press(receipt, "Send again").text
    person.open(callback)  # replayed
    person.open("/launches/nobody/visits/1")
    clinic.person().open(page.url)
    person.launch("cms-ex1")
    return codes


def test_a_whole_journey_connects_to_nothing_but_the_configured_issuer(clinic, person, wire):
    a_whole_journey(clinic, person)
    ports = {int(url.rpartition(":")[2]) for url in (clinic.app_url, clinic.ehr_url)}
    assert wire.ports == ports
    assert {address for address, _ in wire.connected} <= {"127.0.0.1", "::1"}
    assert set(wire.names) <= {"localhost", "127.0.0.1", "::1"}


def test_a_page_of_results_that_leads_elsewhere_is_not_followed(a_clinic, wire):
    clinic = a_clinic(quirks=Quirks(page_size=1, foreign_next_link="https://elsewhere.invalid"))
    page = clinic.person().launch("cms-ex1")
    assert page.status == 502
    assert not any("elsewhere" in name for name in wire.names)


def test_a_reference_in_the_chart_that_leads_elsewhere_is_not_followed(clinic, person, wire):
    store = clinic.sandbox.store
    for filed in store.all("Procedure"):
        changed = dict(filed.resource)
        changed["performer"] = [
            {"actor": {"reference": "https://elsewhere.invalid/fhir/Practitioner/pr-reyes"}}
        ]
        store.put(changed, filed.patient)
    assert person.launch("cms-ex1").status == 200
    assert not any("elsewhere" in name for name in wire.names)


def test_a_page_loads_nothing_from_anywhere_else(clinic, person):
    page = person.launch("cms-ex1")
    assert page.answer.headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none'")
    assert page.answer.headers["Referrer-Policy"] == "no-referrer"
    assert page.answer.headers["Cache-Control"] == "no-store"
    assert f"frame-ancestors {clinic.ehr_url}" in page.answer.headers["Content-Security-Policy"]


def test_the_logs_of_a_whole_journey_hold_nothing_of_the_patient_and_no_secret(
    clinic, person, logged, caplog, capfd
):
    caplog.set_level(logging.INFO)
    words = planted(clinic)
    assert f"{CANARY}given {CANARY}family" in person.launch("cms-ex1").text  # on the page, and only there
    codes = a_whole_journey(clinic, person)
    events = logged()
    assert {"request", "launch_began", "launch_completed", "charge", "refused", "ehr_failed"} <= {
        event["event"] for event in events
    }
    captured = capfd.readouterr()
    everything = f"{events} {caplog.text} {captured.out} {captured.err}"
    forbidden = [*words, *secrets_of(clinic, person, codes)]
    assert [word for word in forbidden if word in everything] == []
    launches = {address.split("/")[2] for address in clinic.addresses if address.startswith("/launches/")}
    assert [launch for launch in launches if launch in everything] == []


def test_the_addresses_of_a_whole_journey_hold_nothing_of_the_patient(clinic, person):
    words = planted(clinic)
    a_whole_journey(clinic, person)
    assert len(clinic.addresses) > 15
    assert [word for word in words if any(word in address for address in clinic.addresses)] == []


def test_what_is_stored_holds_nothing_of_the_patient_and_no_secret_in_clear(clinic, person):
    words = planted(clinic)
    codes = a_whole_journey(clinic, person)
    stored = clinic.database()
    assert stored.startswith(b"SQLite format 3")
    forbidden = [*words, *secrets_of(clinic, person, codes), "pr-reyes", "97112", "cms-part-b"]
    assert [word for word in forbidden if word.encode() in stored] == []


def test_what_is_stored_can_be_looked_up_by_those_who_hold_the_keys_only(clinic, person):
    planted(clinic)
    a_whole_journey(clinic, person)
    with sqlite3.connect(clinic.folder / "quarterhour.sqlite3") as raw:
        sealed = [
            row[0] for row in raw.execute("SELECT sealed FROM audit UNION ALL SELECT sealed FROM decision")
        ]
    raw.close()
    assert len(sealed) > 5
    assert all(value.startswith(b"gAAAA") for value in sealed)  # Fernet's version byte, in base64
    assert CANARY.encode() in b"".join(
        map(clinic.installation.vault.open_bytes, sealed)
    )  # the reason entered


@pytest.mark.parametrize("spoilt", ["/fhir/*", "/oauth/token"])
def test_a_page_about_an_error_shows_no_secret_and_no_trace(clinic, person, spoilt):
    callback = person.callback_of("cms-ex1")
    clinic.sandbox.faults.add(Fault("html", path=spoilt, times=50))
    page = person.open(callback)
    assert page.status >= 400
    for word in ("Traceback", 'File "', callback.partition("code=")[2].partition("&")[0], "requests."):
        assert word not in page.html
