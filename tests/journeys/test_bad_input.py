"""Bad input has its own page or message, and loses nothing."""

from urllib.parse import quote, urlencode

import pytest

from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

KEPT = "Nothing was lost: what you settled so far is kept"


def test_an_unknown_issuer_is_refused_and_no_request_is_made_at_all(clinic, person, wire):
    page = person.open(f"/launch?{urlencode({'iss': 'https://ehr.invalid/fhir', 'launch': 'x'})}")
    assert page.status == 403
    assert page.heading == "Quarterhour could not be opened"
    assert KEPT in page.text
    assert clinic.sandbox.requests() == []
    app_port = int(clinic.app_url.rpartition(":")[2])
    assert wire.ports == {app_port}  # the person's own
    assert set(wire.names) <= {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "near",
    ["/fhir/", "/FHIR", "/fhir?x=1", "/fhir#x", "/fhir/..", "@evil.invalid/fhir", ".evil.invalid/fhir"],
)
def test_an_issuer_that_only_resembles_a_configured_one_reaches_no_other_host(clinic, person, wire, near):
    address = f"/launch?{urlencode({'iss': clinic.ehr_url + near, 'launch': 'x'})}"
    page = person.open(address, allow_redirects=False)
    assert page.status in {302, 400, 403}
    if page.status == 302:  # the trailing slash alone may be the same server
        assert near == "/fhir/"
        assert page.answer.headers["Location"].startswith(f"{clinic.ehr_url}/oauth/authorize?")
    else:
        assert clinic.sandbox.requests() == []
    assert set(wire.names) <= {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("launch=x", "without saying iss"),
        ("iss={iss}", "without saying launch"),
        ("iss={iss}&launch=", "without saying launch"),
        ("iss={iss}&iss={iss}&launch=x", "The parameter iss was given 2 times"),
        ("iss={iss}&launch=x&launch=y", "The parameter launch was given 2 times"),
        ("iss={iss}&launch=" + "x" * 5000, "Quarterhour could not be opened"),
    ],
    ids=["no-iss", "no-launch", "empty-launch", "two-iss", "two-launch", "endless-launch"],
)
def test_a_launch_with_missing_or_doubled_parameters_says_which(clinic, person, query, says):
    page = person.open("/launch?" + query.format(iss=quote(f"{clinic.ehr_url}/fhir", safe="")))
    assert page.status == 400
    assert says in page.text
    assert clinic.sandbox.requests() == []


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda url: url.partition("?")[0],
        lambda url: url.replace("state=", "state=x"),
        lambda url: url.replace("state=", "other="),
        lambda url: f"{url}&state=second",
        lambda url: f"{url}&code=second",
        lambda url: url.replace("code=", "other="),
    ],
    ids=["nothing", "wrong-state", "no-state", "two-states", "two-codes", "no-code"],
)
def test_a_callback_that_is_not_whole_opens_nothing_and_asks_for_no_token(clinic, person, spoilt):
    callback = person.callback_of("cms-ex1")
    page = person.open(spoilt(callback))
    assert page.status == 400
    assert page.heading == "Quarterhour could not be opened"
    assert KEPT in page.text
    assert clinic.sandbox.requests("POST", "/oauth/token") == []


def test_a_replayed_callback_is_refused_and_the_first_one_s_page_goes_on(clinic, person):
    callback = person.callback_of("cms-ex1")
    first = person.open(callback)
    replayed = person.open(callback)
    assert (first.status, replayed.status) == (200, 400)
    assert "belongs to no launch that is waiting" in replayed.text
    assert len(clinic.sandbox.requests("POST", "/oauth/token")) == 1
    assert person.open(first.url).status == 200


def test_a_callback_in_another_browser_than_the_launch_s_is_refused(clinic, person):
    callback = person.callback_of("cms-ex1")
    other = clinic.person()
    other.callback_of("cms-ex3")  # has a cookie of its own
    assert other.open(callback).status == 400
    assert clinic.sandbox.requests("POST", "/oauth/token") == []


def test_a_sign_in_that_took_longer_than_ten_minutes_is_refused(clinic, person):
    callback = person.callback_of("cms-ex1")
    clinic.clock.forward(minutes=10, seconds=1)
    assert person.open(callback).status == 400
    assert clinic.sandbox.requests("POST", "/oauth/token") == []


