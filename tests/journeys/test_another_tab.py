"""A page that is still open while another tab of the same launch reads the chart again, and it has changed."""

from datetime import datetime, timedelta

import pytest

from quarterhour.plugin import database

TIE = "97112=2 97110=1"


def procedures(clinic, visit):
    encounter = {"reference": f"Encounter/{clinic.sandbox.scenario(visit).encounter}"}
    return [
        filed.resource
        for filed in clinic.sandbox.store.all("Procedure")
        if filed.resource.get("encounter") == encounter
    ]


def a_day_earlier(moment):
    return (datetime.fromisoformat(moment) - timedelta(days=1)).isoformat()


def document_the_day_before(clinic, visit):
    """The same services once more, a day earlier: that visit comes first now."""
    store = clinic.sandbox.store
    encounter = store.get("Encounter", clinic.sandbox.scenario(visit).encounter).resource
    store.put(
        {**encounter, "period": {**encounter["period"], "start": a_day_earlier(encounter["period"]["start"])}}
    )
    for procedure in procedures(clinic, visit):
        period = {end: a_day_earlier(at) for end, at in procedure["performedPeriod"].items()}
        store.put({**procedure, "id": f"{procedure['id']}-before", "performedPeriod": period})


def move_to_the_day_before(clinic, visit):
    """The visit of the open page is in the chart no more."""
    document_the_day_before(clinic, visit)
    for procedure in procedures(clinic, visit):
        if not procedure["id"].endswith("-before"):
            clinic.sandbox.store.put({**procedure, "status": "entered-in-error"})


def read_again(person, page):
    return person.open(f"{page.url.split('visits/')[0]}?again=1")


def days_with(clinic, table):
    with clinic.installation.engine.begin() as connection:
        return len(connection.execute(table.select()).all())


def test_answers_reach_the_visit_they_were_given_for_wherever_it_stands_now(clinic, person):
    page = person.launch("cms-ex2")
    document_the_day_before(clinic, "cms-ex2")
    choice = read_again(person, page)
    assert choice.text.count("Physical therapy") == 2
    after = person.press(page, "Recalculate", {"tie": TIE})
    assert after.url.endswith("/visits/2")
    assert "1 unit is still to be placed." not in after.text
    assert "1 unit is still to be placed." in person.open(after.url.replace("/visits/2", "/visits/1")).text
    assert days_with(clinic, database.draft) == 1


def test_a_visit_that_moved_is_signed_itself_and_its_charges_are_sent_again_and_corrected(clinic, person):
    page = person.launch("cms-ex1")
    day = clinic.sandbox.scenario("cms-ex1").date_of_service.isoformat()
    confirm = person.press(page, "Sign off…")
    document_the_day_before(clinic, "cms-ex1")
    read_again(person, page)
    receipt = person.press(confirm, "Sign off 2 charges")
    assert receipt.url.endswith("/visits/2/receipt")
    assert "Written." in receipt.text
    assert {item["occurrencePeriod"]["start"][:10] for item in clinic.written("cms-ex1")} == {day}
    again = person.press(receipt, "Correct", {"why": "Twelve minutes were the other code's."})
    assert again.url.endswith("/visits/2")
    assert "You are correcting signed charges" in again.text


def test_a_receipt_whose_visit_moves_when_the_correction_reads_the_chart_leads_to_that_visit(clinic, person):
    receipt = person.sign("cms-ex1")
    document_the_day_before(clinic, "cms-ex1")
    page = person.press(receipt, "Correct", {"why": "Twelve minutes were the other code's."})
    assert page.url.endswith("/visits/2")
    assert "You are correcting signed charges" in page.text


@pytest.mark.parametrize("fragment", [False, True], ids=["without JavaScript", "from review.js"])
def test_answers_for_a_visit_that_is_gone_change_nothing_and_the_page_leads_to_the_visits(
    clinic, person, fragment
):
    page = person.launch("cms-ex2")
    move_to_the_day_before(clinic, "cms-ex2")
    read_again(person, page)
    headers = {"X-Fragment": "1"} if fragment else {}
    refused = person.press(page, "Recalculate", {"tie": TIE}, headers=headers)
    assert refused.status == 409
    assert "X-Fragment" not in refused.answer.headers, "it has to be seen whole"
    assert "Nothing was changed." in refused.text
    assert "Nothing was lost" not in refused.text
    assert days_with(clinic, database.draft) == 0
    visits = person.open(refused.links["See the visits"])
    assert visits.status == 200
    assert "1 unit is still to be placed." in visits.text


def test_a_sign_off_of_a_visit_that_is_gone_signs_nothing(clinic, person):
    confirm = person.confirm("cms-ex1")
    move_to_the_day_before(clinic, "cms-ex1")
    read_again(person, confirm)
    assert person.press(confirm, "Sign off 2 charges").status == 409
    assert days_with(clinic, database.decision) == 0
    assert clinic.posts() == 0


@pytest.mark.parametrize("key", ["", "0" * 64, "another visit's"])
def test_a_form_that_names_no_visit_of_the_launch_changes_nothing(clinic, person, key):
    page = person.launch("cms-ex2")
    if key == "another visit's":
        key = dict(clinic.person().launch("cms-ex1").form_with("Recalculate")[1])["visit"]
    assert person.press(page, "Recalculate", {"tie": TIE, "visit": key}).status == 409
    assert days_with(clinic, database.draft) == 0


@pytest.mark.browser
def test_with_javascript_a_visit_that_moved_is_shown_whole_at_its_own_address(clinic, browser):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex2"))
    page.get_by_role("heading", name="For you to decide").wait_for()
    document_the_day_before(clinic, "cms-ex2")
    tab = browser.new_page()
    tab.goto(f"{page.url.split('visits/')[0]}?again=1")
    tab.get_by_role("heading", name="Which visit?").wait_for()
    page.get_by_role("radio", name="97112 × 2, 97110 × 1").check()
    page.wait_for_url("**/visits/2")
    assert page.get_by_role("radio", name="97112 × 2, 97110 × 1").is_checked()
    assert page.get_by_text("1 unit is still to be placed.").count() == 0
    page.goto(page.url.replace("/visits/2", "/visits/1"))
    assert not page.get_by_role("radio", name="97112 × 2, 97110 × 1").is_checked()
