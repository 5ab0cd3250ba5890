"""Two visits of one day count the same minutes: what is signed for the one comes off the other, whatever way it left."""

import csv
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from quarterhour.plugin import database, sign_off
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.same_day import index_older
from quarterhour.sandbox.faults import Fault

FIRST, SECOND = "first-visit-charged", "second-visit"
DAY = {"97110": 1, "97140": 1}  # 23 and 10 minutes: two units
BEFORE = "97110 × 1, 97140 × 1: signed in Quarterhour for another visit of this day (Encounter/enc-first-visit-charged)"
UNTIL_IT_SAYS_SOMETHING = {"seconds": 70}


@pytest.fixture
def a_day(a_clinic, tmp_path):
    """Opens a clinic whose charges leave by this way; of the two visits of the day nothing is charged yet."""

    def opened(way, more=""):
        folder = f'\nfolder = "{tmp_path}"' if way in {"csv", "dft-file"} else ""
        (tmp_path / MARK).touch()
        clinic = a_clinic(writing=f'way = "{way}"{folder}\n{more}')
        for filed in list(clinic.sandbox.store.all("ChargeItem")):
            clinic.sandbox.store.remove("ChargeItem", filed.resource["id"])
        return clinic

    return opened


def in_files(folder):
    charged = {}
    for path in folder.glob("*.csv"):
        for line in csv.DictReader(path.read_text().splitlines()):
            sign = {"charge": 1, "credit": -1}[line["action"]]
            charged[line["code"]] = charged.get(line["code"], 0) + sign * int(line["units"])
    return charged


def by_interface(clinic, scenario, code, units):
    known = clinic.sandbox.scenario(scenario)
    clinic.sandbox.store.put(
        {
            "resourceType": "ChargeItem",
            "id": f"by-interface-{code}",
            "status": "billable",
            "subject": {"reference": f"Patient/{known.patient}"},
            "context": {"reference": f"Encounter/{known.encounter}"},
            "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": code}]},
            "occurrenceDateTime": "2026-11-19",
            "quantity": {"value": units},
        }
    )


def code_of(clinic, procedure):
    filed = clinic.sandbox.store.get("Procedure", procedure.removeprefix("Procedure/"))
    return filed.resource["code"]["coding"][0]["code"]


@pytest.mark.parametrize("way", ["csv", "dft-file", "claim", "ticket"])
def test_what_no_charge_item_shows_comes_off_the_day_s_other_visit(a_day, way):
    clinic = a_day(way)
    clinic.person().sign(FIRST)
    page = clinic.person().launch(SECOND)
    assert f"{BEFORE}, and not in the chart; taken off here." in page.text
    assert "There is no unit to charge." in page.text
    assert page.text.count("1 for the day, 1 already charged: 0 to charge now.") == 2


def test_it_makes_no_difference_which_of_the_two_is_signed_first(a_day, tmp_path):
    clinic = a_day("csv")
    clinic.person().sign(SECOND)
    assert "There is no unit to charge." in clinic.person().launch(FIRST).text
    assert in_files(tmp_path) == DAY


def test_what_still_waits_for_the_ehr_comes_off_too_and_not_twice_once_it_is_there(a_day):
    clinic = a_day("charge-item")
    clinic.sandbox.faults.add(Fault("status", status=503, method="POST", path="/fhir/ChargeItem"))
    person = clinic.person()
    receipt = person.sign(FIRST)
    assert clinic.charged(FIRST) == {}
    assert BEFORE in clinic.person().launch(SECOND).text
    clinic.clock.forward(**UNTIL_IT_SAYS_SOMETHING)
    person.press(receipt, "Send again")
    assert clinic.charged(FIRST) == DAY
    page = clinic.person().launch(SECOND)
    assert BEFORE not in page.text
    assert page.text.count("1 for the day, 1 already charged: 0 to charge now.") == 2


def test_an_answer_that_was_lost_leaves_the_charge_to_the_chart_that_shows_it(a_day):
    clinic = a_day("charge-item")
    clinic.sandbox.faults.add(Fault("drop", method="POST", path="/fhir/ChargeItem", after=True))
    clinic.person().sign(FIRST)
    page = clinic.person().launch(SECOND)
    assert "97140 × 1: signed in Quarterhour for another visit" in page.text  # the one that waits
    assert page.text.count("1 for the day, 1 already charged: 0 to charge now.") == 2


@pytest.mark.parametrize("way", ["csv", "claim"])
def test_a_suggestion_that_was_taken_back_does_not_hide_what_was_signed_in_its_place(a_day, tmp_path, way):
    """It stands in the chart, aborted, under the identifier of the charge that left another way."""
    clinic = a_day("charge-item", "suggest = true")
    person = clinic.person()
    person.press(person.launch(FIRST), "Write as suggested")
    settings = type(clinic.installation.writing["sandbox"])
    clinic.installation.writing["sandbox"] = settings(way=way, folder=str(tmp_path))
    person.sign(FIRST)
    assert {item["status"] for item in clinic.written(FIRST)} == {"aborted"}
    page = clinic.person().launch(SECOND)
    assert BEFORE in page.text
    assert "There is no unit to charge." in page.text


def test_what_was_seen_before_the_other_visit_was_signed_is_not_signed(a_day, tmp_path):
    clinic = a_day("csv")
    late = clinic.person()
    confirm = late.confirm(SECOND)
    clinic.person().sign(FIRST)
    page = late.press(confirm, "Sign off 2 charges")
    assert "no longer those of the page that you signed from; nothing was signed." in page.text
    assert "There is no unit to charge." in page.text
    assert in_files(tmp_path) == DAY


