"""From the review page to the receipt, by each way that charges leave: what is said before and after, and
what the other side has. Over real HTTP and TCP."""

import csv
import json
import re
from functools import partial

import hl7
import pytest

from quarterhour.launch.scopes import NEEDS
from quarterhour.plugin import outbox
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.worker import work_once
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.mllp import InterfaceFault, running_interface

EX1 = {"97112": 2, "97110": 1}
WAIT = 66  # seconds after which what was accepted must be found
ORACLE = """way = "oracle"
bill_code_source = "https://fhir.cerner.com/synthetic"
bill_code_schedules = {CPT = "615214", HCPCS = "615215", MODIFIER = "3692"}"""


def scopes(*more):
    return "scopes = " + json.dumps(["launch", "openid", "fhirUser", *(need.v2 for need in NEEDS), *more])


def pages_of(person):
    """The review, the page before signing, and the receipt of the one visit."""
    review = person.launch("cms-ex1")
    confirm = person.press(review, "Sign off…")
    return review, confirm, person.press(confirm, "Sign off 2 charges")


@pytest.fixture
def interface():
    with running_interface() as running:
        yield running


def over_mllp(interface):
    return f'way = "dft"\nhost = "127.0.0.1"\nport = {interface.port}'


def test_oracle_takes_the_charges_and_shows_them_later(a_clinic):
    clinic = a_clinic(writing=ORACLE)
    person = clinic.person()
    review, confirm, receipt = pages_of(person)
    assert "What you sign is sent to Sandbox EHR by its own operation for charges" in review.text
    assert "Each charge will be sent to Sandbox EHR, which takes it at once and shows it a little later" in (
        confirm.text
    )
    assert receipt.text.count("Sent and taken; not shown by the EHR yet") == 2
    assert len(clinic.sandbox.requests("POST", "/fhir/ChargeItem/$create")) == 2
    clinic.clock.forward(seconds=WAIT)
    assert work_once(clinic.installation).worked_on == 1
    later = person.open(receipt.url)
    assert later.text.count("Written as ChargeItem/") == 2
    assert clinic.charged("cms-ex1") == EX1
    assert len(clinic.sandbox.requests("POST", "/fhir/ChargeItem/$create")) == 2


def test_what_oracle_refuses_is_told_line_by_line(a_clinic):
    clinic = a_clinic(writing=ORACLE)
    clinic.sandbox.faults.add(Fault("status", status=422, method="POST", path="/fhir/ChargeItem/*"))
    *_, receipt = pages_of(clinic.person())
    assert receipt.text.count("Refused by the EHR") == 1
    assert receipt.text.count("Sent and taken; not shown by the EHR yet") == 1


def test_a_draft_claim_has_an_item_a_charge(a_clinic):
    clinic = a_clinic(writing='way = "claim"', more=scopes("user/Claim.crus"))
    review, confirm, receipt = pages_of(clinic.person())
    assert "What you sign is written to Sandbox EHR as a draft Claim" in review.text
    assert "as one draft Claim, which billing completes" in confirm.text
    (filed,) = clinic.sandbox.store.all("Claim")
    claim = filed.resource
    assert claim["status"] == "draft"
    for number in (1, 2):
        assert f"Written as Claim/{claim['id']}#{number}" in receipt.text
    units = {
        item["productOrService"]["coding"][0]["code"]: item["quantity"]["value"] for item in claim["item"]
    }
    assert units == EX1
    assert clinic.written("cms-ex1") == []


def test_over_mllp_each_line_is_acknowledged(a_clinic, interface):
    clinic = a_clinic(writing=over_mllp(interface))
    review, confirm, receipt = pages_of(clinic.person())
    assert "What you sign is sent to billing's interface as an HL7 message" in review.text
    assert "The charges will be sent to billing's interface as an HL7 message." in confirm.text
    (message,) = interface.messages
    control = str(message.segment("MSH")[10])
    assert receipt.text.count(f"Sent and acknowledged: message {control}") == 2
    event_began = str(message.segment("EVN")[6])  # one moment, where FT1-4 may be from start to end
    assert event_began in {str(each[4]).partition("^")[0] for each in message.segments("FT1")}
    units = {str(each[25]).split("^")[0]: int(str(each[10])) for each in message.segments("FT1")}
    assert units == EX1
    assert clinic.written("cms-ex1") == []


def test_over_mllp_a_refusal_names_the_interface_and_not_the_ehr(a_clinic, interface):
    clinic = a_clinic(writing=over_mllp(interface))
    interface.faults.append(InterfaceFault("answer", code="AR"))
    *_, receipt = pages_of(clinic.person())
    assert receipt.text.count("Refused by billing's interface") == 2
    assert "Refused by the EHR" not in receipt.text


def test_over_mllp_a_lost_acknowledgement_is_not_known_and_not_sent_again(a_clinic, interface):
    clinic = a_clinic(writing=over_mllp(interface))
    interface.faults.append(InterfaceFault("drop", after=True))
    person = clinic.person()
    *_, receipt = pages_of(person)
    assert receipt.text.count("Not known: billing's interface did not answer") == 2
    assert "is not sent again before somebody has looked on billing's side" in receipt.text
    clinic.clock.forward(minutes=5)
    again = person.press(receipt, "Send again")
    assert again.text.count("Not known: billing's interface did not answer") == 2
    assert len(interface.messages) == 1