def test_where_the_person_refuses_at_the_ehr_the_page_says_so(clinic, person):
    chooser = person.open(f"/start?{urlencode({'iss': f'{clinic.ehr_url}/fhir'})}")
    assert chooser.heading == "Open an app"
    refused = person.press(chooser, "Deny")
    assert refused.status == 403
    assert "access_denied" in refused.text
    assert KEPT in refused.text


def test_without_the_scopes_to_read_the_visit_the_page_names_what_the_ehr_withheld(a_clinic):
    clinic = a_clinic(quirks=Quirks(withheld_scopes=("patient/Procedure.rs",)))
    page = clinic.person().launch("cms-ex1")
    assert page.status == 403
    assert "Procedure" in page.text


def test_without_the_scope_to_write_charges_the_review_says_so_before_anything_is_signed(a_clinic):
    clinic = a_clinic(quirks=Quirks(withheld_scopes=("user/ChargeItem.cu",)))
    page = clinic.person().launch("cms-ex1")
    assert page.status == 200
    assert "Sandbox EHR did not grant Quarterhour to write ChargeItem" in page.text


def test_with_every_scope_granted_no_page_speaks_of_scopes(clinic, person):
    assert "did not grant" not in person.launch("cms-ex1").text


def test_a_launch_without_a_visit_asks_which(a_clinic):
    clinic = a_clinic(quirks=Quirks(no_encounter_context=True))
    page = clinic.person().launch("cms-ex1")
    assert page.heading == "Which visit?"
    assert page.status == 200


# --- sessions ------------------------------------------------------------------------------------------------


def test_a_session_unused_for_thirty_minutes_is_open_and_a_second_later_has_ended(clinic, person):
    page = person.launch("cms-ex2")
    clinic.clock.forward(minutes=30)
    assert person.open(page.url).status == 200
    clinic.clock.forward(minutes=30, seconds=1)
    ended = person.open(page.url)
    assert ended.status == 401
    assert "Your session has ended." in ended.text
    assert KEPT in ended.text


def test_a_session_in_use_ends_after_its_hours_all_the_same(a_clinic):
    clinic = a_clinic(quirks=Quirks(token_seconds=100_000), session_hours=1)
    person = clinic.person()
    page = person.launch("cms-ex1")
    for _ in range(3):
        clinic.clock.forward(minutes=20)
        assert person.open(page.url).status == 200
    clinic.clock.forward(seconds=1)
    assert person.open(page.url).status == 401


def test_what_was_settled_before_the_session_ended_is_there_after_a_relaunch(clinic, person):
    page = person.launch("cms-ex2")
    person.press(page, "Recalculate", {"tie": "97112=1 97110=2"})
    clinic.clock.forward(hours=13)
    assert person.open(page.url).status == 401
    again = person.press(person.launch("cms-ex2"), "Sign off…")
    assert again.heading.startswith("Sign off:")


def test_a_form_sent_after_the_session_ended_writes_nothing_and_says_so(clinic, person):
    confirm = person.confirm("cms-ex1")
    clinic.clock.forward(hours=2)
    page = person.press(confirm, "Sign off 2 charges")
    assert page.status == 401
    assert clinic.charged("cms-ex1") == {}


def test_a_token_that_the_ehr_took_back_leads_to_the_page_that_says_so(clinic, person):
    page = person.launch("cms-ex1")
    for token in clinic.sandbox.smart.issued.tokens.values():
        token.revoked = True
    again = person.press(page, "Read the chart again")
    assert again.status == 401
    assert "Your session at the EHR has ended" in again.heading
    assert KEPT in again.text


# --- the EHR's server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", path="/fhir/Procedure*", status=500, times=20),
        Fault("status", path="/fhir/Encounter*", status=503, times=20),
        Fault("drop", path="/fhir/*", times=100),
        Fault("html", path="/fhir/Procedure*", times=20),
        Fault("truncate", path="/fhir/Procedure*", times=20),
    ],
    ids=["500", "503", "dropped", "a proxy's page", "cut short"],
)
def test_an_ehr_that_fails_after_sign_in_has_a_page_that_can_be_tried_again(clinic, person, fault):
    callback = person.callback_of("cms-ex1")
    clinic.sandbox.faults.add(fault)
    page = person.open(callback)
    assert page.status == 502
    assert page.heading == "The EHR did not answer as it should"
    assert KEPT in page.text
    clinic.sandbox.faults.clear()
    again = person.open(page.links["Try again"])
    assert again.status == 200
    assert "97112" in again.text