def test_of_two_visits_that_are_signed_at_the_same_moment_one_is(a_day, tmp_path):
    clinic = a_day("csv")
    people = [clinic.person(), clinic.person()]
    pages = [people[0].confirm(FIRST), people[1].confirm(SECOND)]
    with ThreadPoolExecutor(2) as clicks:
        list(clicks.map(lambda n: people[n].press(pages[n], "Sign off 2 charges"), range(2)))
    assert in_files(tmp_path) == DAY


def test_between_what_was_shown_and_what_is_stored_nobody_else_signs_the_day(a_day, tmp_path, monkeypatch):
    """The narrowest moment: the other visit is signed once this one's charges are made up."""
    clinic = a_day("csv")
    late, first = clinic.person(), clinic.person()
    confirm, other = late.confirm(SECOND), first.confirm(FIRST)
    made_ready = sign_off.made_ready
    todo = [lambda: first.press(other, "Sign off 2 charges")]

    def and_meanwhile(*given, **named):
        if todo:
            todo.pop()()
        return made_ready(*given, **named)

    monkeypatch.setattr(sign_off, "made_ready", and_meanwhile)
    told = late.press(confirm, "Sign off 2 charges")
    assert told.status == 409
    assert "Another visit of this day was signed just now, so this one was not" in told.text
    assert "There is no unit to charge." in late.open(told.links["See the visit"]).text
    assert in_files(tmp_path) == DAY


def test_what_is_taken_back_in_the_one_can_be_charged_in_the_other(a_day, tmp_path):
    clinic = a_day("csv")
    person = clinic.person()
    page = person.press(person.sign(FIRST), "Correct", {"why": "It was the afternoon's."})
    out = {
        name: "Charged with the afternoon's visit."
        for form in page.forms
        for name, _ in form["fields"]
        if name.startswith("out:") and code_of(clinic, name.removeprefix("out:")) == "97110"
    }
    person.press(person.press(page, "Sign off…", out), "Sign off 1 charge")
    assert in_files(tmp_path) == {"97110": 0, "97140": 1}
    second = clinic.person()
    page = second.launch(SECOND)
    assert "97140 × 1: signed in Quarterhour for another visit of this day" in page.text
    second.press(second.press(page, "Sign off…"), "Sign off 1 charge")
    assert in_files(tmp_path) == DAY


def test_another_discipline_s_charges_do_not_come_off(a_day):
    clinic = a_day("csv")
    clinic.person().sign("two-disciplines-pt")
    page = clinic.person().launch("two-disciplines-ot", user="pr-osei")
    assert "signed in Quarterhour" not in page.text
    assert "already charged" not in page.text


def test_services_that_were_signed_under_another_discipline_are_not_charged_again_under_the_right_one(a_day):
    clinic = a_day("csv")
    clinic.person().sign("cms-ex1")
    for filed in list(clinic.sandbox.store.all("PractitionerRole")):
        role = filed.resource
        if role["practitioner"]["reference"] == "Practitioner/pr-reyes":
            occupational = {"system": "http://nucc.org/provider-taxonomy", "code": "225X00000X"}
            clinic.sandbox.store.put({**role, "specialty": [{"coding": [occupational]}]})
    page = clinic.person().launch("cms-ex1")
    assert "Occupational therapy" in page.heading
    assert (
        "97112 × 2, 97110 × 1: signed in Quarterhour before, for services of this visit "
        "(20 November 2026, Physical therapy); taken off here."
    ) in page.text
    assert "There is no unit to charge." in page.text


def test_a_charge_of_the_chart_that_may_be_the_same_is_taken_for_it_and_told(a_day):
    """What billing's interface was handed, it may itself enter in the chart."""
    clinic = a_day("csv")
    clinic.person().sign(FIRST)
    by_interface(clinic, FIRST, "97110", 1)
    page = clinic.person().launch(SECOND)
    assert (
        "charged in the chart as ChargeItem/by-interface-97110, which does not say whose it is" in page.text
    )
    assert "97140 × 1: signed in Quarterhour for another visit of this day" in page.text
    assert page.text.count("1 for the day, 1 already charged: 0 to charge now.") == 2


def test_what_billing_s_interface_entered_in_the_chart_is_what_a_correction_corrects(a_day, tmp_path):
    clinic = a_day("csv")
    person = clinic.person()
    receipt = person.sign(FIRST)
    by_interface(clinic, FIRST, "97110", 1)
    by_interface(clinic, FIRST, "97140", 1)
    page = person.press(receipt, "Correct", {"why": "The minutes were wrong."})
    for code in DAY:
        assert (
            f"{code} × 1: signed in Quarterhour (Encounter/enc-{FIRST}), and charged in the chart as"
            in page.text
        )
    assert "already charged" not in page.text
    assert "This correction changes nothing of what is charged" in person.press(page, "Sign off…").text
    assert in_files(tmp_path) == DAY


def test_decisions_from_before_there_was_this_index_are_found_as_well(a_day):
    clinic = a_day("csv")
    clinic.person().sign(FIRST)
    here, table = clinic.installation, database.decision
    indexed = select(table.c.day, table.c.encounter, table.c.services)
    with here.engine.begin() as connection:
        before = connection.execute(indexed).one()
        connection.execute(update(table).values(day=None, place=None, encounter=None, services=None))
    assert "signed in Quarterhour" not in clinic.person().launch(SECOND).text
    index_older(here.engine, here.vault)
    with here.engine.begin() as connection:
        assert connection.execute(indexed).one() == before
    assert BEFORE in clinic.person().launch(SECOND).text
