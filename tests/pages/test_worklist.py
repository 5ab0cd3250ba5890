"""The worklist, the history of a visit, and administration: who sees what, and that places are found again."""

import json
import re
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import select, update

from quarterhour.plugin import database, history
from quarterhour.sandbox.authorization import Authorized
from quarterhour.sandbox.faults import Fault


def launched(clinic, visit: str, **who):
    person = clinic.person()
    return person, person.launch(visit, **who)


def launch_of(page) -> str:
    return re.match(r".*/launches/[^/]+", page.url)[0]


def listed(person, page, query: str = ""):
    return person.open(launch_of(page) + "/worklist" + query)


def test_a_visit_is_on_the_list_once_it_was_opened_and_moves_from_waiting_to_signed(clinic, person):
    page = person.launch("cms-ex1")
    person.launch("cms-ex3")
    waiting = listed(person, page, "?state=waiting")
    assert "Adams" in waiting.text
    assert "Castillo" in waiting.text
    person.sign("cms-ex1")
    assert "Adams" not in listed(person, page, "?state=waiting").text
    assert "Adams" in listed(person, page, "?state=signed").text
    assert "Castillo" not in listed(person, page, "?state=signed").text


def test_a_charge_that_was_not_written_makes_its_visit_stuck(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=422, times=9, method="POST", path="/fhir/*"))
    receipt = person.sign("cms-ex1")
    assert "Adams" in listed(person, receipt, "?state=stuck").text
    assert "Adams" not in listed(person, receipt, "?state=signed").text


@pytest.mark.parametrize(
    ("query", "there"),
    [
        ("?discipline=OT", ["Larsen"]),
        ("?discipline=PT", ["Adams", "Kowalski"]),
        ("?weight=critical", ["Kowalski"]),
        ("?since=2026-11-20", ["Adams"]),
        ("?until=2026-11-19", ["Kowalski", "Larsen"]),
        ("?therapist=Practitioner/pr-osei", ["Larsen"]),
        ("?state=nonsense&since=tomorrow&page=-3", ["Adams", "Kowalski", "Larsen"]),
    ],
)
def test_the_list_is_narrowed_by_the_address_and_nonsense_in_it_narrows_nothing(clinic, person, query, there):
    page = person.launch("cms-ex1")
    person.launch("missing-minutes")
    person.launch("two-disciplines-ot", user="pr-reyes")
    text = listed(person, page, query).text
    assert [name for name in ("Adams", "Kowalski", "Larsen") if name in text] == there


def test_nobody_but_billers_and_administrators_sees_the_visits_of_others(clinic):
    _reyes, page = launched(clinic, "cms-ex1")
    cole, theirs = launched(clinic, "cms-ex3", user="pr-cole")  # an assistant
    text = listed(cole, theirs).text
    assert "Castillo" in text
    assert "Adams" not in text
    adams = next(row for row in listed(_reyes, page).html.split("<tr>") if "Adams" in row)
    visit = re.search(r"/worklist/([0-9a-f]{64})", adams)[1]
    assert cole.open(launch_of(theirs) + f"/worklist/{visit}").status == 404
    biller, theirs = launched(clinic, "cms-ex4", user="pr-osei")
    assert "Adams" in listed(biller, theirs).text


def test_therapists_are_chosen_by_their_names(clinic, person):
    page = person.launch("cms-ex1")
    options = re.findall(r'<option value="(Practitioner/[^"]+)">([^<]+)<', listed(person, page).html)
    assert options == [("Practitioner/pr-reyes", "Dana Reyes, PT")]


def test_addresses_of_the_list_name_no_patient(clinic, person):
    page = person.launch("cms-ex1")
    listed(person, page, "?state=waiting&page=1")
    for address in clinic.addresses:
        assert "Adams" not in address
        assert "pat-adams" not in address


def test_a_visit_that_is_open_here_leads_to_its_review_and_back_to_the_same_place(clinic, person):
    page = person.launch("cms-ex1")
    there = listed(person, page, "?state=waiting&weight=none")
    opened = person.open(next(href for said, href in there.links.items() if "Adams" in said))
    assert launch_of(opened) == launch_of(page)
    assert opened.heading == page.heading
    back = person.open(opened.links["Worklist"])
    assert "state=waiting" in back.url
    assert "weight=none" in back.url


def test_a_visit_that_is_open_nowhere_says_how_to_go_on(clinic, person):
    person.launch("cms-ex1")
    other, page = launched(clinic, "cms-ex3", user="pr-reyes")  # another browser
    there = listed(other, page)
    opened = other.open(next(href for said, href in there.links.items() if "Adams" in said))
    assert opened.heading.startswith("History:")
    assert "Or open the visit in Sandbox EHR, and Quarterhour from there." in opened.text


