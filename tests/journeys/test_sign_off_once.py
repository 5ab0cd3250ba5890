"""Whatever is clicked, reloaded, repeated or lost on the way: no charge stands in the EHR twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

EX1 = {"97112": 2, "97110": 1}
# A search that finds nothing counts only after the longest request has ended and the index has caught up.
UNTIL_IT_SAYS_SOMETHING = {"seconds": 70}
CREATE = {"method": "POST", "path": "/fhir/ChargeItem"}


def test_a_repeated_post_writes_nothing_twice(clinic, person):
    confirm = person.confirm("cms-ex1")
    receipts = [person.press(confirm, "Sign off 2 charges") for _ in range(3)]
    assert [page.heading[:11] for page in receipts] == ["Signed off:"] * 3
    assert clinic.charged("cms-ex1") == EX1
    assert clinic.posts() == 2


def test_a_reload_of_the_receipt_and_the_way_back_write_nothing_twice(clinic, person):
    confirm = person.confirm("cms-ex1")
    receipt = person.press(confirm, "Sign off 2 charges")
    assert person.open(receipt.url).heading == receipt.heading
    assert person.open(confirm.url).heading == receipt.heading  # the page before leads to the receipt now
    visit = person.open(receipt.links["Back to the visit"])
    assert "These charges were signed off on" in visit.text
    assert "Sign off…" not in visit.text
    assert clinic.posts() == 2


def test_two_tabs_of_one_visit_sign_once(clinic, person):
    one, other = person.confirm("cms-ex1"), person.confirm("cms-ex1")
    assert one.url != other.url
    assert person.press(one, "Sign off 2 charges").heading.startswith("Signed off:")
    assert person.press(other, "Sign off 2 charges").heading.startswith("Signed off:")
    assert clinic.charged("cms-ex1") == EX1
    assert clinic.posts() == 2


def test_two_people_sign_a_visit_once_and_the_second_sees_the_first_one_s_receipt(clinic):
    one, other = clinic.person(), clinic.person()
    first = one.confirm("cms-ex1")
    second = other.press(other.launch("cms-ex1", user="pr-osei"), "Sign off…")
    one.press(first, "Sign off 2 charges")
    receipt = other.press(second, "Sign off 2 charges")
    assert receipt.heading.startswith("Signed off:")
    assert clinic.posts() == 2
    assert {item["enterer"]["reference"] for item in clinic.written("cms-ex1")} == {"Practitioner/pr-reyes"}


def test_eight_posts_at_once_write_nothing_twice(clinic, person):
    confirm = person.confirm("cms-ex1")
    with ThreadPoolExecutor(8) as clicks:
        pages = list(clicks.map(lambda _: person.press(confirm, "Sign off 2 charges"), range(8)))
    assert {page.status for page in pages} == {200}
    assert {page.heading[:11] for page in pages} == {"Signed off:"}
    assert clinic.charged("cms-ex1") == EX1
    assert clinic.posts() == 2


def test_sending_again_eight_times_at_once_writes_nothing_twice(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=503, **CREATE))
    receipt = person.sign("cms-ex1")
    assert clinic.charged("cms-ex1") == {}
    clinic.clock.forward(**UNTIL_IT_SAYS_SOMETHING)
    with ThreadPoolExecutor(8) as clicks:
        pages = list(clicks.map(lambda _: person.press(receipt, "Send again"), range(8)))
    assert {page.status for page in pages} == {200}
    assert clinic.charged("cms-ex1") == EX1


def test_a_page_that_no_longer_shows_what_would_be_signed_signs_nothing(clinic, person):
    confirm = person.confirm("cms-ex1")
    review = person.open(confirm.links["Back"])
    service = next(name for form in review.forms for name, _ in form["fields"] if name.startswith("out:"))
    person.press(review, "Recalculate", {service: "Not furnished."})  # in another tab
    shown_again = person.press(confirm, "Sign off 2 charges")
    assert shown_again.heading.startswith("Sign off:")
    assert "no longer those of the page that you signed from; nothing was signed." in shown_again.text
    assert "Not furnished." in shown_again.text
    assert clinic.posts() == 0


# --- lost answers -----------------------------------------------------------------------------------------------

AFTERWARDS = [
    Fault("drop", after=True, **CREATE),
    Fault("truncate", **CREATE),
    Fault("html", after=True, **CREATE),
    Fault("status", status=500, after=True, **CREATE),
    Fault("status", status=503, after=True, **CREATE),
    Fault("delay", after=True, seconds=1.2, **CREATE),
]
EACH = ["dropped", "cut short", "a proxy's page", "500", "503", "late"]


@pytest.mark.parametrize("conditional", [True, False], ids=["conditional create", "none"])
@pytest.mark.parametrize("fault", AFTERWARDS, ids=EACH)
def test_an_answer_lost_after_the_write_is_unknown_then_found_and_never_written_twice(
    a_clinic, fault, conditional
):
    clinic = a_clinic(read_timeout=0.6, quirks=Quirks(no_conditional_create=not conditional))
    person = clinic.person()
    clinic.sandbox.faults.add(fault)
    receipt = person.sign("cms-ex1")
    assert "Not all is written." in receipt.text
    assert "Not known: the EHR did not answer" in receipt.text
    assert len(clinic.written("cms-ex1")) == 1  # the first is there, though nobody knows

    before = len(clinic.sandbox.requests("GET", "/fhir/ChargeItem"))
    again = person.press(receipt, "Send again")
    assert len(clinic.sandbox.requests("GET", "/fhir/ChargeItem")) > before  # looked for first
    assert "Written." in again.text
    assert len(clinic.written("cms-ex1")) == 2
    assert clinic.charged("cms-ex1") == EX1


def test_an_answer_lost_before_the_write_is_unknown_then_written(clinic, person):
    clinic.sandbox.faults.add(Fault("drop", **CREATE))
    receipt = person.sign("cms-ex1")
    assert "Not known: the EHR did not answer" in receipt.text
    assert clinic.charged("cms-ex1") == {}
    too_early = person.press(receipt, "Send again")
    assert "It was not found yet, which says nothing before" in too_early.text
    assert clinic.posts() == 1
    clinic.clock.forward(**UNTIL_IT_SAYS_SOMETHING)
    assert "Written." in person.press(receipt, "Send again").text
    assert clinic.charged("cms-ex1") == EX1


# --- refused, and down ------------------------------------------------------------------------------------------


def test_a_refusal_shows_the_ehr_s_own_words_and_writes_the_other_charges(clinic, person):
    confirm = person.confirm("cms-ex1")
    encounter = clinic.sandbox.scenario("cms-ex1").encounter
    filed = clinic.sandbox.store.get("Encounter", encounter)
    clinic.sandbox.store.put(filed.resource, "Patient/pat-brennan")  # moved to another chart meanwhile
    receipt = person.press(confirm, "Sign off 2 charges")
    assert "Refused by the EHR" in receipt.text
    assert "The EHR says: ChargeItem.context: the encounter of another patient." in receipt.text
    assert clinic.charged("cms-ex1") == {}

    clinic.sandbox.store.put(filed.resource, "Patient/pat-adams")
    assert "Written." in person.press(receipt, "Send again").text
    assert clinic.charged("cms-ex1") == EX1


def test_one_refused_charge_does_not_hold_up_the_others(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=422, **CREATE))
    receipt = person.sign("cms-ex1")
    assert receipt.text.count("Refused by the EHR") == 1
    assert len(clinic.written("cms-ex1")) == 1


def test_a_refused_charge_that_somebody_entered_by_the_same_identifier_meanwhile_is_found(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=403, after=True, **CREATE))  # says no, and does it
    receipt = person.sign("cms-ex1")
    assert "Written." in person.press(receipt, "Send again").text
    assert len(clinic.written("cms-ex1")) == 2


def test_a_refused_charge_is_looked_for_before_it_is_sent_again_where_nothing_else_keeps_it_single(a_clinic):
    clinic = a_clinic(quirks=Quirks(no_conditional_create=True))
    person = clinic.person()
    clinic.sandbox.faults.add(Fault("status", status=403, after=True, **CREATE))
    receipt = person.sign("cms-ex1")
    assert "Written." in person.press(receipt, "Send again").text
    assert len(clinic.written("cms-ex1")) == 2


def test_a_doubtful_charge_stays_doubtful_while_the_ehr_refuses_to_be_searched(a_clinic):
    clinic = a_clinic(quirks=Quirks(no_conditional_create=True))
    person = clinic.person()
    clinic.sandbox.faults.add(Fault("drop", after=True, **CREATE))
    receipt = person.sign("cms-ex1")
    clinic.sandbox.faults.add(Fault("status", status=403, method="GET", path="/fhir/ChargeItem*"))
    still = person.press(receipt, "Send again")
    assert "Not known: the EHR did not answer" in still.text
    assert "Written." in person.press(still, "Send again").text
    assert len(clinic.written("cms-ex1")) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_an_ehr_that_is_down_keeps_the_decision_and_gets_it_later(clinic, person, status):
    clinic.sandbox.faults.add(Fault("status", status=status, times=9, **CREATE))
    receipt = person.sign("cms-ex1")
    assert "Your sign-off is kept" in receipt.text
    assert clinic.charged("cms-ex1") == {}
    clinic.sandbox.faults.clear()
    clinic.clock.forward(**UNTIL_IT_SAYS_SOMETHING)
    assert "Written." in person.press(receipt, "Send again").text
    assert clinic.charged("cms-ex1") == EX1


def test_a_decision_that_could_not_be_sent_is_found_by_the_next_launch_and_sent_from_there(clinic, person):
    clinic.sandbox.faults.add(Fault("status", status=503, times=9, **CREATE))
    person.sign("cms-ex1")
    clinic.sandbox.faults.clear()
    clinic.clock.forward(hours=20)
    visit = person.launch("cms-ex1")
    assert "These charges were signed off on" in visit.text
    receipt = person.open(visit.links["See the receipt"])
    assert "Written." in person.press(receipt, "Send again").text
    assert clinic.charged("cms-ex1") == EX1


def test_a_token_taken_back_before_sending_leaves_the_charge_unsent_and_says_so(clinic, person):
    confirm = person.confirm("cms-ex1")
    for token in clinic.sandbox.smart.issued.tokens.values():
        token.revoked = True
    receipt = person.press(confirm, "Sign off 2 charges")
    assert "Not yet sent" in receipt.text
    visit = person.launch("cms-ex1")
    receipt = person.open(visit.links["See the receipt"])
    assert "Written." in person.press(receipt, "Send again").text
    assert clinic.charged("cms-ex1") == EX1


def test_what_was_charged_by_somebody_else_since_the_launch_is_seen_when_the_chart_is_read_again(person):
    page = person.launch("second-visit")
    assert "97110" in page.text
    again = person.press(page, "Read the chart again")
    assert again.heading == page.heading
