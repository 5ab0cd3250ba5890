"""CQ and CO: which units carry them, which lines they make, and what is left open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterhour.core.assistants import AssistantRule, by_unit, by_whole, methods_say
from quarterhour.core.visit import Discipline, Service

SINCE_2022 = AssistantRule("therapist-eight-minutes", 10, 15, 8)
BEFORE = AssistantRule("de-minimis", 10, 15, 8)


def lines(suggestion):
    return [
        (line.code, line.units, line.minutes, [put.code for put in line.modifiers])
        for line in suggestion.lines
    ]


@pytest.mark.parametrize(("therapist", "assisted"), [(7, 1), (8, 0)])
def test_eight_minutes_of_the_last_unit_by_the_therapist_need_no_modifier(therapist, assisted):
    assert by_unit(1, therapist, 8, SINCE_2022).assisted == assisted
    assert by_unit(1, therapist, 8, BEFORE).assisted == 1


@pytest.mark.parametrize(("therapist", "assistant"), [(9, 14), (14, 9), (12, 12)])
def test_two_last_units_are_one_each_from_2022(therapist, assistant):
    split = by_unit(2, therapist, assistant, SINCE_2022)
    assert (split.without, split.assisted, split.doubt) == (1, 1, None)
    before = by_unit(2, therapist, assistant, BEFORE)
    assert (before.without, before.assisted) == (0, 2)
    assert "Before 2022" in before.doubt


@pytest.mark.parametrize(("therapist", "assistant"), [(8, 14), (14, 8)])
def test_two_last_units_beyond_what_the_rule_names_are_doubted(therapist, assistant):
    assert "speaks of 9 to 14" in by_unit(2, therapist, assistant, SINCE_2022).doubt


def test_full_units_are_theirs_who_furnished_them():
    split = by_unit(5, 45, 30, SINCE_2022)
    assert (split.without, split.assisted, split.doubt) == (3, 2, None)


@pytest.mark.parametrize(("assistant", "assisted"), [(3, 0), (4, 1)])
def test_an_untimed_code_is_compared_as_a_whole(assistant, assisted):
    assert by_whole(1, 30 - assistant, assistant, SINCE_2022).assisted == assisted


@pytest.mark.parametrize(
    ("assistant", "total", "percentage", "simple"),
    [
        (3, 30, False, False), (4, 30, True, True),
        (2, 15, True, False), (1, 8, True, False),
        (1, 10, False, False), (2, 10, True, True),
        (21, 200, True, True), (20, 200, False, False),
        (5, 48, False, False), (105, 1000, True, True), (104, 1000, False, True),
        (20, 191, False, True), (20, 194, False, True),
        (0, 0, False, False),
    ],
)  # fmt: skip
def test_the_two_methods_of_de_minimis(assistant, total, percentage, simple):
    assert methods_say(assistant, total, 10) == (percentage, simple)


def test_a_disagreement_of_the_methods_is_a_doubt_with_the_numbers():
    split = by_unit(1, 7, 1, SINCE_2022)
    assert split.methods_differ
    assert "1 of 8 minutes" in split.doubt
    assert split.assisted == 1  # the rule as it was read; the finding asks


@pytest.mark.parametrize(("therapist", "assistant", "assisted"), [(89, 10, 1), (90, 10, 0), (91, 10, 0)])
def test_ten_percent_exactly_is_not_more_than_ten_percent(therapist, assistant, assisted):
    assert by_whole(1, therapist, assistant, SINCE_2022).assisted == assisted


def test_before_2022_one_last_unit_is_only_doubted_where_the_methods_differ():
    agreed = by_unit(1, 10, 10, BEFORE)
    assert (agreed.assisted, agreed.doubt, agreed.methods_differ) == (1, None, False)
    differ = by_unit(1, 7, 1, BEFORE)
    assert (differ.assisted, differ.methods_differ) == (1, True)
    assert "the simple method does not." in differ.doubt


def test_before_2022_two_last_units_without_the_modifier_are_not_doubted():
    split = by_unit(2, 14, 1, BEFORE)  # 1 of 15 is not more than ten percent
    assert (split.without, split.assisted, split.doubt) == (2, 0, None)


FURNISHED = "{} minutes by the therapist, {} by the assistant alone"


@pytest.mark.parametrize(
    ("units", "therapist", "assistant", "rule", "because"),
    [
        (2, 15, 15, SINCE_2022, ": full units are theirs who furnished them."),
        (2, 9, 14, SINCE_2022, "; 9 and 14 remain: two units are left, one with the modifier and one without."),
        (1, 8, 14, SINCE_2022, "; 8 and 14 remain: the therapist's 8 make the last unit without the assistant's."),
        (
            1, 7, 8, SINCE_2022,
            "; 7 and 8 remain: the assistant's 8 make the last unit, the therapist's 7 would not.",
        ),
        (
            1, 7, 7, SINCE_2022,
            "; 7 and 7 remain: 7 of 14 minutes are the assistant's, more than 10 percent.",
        ),
        (
            1, 12, 1, BEFORE,
            "; 12 and 1 remain: 1 of 13 minutes are the assistant's, not more than 10 percent.",
        ),
    ],
)  # fmt: skip
def test_the_reason_of_a_split_is_its_sum(units, therapist, assistant, rule, because):
    split = by_unit(units, therapist, assistant, rule)
    assert split.because == FURNISHED.format(therapist, assistant) + because


def test_the_doubt_about_the_two_methods_has_what_each_says():
    assert by_whole(1, 7, 1, SINCE_2022).doubt == (
        "1 of 8 minutes are the assistant's, more than 10 percent; "
        "the method by percentage asks for the modifier, the simple method does not."
    )
    assert by_whole(1, 171, 20, SINCE_2022).doubt.endswith(
        "the method by percentage does not, the simple method asks for the modifier."
    )


def test_a_code_of_both_makes_two_lines_with_their_minutes(suggested):
    assert lines(suggested(("97110", 23, 22))) == [("97110", 2, 23, ["GP"]), ("97110", 1, 22, ["CQ", "GP"])]


def test_an_occupational_therapy_assistant_has_co(suggested):
    assert lines(suggested(("97530", 0, 15), discipline=Discipline.OT)) == [("97530", 1, 15, ["CO", "GO"])]


def test_minutes_together_are_the_therapists_for_the_modifier_too(suggested):
    both = Service("97110", 0, assistant_minutes=15, concurrent_minutes=15)
    assert lines(suggested(both)) == [("97110", 1, 15, ["GP"]), ("97110", 1, 15, ["CQ", "GP"])]


def test_a_policy_without_assistant_modifiers_puts_none_on(suggested):
    assert lines(suggested(("97110", 0, 15), policy="ama-midpoint")) == [("97110", 1, 15, [])]


def test_an_untimed_code_whose_minutes_are_not_known_is_left_without_and_said(suggested, outcome):
    suggestion = suggested(Service("97150", assistant_minutes=10))
    assert lines(suggestion) == [("97150", 1, None, ["GP"])]
    ((status, message),) = outcome(suggestion, "assistant-method")
    assert (status, "97150" in message) == ("not-checked", True)


def test_a_pair_of_equal_units_splits_by_unit_the_therapists_first(suggested, outcome):
    suggestion = suggested(("97129", 30, 15))
    assert lines(suggestion) == [
        ("97129", 1, 15, ["GP"]),
        ("97130", 1, 15, ["GP"]),
        ("97130", 1, 15, ["CQ", "GP"]),
    ]
    ((status, message),) = outcome(suggestion, "assistant-method")
    assert (status, "No source says which of 97129 and 97130" in message) == ("not-checked", True)


def test_a_pair_of_unequal_units_is_compared_as_a_whole_and_said(suggested, outcome):
    suggestion = suggested(("97550", 40, 13))  # 13 of 53 is more than a tenth
    assert lines(suggestion) == [("97550", 1, 30, ["CQ", "GP"]), ("97551", 2, 23, ["CQ", "GP"])]
    assert outcome(suggestion, "assistant-method")[0][0] == "not-checked"
    alone = suggested(("97550", 0, 30))
    assert outcome(alone, "assistant-method") == "passed"


def test_the_reason_of_the_modifier_has_the_minutes_and_its_source(suggested):
    (line,) = suggested(("97110", 5, 10)).lines
    put = line.modifiers[0]
    assert put.reason == (
        "5 minutes by the therapist, 10 by the assistant alone; 5 and 10 remain: "
        "the assistant's 10 make the last unit, the therapist's 5 would not."
    )
    assert "2022-01-01" in put.source.section


@given(st.integers(0, 240), st.integers(0, 240), st.booleans(), st.sampled_from([SINCE_2022, BEFORE]))
def test_a_split_shares_all_units_and_none_twice(therapist, assistant, more, rule):
    total = therapist + assistant
    units = total // 15 + (more and total % 15 > 0)
    split = by_unit(units, therapist, assistant, rule)
    assert split.without + split.assisted == units
    assert split.without >= therapist // 15
    assert split.assisted >= assistant // 15
    assert split.because