def test_one_failed_read_is_tried_again_without_troubling_anybody(clinic, person):
    callback = person.callback_of("cms-ex1")
    clinic.sandbox.faults.add(Fault("status", path="/fhir/Procedure*", status=503))
    assert person.open(callback).status == 200


def test_an_ehr_slower_than_the_configured_time_has_a_page_of_its_own(a_clinic):
    clinic = a_clinic(read_timeout=0.3)
    person = clinic.person()
    callback = person.callback_of("cms-ex1")
    clinic.sandbox.faults.add(Fault("delay", path="/fhir/Procedure*", seconds=0.8, times=9))
    page = person.open(callback)
    assert page.status == 502
    assert "in time" in page.text


@pytest.mark.parametrize("path", ["/fhir/.well-known/*", "/oauth/token"])
def test_an_ehr_that_is_down_while_signing_in_has_a_page_of_its_own(clinic, person, path):
    clinic.sandbox.faults.add(Fault("status", path=path, status=503, times=20))
    page = person.launch("cms-ex1")
    assert page.status == 503
    assert page.heading == "Quarterhour could not be opened"
    assert KEPT in page.text


# --- the chart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visit", "says"),
    [
        ("problem-no-code", "Wall slides"),
        ("problem-no-time", "97140"),
        ("problem-end-before-start", "end"),
        ("problem-future", "future"),
        ("problem-other-patient", "is not this patient's"),
        ("missing-minutes", "97140 Manual therapy: how many minutes?"),
    ],
)
def test_a_service_that_cannot_be_counted_is_told_and_not_dropped(person, visit, says):
    page = person.launch(visit)
    assert page.status == 200
    assert says in page.text


@pytest.mark.parametrize("visit", ["problem-no-time", "problem-end-before-start", "missing-minutes"])
def test_without_minutes_there_is_no_sign_off_and_nothing_is_guessed(clinic, person, visit):
    page = person.press(person.launch(visit), "Sign off…")
    assert page.heading.startswith(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"))
    assert "Minutes are missing for 97140" in page.text
    assert clinic.posts() == 0


def test_another_patient_s_service_is_charged_to_nobody(clinic, person):
    page = person.launch("problem-other-patient")
    notes = dict.fromkeys(_asked_reasons(page), "Told the front desk.")
    receipt = person.sign("problem-other-patient", notes)
    assert receipt.heading.startswith("Signed off:")
    assert clinic.charged("problem-other-patient") == {"97110": 1}  # 16 minutes; not the other's 20
    assert clinic.charged("cms-ex1") == {}


def test_a_visit_with_nothing_documented_says_so(person):
    page = person.launch("problem-no-services")
    assert page.status == 200
    assert page.heading == "Nothing to count yet"


def test_hostile_text_from_the_chart_is_shown_as_text(person):
    page = person.launch("problem-hostile-text")
    assert page.status == 200
    assert "<script>alert('given')</script>" in page.text  # as words
    assert page.elements.count("script") == 1  # our own
    assert "img" not in page.elements
    assert "49" not in page.text  # {{ 7*7 }} was not carried out


def test_hostile_text_in_an_address_is_shown_as_text(clinic, person):
    callback = person.callback_of("cms-ex1")
    state = callback.partition("state=")[2].partition("&")[0]
    words = {"error": "access_denied", "error_description": "<script>alert(1)</script>", "state": state}
    page = person.open(f"/callback?{urlencode(words)}")
    assert page.status in {400, 403}
    assert "script" not in page.elements


def test_a_form_from_another_site_is_not_carried_out(clinic, person):
    confirm = person.confirm("cms-ex1")
    address, fields = confirm.form_with("Sign off 2 charges")
    for headers in ({"Origin": clinic.ehr_url}, {"Sec-Fetch-Site": "cross-site"}):
        assert person.http.post(address, data=fields, headers=headers, timeout=30).status_code == 403
    unmarked = [(name, value) for name, value in fields if name != "csrf_token"]
    assert person.http.post(address, data=unmarked, timeout=30).status_code == 400
    assert clinic.posts() == 0


@pytest.mark.parametrize("path", ["/nowhere", "/launches/x/", "/launches/x/visits/1", "/callback/x"])
def test_an_address_that_leads_nowhere_has_a_page_and_never_a_trace(person, path):
    page = person.open(path)
    assert page.status in {401, 404}
    assert "Traceback" not in page.text
    assert KEPT in page.text


def _asked_reasons(page):
    return [name for form in page.forms for name, _ in form["fields"] if name.startswith("note:")]
