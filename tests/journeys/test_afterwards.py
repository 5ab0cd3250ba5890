"""After the review: a chart that changed, charges that others entered, corrections, and the other ways out."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import delete, select, update

from quarterhour.fhir.systems import CHARGE_IDENTIFIER
from quarterhour.fhir.way import WritingSettings
from quarterhour.plugin import database, leases, outbox
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.worker import reconcile, work_once
from quarterhour.sandbox.faults import Fault

EX1 = {"97112": 2, "97110": 1}


def _filed(clinic, kind, **has):
    for filed in clinic.sandbox.store.all(kind):
        if all(filed.resource.get(name) == value for name, value in has.items()):
            yield filed.resource


def _procedure(clinic, code):
    encounter = {"reference": f"Encounter/{clinic.sandbox.scenario('cms-ex1').encounter}"}
    return next(
        each
        for each in _filed(clinic, "Procedure", encounter=encounter)
        if each["code"]["coding"][0]["code"] == code
    )


def test_a_chart_that_changed_after_the_review_is_shown_and_signed_only_when_asked_again(clinic, person):
    confirm = person.confirm("cms-ex1")
    procedure = _procedure(clinic, "97110")
    clinic.sandbox.store.put({**procedure, "status": "entered-in-error"})
    asked_again = person.press(confirm, "Sign off 2 charges")
    assert "This changed since you reviewed it, so nothing was signed." in asked_again.text
    assert f"Procedure/{procedure['id']}" in asked_again.text
    assert clinic.posts() == 0
    receipt = person.press(asked_again, "Sign off 1 charge")
    assert "Written." in receipt.text
    assert set(clinic.charged("cms-ex1")) == {"97112"}


def test_a_charge_that_somebody_entered_after_the_review_is_shown_and_not_doubled(clinic, person):
    confirm = person.confirm("cms-ex1")
    scenario = clinic.sandbox.scenario("cms-ex1")
    clinic.sandbox.store.put(
        {
            "resourceType": "ChargeItem", "id": "by-hand", "status": "billable",
            "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "97112"}]},
            "subject": {"reference": f"Patient/{scenario.patient}"},
            "context": {"reference": f"Encounter/{scenario.encounter}"},
            "occurrenceDateTime": scenario.date_of_service.isoformat(),
            "quantity": {"value": 2},
        }
    )  # fmt: skip
    asked_again = person.press(confirm, "Sign off 2 charges")
    assert "The charge ChargeItem/by-hand (97112 × 2, billable) was entered." in asked_again.text
    receipt = person.press(asked_again, "Sign off 1 charge")
    assert "Written." in receipt.text
    assert sorted(item["quantity"]["value"] for item in clinic.written("cms-ex1")) == [1, 2]


def test_an_ehr_that_cannot_be_read_at_sign_off_does_not_stop_it_and_the_receipt_says_so(clinic, person):
    confirm = person.confirm("cms-ex1")
    clinic.sandbox.faults.add(Fault("status", status=500, method="GET", path="/fhir/*", times=60))
    receipt = person.press(confirm, "Sign off 2 charges")
    assert "The chart could not be read again at sign-off" in receipt.text


def test_a_correction_takes_back_what_differs_and_keeps_both_on_record(clinic, person):
    receipt = person.sign("cms-ex1")
    page = person.press(receipt, "Correct", {"why": "Twelve minutes were the other code's."})
    assert "You are correcting signed charges: Twelve minutes were the other code's." in page.text
    service = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("out:"))
    procedure = service.removeprefix("out:")
    confirm = person.press(page, "Sign off…", {service: "Not furnished."})
    assert "This corrects charges that were signed" in confirm.text
    after = person.press(confirm, "Sign off 1 charge")
    assert "Corrected, revision 2: Twelve minutes were the other code's." in after.text
    assert "Taking back an earlier charge." in after.text
    statuses = sorted(item["status"] for item in clinic.written("cms-ex1"))
    assert "aborted" in statuses
    billable = [item for item in clinic.written("cms-ex1") if item["status"] == "billable"]
    assert len(billable) == 1
    assert procedure not in str(billable[0]["service"])


def correcting(person, receipt):
    """The page before signing a correction that leaves out one service."""
    page = person.press(receipt, "Correct", {"why": "Twelve minutes were the other code's."})
    service = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("out:"))
    return person.press(page, "Sign off…", {service: "Not furnished."})


def now_leaves_by(clinic, **settings):
    """As after a restart with another writing table."""
    clinic.installation.writing["sandbox"] = WritingSettings(**settings)


def test_a_correction_leaves_by_the_way_that_its_charges_left_by(clinic, person):
    receipt = person.sign("cms-ex1")
    now_leaves_by(clinic, way="ticket")
    confirm = correcting(person, receipt)
    assert "Each charge will be written to Sandbox EHR as a FHIR ChargeItem." in confirm.text
    after = person.press(confirm, "Sign off 1 charge")
    assert "Written." in after.text
    assert sorted(item["status"] for item in clinic.written("cms-ex1")) == ["aborted", "aborted", "billable"]


def test_a_ticket_is_corrected_by_a_ticket_where_the_ehr_takes_charges_now(a_clinic):
    clinic = a_clinic(writing='way = "ticket"')
    person = clinic.person()
    receipt = person.sign("cms-ex1")
    now_leaves_by(clinic, way="charge-item")
    after = person.press(correcting(person, receipt), "Sign off 1 charge")
    assert "Signed off; not sent." in after.text
    assert clinic.written("cms-ex1") == []


def test_a_correction_by_a_way_that_is_not_configured_any_more_is_refused_before_signing(a_clinic, tmp_path):
    folder = tmp_path / "charges"
    folder.mkdir()
    (folder / MARK).touch()
    clinic = a_clinic(writing=f'way = "csv"\nfolder = "{folder}"')
    person = clinic.person()
    receipt = person.sign("cms-ex1")
    confirm = correcting(person, receipt)
    now_leaves_by(clinic, way="charge-item")
    refused = person.press(confirm, "Sign off 1 charge")
    assert refused.status == 409
    assert "These charges left by the way 'csv', which is not configured any more" in refused.text
    assert "set folder again" in refused.text
    again = person.press(person.open(receipt.url), "Correct", {"why": "Once more."})
    assert again.status == 409
    assert len(list(folder.glob("*.csv"))) == 1
    assert clinic.written("cms-ex1") == []


def billed(clinic, **changed):
    """Billing has the charge of that code now; or has given it back."""
    (item,) = [one for one in clinic.written("cms-ex1") if one["code"]["coding"][0]["code"] == "97110"]
    clinic.sandbox.store.put({**item, "status": "billed"} | changed)


def leaving_out(clinic, person, receipt, code, why):
    page = person.press(receipt, "Correct", {"why": why})
    service = f"out:Procedure/{_procedure(clinic, code)['id']}"
    return person.press(page, "Sign off…", {service: "Not furnished."})


def test_a_charge_that_billing_kept_can_be_taken_back_once_billing_has_given_it_back(clinic, person):
    receipt = person.sign("cms-ex1")
    billed(clinic)
    refused = person.press(
        leaving_out(clinic, person, receipt, "97110", "Not furnished."), "Sign off 1 charge"
    )
    assert "has the status 'billed' and is no longer ours to change" in refused.text
    billed(clinic, status="billable")
    confirm = leaving_out(clinic, person, refused, "97110", "Billing gave it back.")
    after = person.press(confirm, "Sign off 1 charge")
    assert "Corrected, revision 3: Billing gave it back." in after.text
    codes = {(item["code"]["coding"][0]["code"], item["status"]) for item in clinic.written("cms-ex1")}
    assert codes == {("97110", "aborted"), ("97112", "billable")}
    assert reconcile(clinic.installation) == ()


def test_a_correction_that_changes_nothing_is_not_signed_and_the_next_one_is(clinic, person):
    receipt = person.sign("cms-ex1")
    page = person.press(receipt, "Correct", {"why": "I thought so."})
    refused = person.press(page, "Sign off…")
    assert refused.status == 409
    assert "This correction changes nothing of what is charged, so nothing was signed." in refused.text
    again = person.open(receipt.url)
    assert "Corrected, revision 2" not in again.text
    confirm = leaving_out(clinic, person, again, "97110", "Not furnished.")
    assert "Corrected, revision 2" in person.press(confirm, "Sign off 1 charge").text


def test_a_correction_can_be_left_and_what_was_signed_stays(clinic, person):
    receipt = person.sign("cms-ex1")
    written = clinic.written("cms-ex1")
    page = person.press(receipt, "Correct", {"why": "I thought so."})
    service = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("out:"))
    left = person.press(page, "Stop correcting", {service: "Not furnished."})
    assert left.url == receipt.url
    visit = person.open(left.links["Back to the visit"])
    assert "You are correcting" not in visit.text
    assert "What you change here is kept as your draft and changes nothing that was signed." in visit.text
    assert "Not furnished." in visit.html, "what was typed is not lost"
    assert "Stop correcting" not in visit.text
    assert clinic.written("cms-ex1") == written


def test_a_correction_can_be_left_also_with_a_field_that_cannot_be_used(clinic, person):
    page = person.press(person.sign("cms-ex1"), "Correct", {"why": "I thought so."})
    minutes = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("minutes:"))
    left = person.press(page, "Stop correcting", {minutes: "about ten"})
    assert left.status == 200
    assert "You are correcting" not in person.open(left.links["Back to the visit"]).text


def test_a_correction_is_kept_while_the_charges_are_being_written(clinic, person):
    receipt = person.sign("cms-ex1")
    confirm = leaving_out(clinic, person, receipt, "97110", "Not furnished.")
    here = clinic.installation
    encounter = f"Encounter/{clinic.sandbox.scenario('cms-ex1').encounter}"
    with here.engine.begin() as connection:
        lease = leases.take(
            connection, outbox.encounter_key(here.vault, f"{clinic.ehr_url}/fhir", encounter), here.clock()
        )
    refused = person.press(confirm, "Sign off 1 charge")
    assert refused.status == 409
    assert "so the correction was not signed" in refused.text
    with here.engine.begin() as connection:
        leases.release(connection, lease)
    again = person.open(confirm.url)
    assert "This corrects charges that were signed: Not furnished." in again.text
    assert "Corrected, revision 2" in person.press(again, "Sign off 1 charge").text


def _leave_out(person, page, *codes):
    """The page before signing, with the services of these codes left out."""
    ids = [_procedure(person.clinic, code)["id"] for code in codes]
    return person.press(page, "Sign off…", {f"out:Procedure/{id_}": "Not furnished." for id_ in ids})


def test_a_receipt_says_how_many_charges_were_written(clinic, person):
    assert "Written. All 2 charges are in Sandbox EHR." in person.sign("cms-ex1").text


def test_a_receipt_of_a_single_charge_does_not_speak_of_all(clinic, person):
    confirm = _leave_out(person, person.launch("cms-ex1"), "97110")
    assert "Written. The charge is in Sandbox EHR." in person.press(confirm, "Sign off 1 charge").text


def test_a_correction_says_how_many_were_written_and_how_many_taken_back(clinic, person):
    signed = person.sign("cms-ex1")
    procedure = _procedure(clinic, "97110")
    start = procedure["performedPeriod"]["start"]
    end = (datetime.fromisoformat(start) + timedelta(minutes=40)).isoformat()
    clinic.sandbox.store.put({**procedure, "performedPeriod": {"start": start, "end": end}})
    page = person.press(signed, "Correct", {"why": "The minutes were wrong."})
    receipt = person.press(person.press(page, "Sign off…"), "Sign off 2 charges")
    assert "Written. 2 charges are in Sandbox EHR; 2 earlier charges were taken back." in receipt.text


def test_a_correction_that_charges_nothing_new_does_not_say_that_anything_is_in_the_ehr(clinic, person):
    page = person.press(person.sign("cms-ex1"), "Correct", {"why": "Not furnished."})
    receipt = person.press(_leave_out(person, page, "97110"), "Sign off 1 charge")
    assert "Taken back. 1 earlier charge was taken back; nothing new was charged." in receipt.text
    assert "Written." not in receipt.text


def test_the_worker_sends_what_a_person_left_behind(clinic, person):
    clinic.sandbox.faults.add(Fault("drop", method="POST", path="/fhir/ChargeItem"))
    person.sign("cms-ex1")
    assert clinic.charged("cms-ex1") == {}
    assert work_once(clinic.installation).worked_on == 0  # not due yet
    clinic.clock.forward(seconds=70)
    assert work_once(clinic.installation).worked_on == 1
    assert clinic.charged("cms-ex1") == EX1
    assert work_once(clinic.installation).worked_on == 0


@pytest.mark.parametrize("after", ["1764326400", "1764326400000"])
def test_an_ehr_that_asks_to_wait_for_decades_holds_up_no_person_who_sends_again(clinic, person, after):
    busy = Fault("status", status=429, retry_after=after, method="POST", path="/fhir/ChargeItem")
    clinic.sandbox.faults.add(busy)
    receipt = person.sign("cms-ex1")
    assert receipt.status == 200
    assert "Not yet sent" in receipt.text
    sent = person.press(receipt, "Send again")
    assert "Written." in sent.text
    assert clinic.charged("cms-ex1") == EX1


def test_a_decision_that_we_fail_at_holds_up_no_other(clinic, logged):
    away = Fault("status", status=429, method="POST", path="/fhir/ChargeItem", times=2)
    clinic.sandbox.faults.add(away)
    for visit in ("cms-ex1", "cms-ex3"):
        clinic.person().sign(visit)
    table = database.charge
    with clinic.installation.engine.begin() as connection:
        first = connection.scalar(select(table.c.decision).order_by(table.c.updated_at).limit(1))
        connection.execute(update(table).where(table.c.decision == first).values(sealed=b"spoilt"))
    clinic.clock.forward(seconds=20)  # as long as an EHR that does not say for how long is left alone
    done = work_once(clinic.installation)
    assert (done.worked_on, done.without_access, done.failed) == (1, 0, 1)
    assert clinic.charged("cms-ex1") == {}
    assert sum(clinic.charged("cms-ex3").values())
    (told,) = [line for line in logged() if line["event"] == "decision_failed"]
    assert told["why"] == "SealBroken"


def test_reconciliation_finds_what_was_lost_and_what_was_doubled(clinic, person):
    person.sign("cms-ex1")
    assert reconcile(clinic.installation) == ()
    first, second = clinic.written("cms-ex1")
    clinic.sandbox.store.put({**first, "id": "a-copy"})
    clinic.sandbox.store._filed["ChargeItem"].pop(second["id"])
    found = reconcile(clinic.installation)
    assert sorted(oddity.kind for oddity in found) == ["doubled", "lost"]
    assert {oddity.charge for oddity in found} == {
        first["identifier"][0]["value"],
        second["identifier"][0]["value"],
    }


def test_the_charge_ticket_has_what_was_signed(clinic, person):
    receipt = person.sign("cms-ex1")
    ticket = person.open(receipt.links["Charge ticket to print"])
    assert "97112" in ticket.text
    assert "record 100001" in ticket.text


def test_nobody_signed_in_means_that_nothing_is_compared_and_that_is_said(clinic, person):
    person.sign("cms-ex1")
    clinic.clock.forward(hours=20)
    assert [oddity.kind for oddity in reconcile(clinic.installation)] == ["not-looked"]


STRANGE = "00000000-0000-5000-8000-000000000001"


def _copy(clinic, system, identifier=STRANGE):
    first, *_ = clinic.written("cms-ex1")
    clinic.sandbox.store.put(
        {**first, "id": "stranger", "identifier": [{"system": system, "value": identifier}]}
    )


def test_a_charge_under_an_identifier_that_we_never_gave_out_is_named(clinic, person):
    person.sign("cms-ex1")
    _copy(clinic, CHARGE_IDENTIFIER)
    (found,) = reconcile(clinic.installation)
    assert (found.kind, found.charge) == ("stranger", STRANGE)
    assert found.says.startswith("ChargeItem/stranger carries an identifier of Quarterhour's")


def test_another_system_s_identifier_is_no_stranger(clinic, person):
    person.sign("cms-ex1")
    _copy(clinic, "https://billing.example/charge")
    assert reconcile(clinic.installation) == ()


def test_an_ehr_that_cannot_search_for_a_system_is_asked_for_the_chart(clinic, person):
    person.sign("cms-ex1")
    _copy(clinic, CHARGE_IDENTIFIER)
    before = len(clinic.sandbox.requests("GET", "/fhir/ChargeItem"))
    reconcile(clinic.installation)
    searches = len(clinic.sandbox.requests("GET", "/fhir/ChargeItem")) - before
    # The last search is the strangers'; the ones before look for each charge.
    well = Fault("delay", method="GET", path="/fhir/ChargeItem", times=searches - 1)
    clinic.sandbox.faults.add(well, Fault("status", status=400, method="GET", path="/fhir/ChargeItem"))
    assert [oddity.kind for oddity in reconcile(clinic.installation)] == ["stranger"]


def test_what_could_not_be_looked_through_is_said(clinic, person):
    person.sign("cms-ex1")
    clinic.sandbox.faults.add(Fault("status", status=500, method="GET", path="/fhir/ChargeItem", times=9))
    kinds = [oddity.kind for oddity in reconcile(clinic.installation)]
    assert kinds == ["not-looked"] * 3  # two charges, and strangers


def test_after_a_restore_what_was_signed_since_the_backup_is_a_stranger(clinic, person):
    person.sign("cms-ex1")
    with clinic.installation.engine.begin() as connection:
        connection.execute(delete(database.charge))
        connection.execute(delete(database.decision))
    found = reconcile(clinic.installation)
    assert [oddity.kind for oddity in found] == ["stranger"] * 2
    assert {oddity.charge for oddity in found} == {
        item["identifier"][0]["value"] for item in clinic.written("cms-ex1")
    }


def test_a_signed_visit_that_is_opened_again_says_how_many_of_its_units_are_left(clinic, person):
    person.sign("cms-ex1")
    again = person.launch("cms-ex1")
    assert "signed off" in again.text
    assert [again.text.count(f"0 left of {units}") for units in (2, 1)] == [1, 1]


def test_a_charge_of_which_nobody_knows_who_performed_it_is_not_signed_into_the_ehr(clinic, person):
    procedure = _procedure(clinic, "97110")
    clinic.sandbox.store.put({name: value for name, value in procedure.items() if name != "performer"})
    page = person.launch("cms-ex1")
    reason = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("note:"))
    told = person.press(page, "Sign off…", {reason: "I furnished it myself."})
    assert told.status == 409
    assert "The chart does not say who performed 97110" in told.text
    assert "Charges" in told.text, "it is told on the review, where it can be mended"
    assert clinic.posts() == 0
    clinic.sandbox.store.put(procedure)
    again = person.press(told, "Read the chart again")
    assert "Written." in person.press(person.press(again, "Sign off…"), "Sign off 2 charges").text


def test_what_leaves_without_the_ehr_may_lack_who_performed_it(a_clinic):
    clinic = a_clinic(writing='way = "ticket"')
    person = clinic.person()
    procedure = _procedure(clinic, "97110")
    clinic.sandbox.store.put({name: value for name, value in procedure.items() if name != "performer"})
    page = person.launch("cms-ex1")
    reason = next(name for form in page.forms for name, _ in form["fields"] if name.startswith("note:"))
    confirm = person.press(page, "Sign off…", {reason: "I furnished it myself."})
    assert "Signed off; not sent." in person.press(confirm, "Sign off 2 charges").text
