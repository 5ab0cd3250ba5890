"""Launches without a visit, and without a patient (checklist 49, 50), over real HTTP."""

import pytest

from quarterhour.plugin import database
from quarterhour.sandbox.quirks import Quirks


def test_50_without_an_encounter_the_patients_recent_visits_are_offered(site, person):
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    assert page.heading == "Which visit?"
    assert 'value="enc-cms-ex1"' in page.html


def test_50_the_chosen_visit_is_reviewed_and_signed(site, person):
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    review = person.submit(page, "/encounters", encounter="enc-cms-ex1")
    assert person.sign(review).heading.startswith("Signed off")
    assert {each["context"]["reference"] for each in site.sandbox.charge_items("cms-ex1")} == {
        "Encounter/enc-cms-ex1"
    }


def test_50_the_choice_is_kept_on_the_server_with_the_launch(site, person):
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    person.submit(page, "/encounters", encounter="enc-cms-ex1")
    again = person.get(f"/launches/{page.launch_id}/")
    assert "97112" in again.text
    (row,) = site.rows(database.launch)
    assert site.installation.vault.open(row.encounter) == "enc-cms-ex1"


def test_50_another_patients_visit_cannot_be_chosen(site, person):
    other = next(
        each for each in site.sandbox.scenarios if each.patient != site.sandbox.scenario("cms-ex1").patient
    )
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    refused = person.submit(page, "/encounters", encounter=other.encounter)
    assert refused.status >= 400
    (row,) = site.rows(database.launch)
    assert row.encounter is None
    assert row.chart is None
    assert f'value="{other.encounter}"' not in page.html


@pytest.mark.parametrize(
    "nonsense", ["", "../Patient/1", "a" * 65, "enc cms", "Encounter/enc-cms-ex1", "%2e%2e"]
)
def test_50_what_is_no_id_is_not_asked_for(site, person, nonsense):
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    before = len(site.ehr_side)
    refused = person.submit(page, "/encounters", encounter=nonsense)
    assert refused.status == 400
    assert "Choose one from the list" in refused.text
    assert len(site.ehr_side) == before


def test_50_a_launch_is_about_one_visit_and_does_not_change_it(site, person):
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    person.submit(page, "/encounters", encounter="enc-cms-ex1")
    again = person.submit(page, "/encounters", encounter="enc-cms-ex1")
    assert again.status == 400
    assert "already has its visit" in again.text


def test_50_a_launch_that_came_with_a_visit_takes_no_other(site, person):
    page = person.launch("cms-ex1")
    offered = person.get(f"/launches/{page.launch_id}/encounters")
    assert offered.url.endswith(f"/launches/{page.launch_id}/")


def test_50_where_there_is_no_recent_visit_the_page_says_what_to_do(site, person):
    site.clock.forward(days=60)
    page = person.get(site.launch_url("cms-ex1", encounter=False))
    assert "shows no visit of this patient in the last 30 days" in page.text


def test_49_without_a_patient_the_page_says_what_to_do(site, person):
    page = person.get(site.launch_url("cms-ex1", patient=False))
    assert page.status == 400
    assert "without saying for which patient" in page.text
    assert "What you can do:" in page.text


def test_24_a_standalone_launch_ends_at_the_review_of_the_chosen_visit(site, person):
    scenario = site.sandbox.scenario("cms-ex1")
    page = person.standalone(patient=scenario.patient, encounter=scenario.encounter)
    assert person.sign(page).heading.startswith("Signed off")
    asked = site.asked("/oauth/authorize/choose")[0].params
    assert "launch" not in asked
    assert "launch/patient" in asked["scope"][0].split()


def test_24_a_standalone_launch_without_a_visit_offers_them(a_site):
    site = a_site(quirks=Quirks(no_encounter_context=True))
    page = site.person().standalone(patient=site.sandbox.scenario("cms-ex1").patient)
    assert page.heading == "Which visit?"
    assert "launch/encounter" not in site.asked("/oauth/authorize/choose")[0].params["scope"][0].split()


def test_24_our_own_page_offers_every_ehr_to_sign_in_at(site, person):
    assert "Sandbox EHR" in person.get("/").text
