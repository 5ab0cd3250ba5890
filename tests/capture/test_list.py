"""Captured visits as people find them: who sees them, what is marked, and what signing makes of them."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import event, select

from quarterhour.launch.context import Session
from quarterhour.plugin import database
from quarterhour.plugin import worklist as worklist_module
from quarterhour.plugin.capture import ask
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.roles import Role
from quarterhour.plugin.sessions import Opened
from quarterhour.plugin.worker import work_job
from quarterhour.plugin.worklist import MOST, Filters, Standing, Summary
from quarterhour.sandbox.faults import Fault


def capture(office, *scenarios):
    here = office.installation
    issuer = next(iter(here.issuers))
    with here.engine.begin() as connection:
        for scenario in scenarios:
            ask(connection, here, issuer.iss, f"Encounter/{office.sandbox.scenario(scenario).encounter}")
    while work_job(here, jitter=lambda: 1.0) is not None:
        office.clock.forward(milliseconds=1)


def worklist(person, page, query=""):
    return person.open(re.match(r".*/launches/[^/]+", page.url)[0] + "/worklist" + query)


def put_services(office, scenario, **changed):
    encounter = {"reference": f"Encounter/{office.sandbox.scenario(scenario).encounter}"}
    for filed in office.sandbox.store.all("Procedure"):
        if filed.resource.get("encounter") == encounter:
            office.sandbox.store.put({**filed.resource, **changed})


@pytest.mark.parametrize(
    ("who", "sees"),
    [
        ("pr-reyes", {"Adams", "Larsen"}),  # furnished one of them, and administers
        ("pr-osei", {"Adams", "Larsen"}),  # bills
        ("pr-cole", set()),  # an assistant, who had no part in either
    ],
)
def test_a_captured_visit_is_seen_by_whoever_bills_administers_or_furnished_it(office, who, sees):
    capture(office, "cms-ex1", "two-disciplines-ot")
    person = office.person()
    page = person.launch("cms-ex3", user=who)
    text = worklist(person, page).text
    assert {name for name in ("Adams", "Larsen") if name in text} == sees


def test_a_therapist_sees_what_they_furnished_before_they_ever_opened_it(office):
    capture(office, "assistant", "cms-ex1")
    cole = office.person()
    page = cole.launch("cms-ex3", user="pr-cole")
    text = worklist(cole, page).text
    assert "Iversen" in text  # the assistant's own visit
    assert "not opened yet" in text
    assert "Adams" not in text


def test_the_therapist_opens_a_captured_visit_from_the_chart_and_finds_it_as_usual(office):
    capture(office, "cms-ex1")
    person = office.person()
    page = person.launch("cms-ex1")
    (row,) = re.findall(r"<tr><th scope=\"row\">.*?</tr>", worklist(person, page).html, re.DOTALL)
    assert "not opened yet" not in row
    assert "97112 × 2" in row
    receipt = person.press(person.press(page, "Sign off…"), "Sign off 2 charges")
    assert "Written." in receipt.text
    assert "Signed" in worklist(person, page, "?state=signed").text
    assert "Adams" not in worklist(person, page, "?state=waiting").text


def test_what_changed_since_somebody_looked_is_marked_until_somebody_looks_again(office):
    person = office.person()
    page = person.launch("cms-ex1")
    worklist(person, page)  # comes once what the page leaves for later is done
    put_services(office, "cms-ex1", status="entered-in-error")
    capture(office, "cms-ex1")
    text = worklist(person, page, "?state=closed").text
    assert "Changed: 97110: 23 min → nothing" in text
    assert "no such visit any more" in text
    assert "Adams" in worklist(person, page, "?state=undocumented").text  # what it is now
    put_services(office, "cms-ex1", status="completed")
    capture(office, "cms-ex1")
    assert "Changed:" not in worklist(person, page).text


def charged_elsewhere(office, scenario, code, units):
    known = office.sandbox.scenario(scenario)
    office.sandbox.store.put(
        {
            "resourceType": "ChargeItem",
            "id": f"elsewhere-{code}",
            "status": "billable",
            "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": code}]},
            "subject": {"reference": f"Patient/{known.patient}"},
            "context": {"reference": f"Encounter/{known.encounter}"},
            "occurrenceDateTime": known.date_of_service.isoformat(),
            "quantity": {"value": units},
        }
    )


def test_a_tab_from_before_does_not_open_a_visit_that_was_charged_elsewhere_since(office):
    person = office.person()
    page = person.launch("cms-ex1")
    charged_elsewhere(office, "cms-ex1", "97112", 2)
    charged_elsewhere(office, "cms-ex1", "97110", 1)
    office.clock.forward(minutes=1)
    capture(office, "cms-ex1")
    person.press(page, "Recalculate")
    assert "Adams" in worklist(person, page, "?state=closed").text
    assert "Adams" not in worklist(person, page, "?state=waiting").text
    office.clock.forward(minutes=1)
    office.sandbox.store.remove("ChargeItem", "elsewhere-97112")
    person.launch("cms-ex1")  # what is read now is newer, whoever reads it
    assert "Adams" in worklist(person, page, "?state=waiting").text


def test_a_tab_from_before_still_tells_what_was_settled_in_it_where_the_chart_is_the_same(office):
    person = office.person()
    page = person.launch("cms-ex1")
    assert "97112 × 2" in worklist(person, page).html
    office.clock.forward(minutes=1)
    capture(office, "cms-ex1")
    reference = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("out:"))
    person.press(page, "Recalculate", {reference: "Not furnished."})
    assert "97112 × 2" not in worklist(person, page).html


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error"])
def test_a_cancelled_visit_is_closed_whoever_finds_it_so(office, status):
    encounter = office.sandbox.scenario("cms-ex1").encounter
    filed = office.sandbox.store.get("Encounter", encounter).resource
    office.sandbox.store.put({**filed, "status": status})
    person = office.person()
    page = person.launch("cms-ex1")
    text = worklist(person, page, "?state=closed").text
    assert "Adams" in text
    assert "no such visit any more" in text
    assert "Adams" not in worklist(person, page, "?state=waiting").text


def test_a_tab_from_before_does_not_open_a_visit_that_was_cancelled_since(office):
    person = office.person()
    page = person.launch("cms-ex1")
    worklist(person, page)  # comes once what the page leaves for later is done
    encounter = office.sandbox.scenario("cms-ex1").encounter
    filed = office.sandbox.store.get("Encounter", encounter).resource
    office.sandbox.store.put({**filed, "status": "cancelled"})
    office.clock.forward(minutes=1)
    capture(office, "cms-ex1")
    person.press(page, "Recalculate")
    assert "Adams" in worklist(person, page, "?state=closed").text
    office.sandbox.store.put(filed)
    office.clock.forward(minutes=1)
    capture(office, "cms-ex1")
    assert "Adams" in worklist(person, page, "?state=waiting").text


def test_a_signed_visit_is_never_touched_and_says_that_its_chart_changed(office):
    person = office.person()
    receipt = person.sign("cms-ex1")
    written = office.written("cms-ex1")
    capture(office, "cms-ex1")
    assert "Adams" in worklist(person, receipt, "?state=signed").text  # our own charges are no change
    first = next(
        filed.resource
        for filed in office.sandbox.store.all("Procedure")
        if filed.resource["id"] == "proc-cms-ex1-2"
    )
    office.sandbox.store.put({**first, "status": "entered-in-error"})
    capture(office, "cms-ex1")
    listed = worklist(person, receipt, "?state=changed")
    assert "Since it was signed, 97110: 23 min → nothing" in listed.text
    assert office.written("cms-ex1") == written
    history = person.open(next(href for said, href in listed.links.items() if "Adams" in said))
    assert "The chart changed after the visit was signed." in history.text


def test_what_was_signed_for_the_day_s_other_visit_is_not_suggested_again(an_office, tmp_path):
    """Also where no ChargeItem tells of it, as it left in a file."""
    (tmp_path / MARK).touch()
    office = an_office(writing=f'way = "csv"\nfolder = "{tmp_path}"')
    office.sandbox.store._filed["ChargeItem"].clear()
    capture(office, "second-visit")
    person = office.person()
    page = person.launch("cms-ex3")
    assert "Moreau" in worklist(person, page, "?state=waiting").text
    person.sign("first-visit-charged")
    capture(office, "second-visit")
    assert "Moreau" not in worklist(person, page, "?state=waiting").text
    assert "Moreau" in worklist(person, page, "?state=charged").text


def test_a_visit_that_could_not_be_read_is_found_with_its_reason(office):
    office.sandbox.faults.add(
        Fault("status", status=403, method="GET", path="/fhir/Encounter/enc-cms-ex4", times=99)
    )
    capture(office, "cms-ex4")
    person = office.person()
    page = person.launch("cms-ex3")
    listed = worklist(person, page, "?state=unread")
    assert "Date not known" in listed.text
    assert "does not allow us to use Encounter" in listed.text
    opened = person.open(next(href for said, href in listed.links.items() if "could not be read" in said))
    assert "date not known" in opened.text


def test_late_visits_are_to_be_signed_too_and_can_be_asked_for_alone(office):
    capture(office, "cms-ex1")
    office.clock.forward(days=5)
    person = office.person()
    page = person.launch("cms-ex3")
    assert "Adams" in worklist(person, page, "?state=waiting").text
    assert "Adams" in worklist(person, page, "?state=late").text
    assert "Late to be signed" in worklist(person, page).text


def test_no_number_of_visits_that_are_done_hides_one_that_waits(office):
    capture(office, "cms-ex1")
    table = database.known_visit
    with office.installation.engine.begin() as connection:
        (row,) = connection.execute(select(table)).mappings()
        later = row["seen_at"] + timedelta(hours=1)
        done = [
            {**row, "visit": f"{number:064x}", "seen_at": later, "closed": 1} for number in range(MOST + 1)
        ]
        connection.execute(table.insert(), done)
        connection.execute(
            table.update().where(table.c.visit != row["visit"]).values(sealed=closed(office, row))
        )
    person = office.person()
    text = worklist(person, person.launch("cms-ex3"), "?state=waiting").text
    assert "Adams" in text
    assert "2 visits" in text
    assert "older ones were not looked through" in text


@pytest.mark.parametrize("user", ["pr-osei", "pr-cole"])
def test_a_page_of_the_list_holds_up_nobody_who_signs_and_reads_nothing_of_other_visits(office, user):
    """A biller's, who sees all, and a person's own; beside a writer, who holds SQLite's lock."""
    capture(office, "cms-ex1", "assistant")
    person = office.person()
    # What a launch's first page reads is kept after it went out; its second is not there before it is kept.
    page = person.open(person.launch("cms-ex3", user=user).url)
    engine = office.installation.engine
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    with ThreadPoolExecutor(1) as browser, engine.begin() as connection:
        connection.execute(database.draft.delete())
        reading = browser.submit(found_by, office, page)
        assert reading.result(timeout=10).total > 0
    with database.reading(engine) as connection:
        for statement, given in [one for one in asked if one[0].startswith("SELECT")]:
            steps = [
                row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            ]
            assert not [step for step in steps if re.match(r"SCAN (known_visit|decision|charge|draft)", step)]


