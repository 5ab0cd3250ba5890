"""Every ChargeItem that is written, as the EHR has it."""

from datetime import datetime

import pytest
from fhir.resources.R4B.chargeitem import ChargeItem

from quarterhour.plugin import audit
from quarterhour.plugin.history import decisions_on

CODE_SYSTEMS = {"http://www.ama-assn.org/go/cpt", "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"}
TIE = {"tie-of-three": {"tie": "97110=1"}, "cms-ex2": {"tie": "97112=2 97110=1"}}
VISITS = [
    "cms-ex1",
    "cms-ex2",
    "cms-ex3",
    "cms-ex4",
    "optum-cap",
    "untimed",
    "assistant",
    "evaluation",
    "two-disciplines-pt",
    "two-disciplines-ot",
    "speech",
    "second-visit",
]


def signed(clinic, visit):
    """The charges of a visit, signed with a reason for whatever asks for one."""
    person = clinic.person()
    page = person.launch(visit)
    reasons = [name for form in page.forms for name, _ in form["fields"] if name.startswith("note:")]
    entered = dict.fromkeys(reasons, "Checked against the note.") | TIE.get(visit, {})
    confirm = person.press(page, "Sign off…", entered)
    assert confirm.heading.startswith("Sign off:"), confirm.text
    (button,) = [said for form in confirm.forms for said, _, _ in form["buttons"] if said.startswith("Sign")]
    receipt = person.press(confirm, button)
    assert "Written." in receipt.text
    return [item for item in clinic.written(visit) if "note" in item and "Policy" in item["note"][0]["text"]]


@pytest.mark.parametrize("visit", VISITS)
def test_every_charge_item_written_is_valid_r4_and_whole(clinic, visit):
    scenario = clinic.sandbox.scenario(visit)
    items = signed(clinic, visit)
    assert items
    for item in items:
        ChargeItem.model_validate(item)
        assert item["status"] == "billable"
        assert item["subject"] == {"reference": f"Patient/{scenario.patient}"}
        assert item["context"] == {"reference": f"Encounter/{scenario.encounter}"}
        assert item["code"]["coding"][0]["system"] in CODE_SYSTEMS
        assert item["quantity"]["value"] >= 1
        assert item["quantity"]["value"] == int(item["quantity"]["value"])
        services = {each["reference"] for each in item["service"]}
        assert services
        for service in services:
            procedure = clinic.sandbox.store.get(*service.split("/")).resource
            assert procedure["encounter"] == item["context"]
            codes = [coding["code"] for coding in procedure["code"]["coding"]]
            assert item["code"]["coding"][0]["code"] in codes
        assert all(each["actor"]["reference"].startswith("Practitioner/") for each in item["performer"])
        assert item["enterer"] == {"reference": f"Practitioner/{scenario.user}"}
        assert datetime.fromisoformat(item["enteredDate"]) == clinic.clock.now
        start, end = (datetime.fromisoformat(item["occurrencePeriod"][each]) for each in ("start", "end"))
        assert start <= end
        assert start.date() == scenario.date_of_service
        (note,) = item["note"]
        assert len(note["text"].splitlines()) == 1
        assert len(item["identifier"]) == 1


def test_every_published_answer_comes_out_to_the_unit(clinic):
    published = [scenario for scenario in clinic.sandbox.scenarios if scenario.expected]
    assert len(published) >= 5
    for scenario in published:
        signed(clinic, scenario.id)
        assert clinic.charged(scenario.id) in [dict(answer) for answer in scenario.expected]


def test_an_assistant_s_unit_carries_the_assistant_s_modifier_and_names_both(clinic):
    (item, *rest) = signed(clinic, "assistant")
    performers = {each["actor"]["reference"] for one in (item, *rest) for each in one["performer"]}
    assert performers == {"Practitioner/pr-reyes", "Practitioner/pr-cole"}
    assert "CQ" in str(item) + str(rest)


def test_what_was_charged_at_an_earlier_visit_of_the_day_is_not_charged_again(clinic):
    signed(clinic, "second-visit")
    assert clinic.charged("second-visit") == {"97140": 1}  # 33 minutes: 2 units, one of 97110 charged before
    assert clinic.charged("first-visit-charged") == {"97110": 1}


def test_the_decision_is_kept_with_the_terms_it_rests_on_their_dates_and_sources(clinic):
    signed(clinic, "cms-ex1")
    here = clinic.installation
    with here.engine.begin() as connection:
        trail = audit.entries(connection, here.vault)
        assert audit.broken_at(connection, here.vault) is None
    actions = [entry.action for entry in trail]
    assert actions == ["launched", "read", "read", "signed", "charge-confirmed", "charge-confirmed"]
    entry = trail[3]
    assert entry.who == "Practitioner/pr-reyes"
    assert entry.at == clinic.clock.now
    (decided,) = decisions_on(here, entry.visit)  # the entry vouches for it by digests
    assert decided.record["policy"] == "cms-part-b"
    suggestion = decided.record["suggestion"]
    for said in ("minimum_minutes", "unit_minutes", "2000-04-01", "https://www.cms.gov/"):
        assert said in suggestion
    written = {item["identifier"][0]["value"] for item in clinic.written("cms-ex1")}
    assert set(entry.what["charges"]) == written
