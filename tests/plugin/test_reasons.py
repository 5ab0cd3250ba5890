"""Which finding a reason answers: its own, by id and what it is about, through recalculations and former drafts."""

from dataclasses import replace

from quarterhour.core.findings import Finding, Severity, Status
from quarterhour.plugin.reasons import Reasoned, entered, given, keyed, of_all, reasoned


def finding(message: str = "Something.", *codes: str, id_: str = "left-out", status=Status.FAIL) -> Finding:
    return Finding(id_, status, Severity.CRITICAL, message, codes)


def test_findings_of_one_kind_have_keys_by_their_codes_and_the_entries_they_name():
    found = keyed(
        (
            finding("Bike (Procedure/a-1) is not finished.", "97110"),
            finding("Bike (Procedure/a-2) is not finished.", "97110"),
            finding("97140 is doubtful.", "97140"),
            finding("97110 and 97140 share 5 minutes.", "97140", "97110"),
        )
    )
    assert list(found) == [
        "left-out 97110 Procedure/a-1",
        "left-out 97110 Procedure/a-2",
        "left-out 97140",
        "left-out 97110 97140",
    ]


def test_the_end_of_a_sentence_is_no_part_of_the_entry_that_it_ends_with():
    (key,) = keyed((finding("It is a part of Procedure/a.1."),))
    assert key == "left-out Procedure/a.1"


def test_a_check_that_failed_and_one_that_could_not_be_made_are_two_findings():
    assert len(keyed((finding(), finding(status=Status.NOT_CHECKED)))) == 2


def test_a_reason_outlives_a_recalculation_that_changes_the_numbers():
    before, after = finding("97110: 3 units.", "97110"), finding("97110: 4 units.", "97110")
    (key,) = keyed((before,))
    assert given({key: "Because"}, (after,)) == {key: "Because"}


def test_two_findings_about_the_same_are_told_apart_by_their_sentences():
    morning, noon = finding("9:00 to 9:10 is shared.", "97110"), finding("12:00 to 12:10 is shared.", "97110")
    one, other = keyed((morning, noon))
    assert one != other
    assert given({one: "Because"}, (noon, morning)) == {one: "Because"}


def test_the_same_finding_said_twice_is_one():
    assert len(keyed((finding(), finding()))) == 1


def test_a_reason_of_another_kind_or_code_answers_nothing():
    found = (finding("97110.", "97110"), finding("97140.", "97140"))
    assert given({"left-out 97112": "No", "other 97110": "No"}, found) == {}


# --- drafts of before, with one reason for all findings of an id ----------------------------------------------


def test_a_former_reason_answers_the_only_finding_of_its_id():
    assert given({"left-out": "Because"}, (finding("97110.", "97110"),)) == {"left-out 97110": "Because"}


def test_a_former_reason_answers_none_of_two_and_is_shown_with_them():
    both = (finding("97110.", "97110"), finding("97140.", "97140"))
    assert given({"left-out": "Because"}, both) == {}
    assert of_all({"left-out": "Because"}, both) == {"left-out": "Because"}
    assert of_all({"left-out": "Because"}, both[:1]) == {}


def test_a_former_reason_does_not_answer_a_check_that_could_not_be_made():
    assert given({"left-out": "Because"}, (finding("97110.", "97110", status=Status.NOT_CHECKED),)) == {}


def test_a_former_reason_goes_once_its_findings_have_their_own():
    before = {"left-out": "Because"}
    boxes = {"left-out 97110": "One", "left-out 97140": ""}
    assert entered(before, boxes) == {"left-out": "Because", "left-out 97110": "One"}
    assert entered(before, {**boxes, "left-out 97140": "Two"}) == {
        "left-out 97110": "One",
        "left-out 97140": "Two",
    }


def test_a_former_reason_can_be_taken_back():
    assert entered({"left-out": "Because"}, {"left-out 97110": ""}) == {}


# --- what a decision keeps ------------------------------------------------------------------------------------


def test_a_decision_keeps_each_sentence_with_its_reason_in_the_order_of_the_findings():
    found = (finding("97110.", "97110"), finding("97140.", "97140"), replace(finding("Other."), id="x"))
    notes = {"x": "Third", "left-out 97110": "First"}
    assert reasoned(notes, found) == (
        Reasoned("left-out", ("97110",), "97110.", "First"),
        Reasoned("x", (), "Other.", "Third"),
    )