def found_by(office, page):
    """The list of whoever has this page open, as the page reads it."""
    here = office.installation
    table = database.launch
    with database.reading(here.engine) as connection:
        row = connection.execute(
            select(table).where(table.c.id == re.search(r"launches/([^/]+)", page.url)[1])
        ).one()
    session = Session.from_json(here.vault.open_bytes(row.session))
    roles = frozenset(here.vault.open(row.roles, list[Role]))
    issuer = next(iter(here.issuers))
    return worklist_module.found(here, Opened(row.id, issuer, session, row.person, roles=roles), Filters())


def closed(office, row):
    vault = office.installation.vault
    summary = vault.open(row["sealed"], Summary)
    return vault.seal(msgspec.structs.replace(summary, standing=Standing.CHARGED, patient="Somebody Done"))


# --- administration -----------------------------------------------------------------------------------------


def administration(person, page):
    return person.open(re.match(r".*/launches/[^/]+", page.url)[0] + "/administration/")


@pytest.fixture
def given_up(office):
    """A visit that was given up: the EHR does not let us read it."""
    office.sandbox.faults.add(
        Fault("status", status=403, method="GET", path="/fhir/Encounter/enc-cms-ex4", times=99)
    )
    capture(office, "cms-ex4")
    office.sandbox.faults.clear()
    return office