def test_what_a_person_found_on_billing_s_side_is_not_said_to_be_acknowledged(a_clinic, interface):
    clinic = a_clinic(writing=over_mllp(interface))
    interface.faults.append(InterfaceFault("drop", after=True))
    person = clinic.person()
    *_, receipt = pages_of(person)
    there, not_there = re.findall(r"Identifier (\S+)", receipt.text)
    settle = partial(outbox.settle_by_hand, clinic.installation.outbox, who="Kim Lee", why="Seen in batch 7.")
    assert settle(there, arrived=True)
    assert settle(not_there, arrived=False)
    after = person.open(receipt.url).text
    found = "Settled by hand: a person looked, and found it there Kim Lee: Seen in batch 7."
    assert f"{found} Identifier {there}" in after
    assert f"Not yet sent Kim Lee: Seen in batch 7. Identifier {not_there}" in after
    assert "acknowledged" not in after
    assert "None" not in after


FILES = {
    "dft-file": ("handed to billing's interface as a file", "*.hl7"),
    "csv": ("handed to billing as a file", "*.csv"),
}


def charges_in_file(path):
    text = path.read_bytes().decode()
    if path.suffix == ".csv":
        return {line["code"]: int(line["units"]) for line in csv.DictReader(text.splitlines())}
    return {str(each[25]).split("^")[0]: int(str(each[10])) for each in hl7.parse(text).segments("FT1")}


@pytest.mark.parametrize("way", FILES)
def test_a_file_holds_the_charges_and_the_receipt_names_it(a_clinic, tmp_path, way):
    goes, pattern = FILES[way]
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MARK).touch()
    clinic = a_clinic(writing=f'way = "{way}"\nfolder = "{folder}"')
    review, confirm, receipt = pages_of(clinic.person())
    assert f"What you sign is {goes}" in review.text
    assert "as a file." in confirm.text
    (path,) = folder.glob(pattern)
    assert receipt.text.count(f"Handed over as the file {path.name}") == 2
    assert charges_in_file(path) == EX1
    assert clinic.written("cms-ex1") == []


@pytest.mark.parametrize("way", FILES)
def test_a_folder_that_is_not_there_is_told_and_tried_again(a_clinic, tmp_path, way):
    folder = tmp_path / "out"
    clinic = a_clinic(writing=f'way = "{way}"\nfolder = "{folder}"')
    person = clinic.person()
    *_, receipt = pages_of(person)
    assert receipt.text.count("Not yet sent") == 2
    assert "The folder for charges cannot be written; nothing was handed over." in receipt.text
    folder.mkdir()
    again = person.press(receipt, "Send again")
    assert f"does not hold the file {MARK} by which it is known" in again.text
    (folder / MARK).touch()
    again = person.press(again, "Send again")
    assert again.text.count("Handed over as the file") == 2
    (path,) = folder.glob(FILES[way][1])
    assert charges_in_file(path) == EX1


def test_a_ticket_is_printed_and_nothing_is_said_to_be_written(a_clinic):
    clinic = a_clinic(writing='way = "ticket"')
    review, confirm, receipt = pages_of(clinic.person())
    assert "What you sign is put on a charge ticket to print for billing" in review.text
    assert "print the charge ticket and give it to billing" in confirm.text
    assert receipt.text.count("Not sent: on the charge ticket, to be printed for billing") == 2
    assert "Written" not in receipt.text


@pytest.mark.parametrize(
    ("way", "goes"),
    [
        ("charge-item", "What you sign is written to Sandbox EHR as FHIR ChargeItems"),
        ("transaction", "What you sign is written to Sandbox EHR as FHIR ChargeItems"),
        ("auto", "The next page says exactly what is written to Sandbox EHR, and how."),
    ],
)
def test_the_review_page_names_the_way_as_far_as_it_is_known_without_asking(a_clinic, way, goes):
    clinic = a_clinic(writing=f'way = "{way}"')
    assert goes in clinic.person().launch("cms-ex1").text
    assert clinic.sandbox.requests("GET", "/fhir/metadata") == []


def test_once_the_ehr_was_asked_the_review_page_names_the_way_of_auto_too(a_clinic):
    clinic = a_clinic(writing='way = "auto"')
    person = clinic.person()
    person.confirm("cms-ex1")
    assert "What you sign is written to Sandbox EHR as FHIR ChargeItems" in person.launch("cms-ex1").text


# Somebody else's visit


def test_a_second_reviewer_sees_who_signed_and_what_and_cannot_sign_it_again(a_clinic):
    clinic = a_clinic()
    clinic.person().sign("cms-ex1")
    written = clinic.written("cms-ex1")
    other = clinic.person()
    page = other.launch("cms-ex1", user="pr-osei")
    assert "These charges were signed off on" in page.text
    assert "by you" not in page.text
    assert "Sign off…" not in [said for form in page.forms for said, _, _ in form["buttons"]]
    receipt = other.open(page.links["See the receipt"])
    assert receipt.text.count("Written as ChargeItem/") == 2
    assert "Signed by" in receipt.text
    confirm = other.open(f"{receipt.url.removesuffix('receipt')}sign")
    assert confirm.heading == receipt.heading
    assert clinic.written("cms-ex1") == written


def test_of_two_reviewers_at_once_the_second_gets_the_receipt_of_the_first(a_clinic):
    clinic = a_clinic()
    first, second = clinic.person(), clinic.person()
    theirs = second.press(second.launch("cms-ex1", user="pr-osei"), "Sign off…")
    mine = first.confirm("cms-ex1")
    first.press(mine, "Sign off 2 charges")
    receipt = second.press(theirs, "Sign off 2 charges")
    assert receipt.heading.startswith("Signed off:")
    assert "Signed by" in receipt.text
    assert clinic.charged("cms-ex1") == EX1
    assert clinic.posts() == 2