def towards(other, page, name: str) -> str:
    """Where the way forward from the history of a visit leads that is open nowhere."""
    there = listed(other, page)
    opened = other.open(next(href for said, href in there.links.items() if name in said))
    return next(href for said, href in opened.links.items() if said.startswith("Sign in and open it"))


def signed_in(clinic, other, address: str, patient: str, user: str = "pr-reyes"):
    """What the EHR's own page does once somebody chose a patient in it."""
    asked = other.http.get(clinic.app_url + address, allow_redirects=False).headers["Location"]
    chosen = asked.replace("/oauth/authorize?", "/oauth/authorize/choose?")
    back = other.http.post(chosen, data={"user": user, "patient": patient}, allow_redirects=False)
    return other.open(back.headers["Location"])


def test_from_a_visit_that_is_open_nowhere_a_sign_in_leads_to_it(clinic, person):
    person.launch("cms-ex1")
    other, page = launched(clinic, "cms-ex3", user="pr-reyes")
    address = towards(other, page, "Adams")
    assert "adams" not in address
    review = signed_in(clinic, other, address, "pat-adams")
    assert review.heading == person.launch("cms-ex1").heading
    assert "97112" in review.text
    assert other.open(review.url).heading == review.heading


def test_of_a_patient_with_two_visits_the_one_it_started_from_is_opened(clinic, person):
    pt, ot = person.launch("two-disciplines-pt"), person.launch("two-disciplines-ot", user="pr-reyes")
    assert pt.heading != ot.heading
    other, page = launched(clinic, "cms-ex3", user="pr-reyes")
    there = listed(other, page, "?discipline=OT")
    opened = other.open(next(href for said, href in there.links.items() if "Larsen" in said))
    address = next(href for said, href in opened.links.items() if said.startswith("Sign in"))
    assert signed_in(clinic, other, address, "pat-larsen").heading == ot.heading


def test_with_another_patient_chosen_there_nothing_is_opened_and_it_says_why(clinic, person):
    person.launch("cms-ex1")
    other, page = launched(clinic, "cms-ex3", user="pr-reyes")
    wrong = signed_in(clinic, other, towards(other, page, "Adams"), "pat-duarte")
    assert wrong.heading == "Which visit?"
    assert "This is not the patient of the visit that you came from" in wrong.text
    assert "This is not the patient" not in other.open(wrong.url).text  # said once


def test_a_visit_that_somebody_may_not_see_is_not_opened_by_its_address(clinic, person):
    page = person.launch("cms-ex1")
    visit = re.search(r"/worklist/([0-9a-f]{64})", listed(person, page).html)[1]
    iss = quote(clinic.sandbox.fhir_url, safe="")
    arrived = signed_in(clinic, clinic.person(), f"/start?iss={iss}&visit={visit}", "pat-adams", "pr-cole")
    assert arrived.heading == "Which visit?"  # as any sign-in with that patient


def test_a_sign_in_that_was_given_up_leads_no_later_one_anywhere(clinic, person):
    person.launch("cms-ex1")
    other, page = launched(clinic, "cms-ex3", user="pr-reyes")
    other.http.get(clinic.app_url + towards(other, page, "Adams"), allow_redirects=False)
    iss = quote(clinic.sandbox.fhir_url, safe="")
    assert signed_in(clinic, other, f"/start?iss={iss}", "pat-adams").heading == "Which visit?"


def test_the_list_is_paged(clinic, person):
    page = person.launch("cms-ex1")
    assert listed(person, page).text.count("Adams") > 0  # kept once the page was on its way
    with clinic.installation.engine.begin() as connection:
        (row,) = connection.execute(select(database.known_visit)).mappings()
        copies = [{**row, "visit": f"{number:064x}"} for number in range(59)]
        connection.execute(database.known_visit.insert(), copies)
    first = listed(person, page)
    assert "60 visits, page 1 of 3" in first.text
    last = person.open(person.open(first.links["Older visits"]).links["Older visits"])
    assert "page 3 of 3" in last.text
    assert last.html.count("/worklist/") == 10


def launched_without_a_patient(clinic, who: str):
    """A click on Quarterhour in the EHR's menu, with no chart open."""
    launch = clinic.sandbox.smart.launch(Authorized(f"Practitioner/{who}", None, None))
    client = clinic.sandbox.clients[0]
    person = clinic.person()
    query = urlencode({"iss": clinic.sandbox.fhir_url, "launch": launch})
    return person, person.open(f"{client.launch_url}?{query}")