def test_what_was_given_up_stands_in_administration_and_is_tried_again_by_a_button(given_up):
    person = given_up.person()
    page = administration(person, person.launch("cms-ex3"))
    assert "Visit Encounter/enc-cms-ex4" in page.text
    assert "does not allow us to use Encounter" in page.text
    again = person.press(page, "Try again : Visit Encounter/enc-cms-ex4")
    assert "Nothing was given up." in again.text
    assert "1 job of Sandbox EHR waiting; the oldest that is due has waited since 17:00 UTC" in again.text
    assert "jobs-tried-again" in person.open(page.links["Audit trail"]).text
    capture(given_up)
    assert "Duarte" in worklist(person, page, "?state=waiting").text


def test_all_that_was_given_up_is_tried_again_at_once(given_up):
    person = given_up.person()
    page = administration(person, person.launch("cms-ex3"))
    assert "Nothing was given up." in person.press(page, "Try all of them again").text


def test_nobody_but_administrators_tries_again_and_no_other_site_s_page_does(given_up):
    person = given_up.person()
    page = administration(person, person.launch("cms-ex3"))
    address, fields = page.form_with("Try all of them again")
    without_token = [(name, value) for name, value in fields if name != "csrf_token"]
    assert person.http.post(address, data=without_token, timeout=30).status_code == 400
    biller = given_up.person()
    theirs = biller.launch("cms-ex3", user="pr-osei")
    forbidden = address.replace(
        re.search(r"/launches/([^/]+)", address)[1], re.search(r"/launches/([^/]+)", theirs.url)[1]
    )
    token = re.search(r'name="csrf_token" value="([^"]+)"', theirs.html)[1]
    answer = biller.http.post(forbidden, data={"go": "all", "csrf_token": token}, timeout=30)
    assert answer.status_code == 403
    assert "Visit Encounter/enc-cms-ex4" in administration(person, page).text