def test_a_biller_who_comes_without_a_patient_arrives_at_the_worklist(clinic, person):
    person.launch("cms-ex1")
    listed(person, person.launch("cms-ex3"))  # comes once what the page leaves for later is done
    biller, page = launched_without_a_patient(clinic, "pr-osei")
    assert page.heading == "Worklist"
    assert "Adams" in page.text
    assert "Castillo" in page.text
    opened = biller.open(next(href for said, href in page.links.items() if "Adams" in said))
    assert opened.heading.startswith("History:")
    assert biller.open(opened.links["Back to the worklist"]).heading == "Worklist"


def test_a_therapist_who_comes_without_a_patient_is_told_to_open_one(clinic):
    _person, page = launched_without_a_patient(clinic, "pr-cole")
    assert "without saying for which patient" in page.text
    assert "Open a patient's visit in the EHR first" in page.text


# --- history --------------------------------------------------------------------------------------------------


def test_the_history_says_who_signed_what_under_which_terms_and_that_it_comes_out_the_same(clinic, person):
    receipt = person.sign("cms-ex1")
    page = person.open(receipt.links["History of this visit"])
    assert "Signed on 21 November 2026" in page.text
    assert "Calculated again today: exactly the same." in page.text
    assert "Minimum minutes, since 2000-04-01" in page.text


def test_a_decision_under_terms_that_changed_says_what_is_different_today(clinic, person):
    person.sign("cms-ex1")
    with clinic.installation.engine.begin() as connection:
        row = connection.execute(select(database.decision)).one()
    record = clinic.installation.vault.open(row.sealed)
    kept = json.loads(record["suggestion"])
    kept["lines"][0]["units"] += 1
    kept["engine"]["version"] = "0.0.1"
    again = history.calculated_again({**record, "suggestion": json.dumps(kept)}, clinic.installation.library)
    assert again.same is False
    assert again.differs[0] == "97112 GP: 3 units then, 2 today."
    assert any(says.startswith("Calculated by version 0.0.1 then") for says in again.differs)


def test_a_decision_whose_policy_is_gone_can_still_be_read(clinic, person):
    person.sign("cms-ex1")
    with clinic.installation.engine.begin() as connection:
        row = connection.execute(select(database.decision)).one()
    record = {**clinic.installation.vault.open(row.sealed), "policy": "gone"}
    again = history.calculated_again(record, clinic.installation.library)
    assert again.differs[0].startswith("No policy 'gone'")


def test_a_decision_from_before_visits_were_kept_says_so(clinic):
    again = history.calculated_again({"suggestion": "{}", "answers": {}}, clinic.installation.library)
    assert (again.same, len(again.differs)) == (False, 1)


# --- administration -------------------------------------------------------------------------------------------


def administration(person, page, path: str = "/"):
    return person.open(launch_of(page) + "/administration" + path)


@pytest.mark.parametrize("who", ["pr-osei", "pr-cole"])
@pytest.mark.parametrize("path", ["/", "/audit"])
def test_administration_is_for_administrators(clinic, who, path):
    person, page = launched(clinic, "cms-ex1", user=who)
    refused = administration(person, page, path)
    assert refused.status == 403
    assert "Ask the administrator of Quarterhour to map you" in refused.text


def test_an_administrator_sees_issuers_policies_and_that_nothing_is_stuck(clinic, person):
    page = administration(person, person.launch("cms-ex1"))
    assert "None. Every signed charge of Sandbox EHR is where it belongs." in page.text
    assert "America/New_York" in page.text
    assert "Medicare Part B outpatient therapy" in page.text
    assert "its configuration was read just now" in person.open(page.links["Ask it now : Sandbox EHR"]).text


def test_a_refused_charge_is_tried_again_from_there(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=422, times=9, method="POST", path="/fhir/*"))
    receipt = person.sign("cms-ex1")
    clinic.sandbox.faults.clear()
    page = administration(person, receipt)
    assert page.text.count("Refused by the EHR") == 2
    page = person.press(page, "Try again 97112")
    assert "None. Every signed charge" in page.text
    assert clinic.charged("cms-ex1") == {"97112": 2, "97110": 1}


def test_the_trail_is_searched_and_verified_and_a_changed_entry_is_found(clinic, person):
    receipt = person.sign("cms-ex1")
    page = administration(person, receipt, "/audit?verify=1&action=signed")
    assert "The trail is whole" in page.text
    assert "1 entry" in page.text
    with clinic.installation.engine.begin() as connection:
        connection.execute(
            update(database.audit).where(database.audit.c.number == 2).values(action="nothing")
        )
    assert "The trail is broken at entry 2" in administration(person, receipt, "/audit?verify=1").text
