"""What a form settles: entries that cannot be used are named, and what was kept before stays."""

import pytest
from werkzeug.datastructures import MultiDict

from quarterhour.core.visit import Discipline
from quarterhour.plugin.review import Answers, Correction
from quarterhour.plugin.review_views import answers_from

KEPT = Answers(
    policy="cms-part-b",
    discipline=Discipline.OT,
    tie={"97112": 2, "97110": 1},
    minutes={"Procedure/1": Correction(20, "Flow sheet")},
)


@pytest.fixture
def settle(here, a_visit):
    def settled(form, before=KEPT):
        return answers_from(MultiDict(form), a_visit(("97110", None), ("97112", 20)), before, here)

    return settled


def test_minutes_with_where_they_are_documented_are_taken(settle):
    answers, problems = settle({"minutes:Procedure/1": " 12 ", "why:Procedure/1": " My note "})
    assert answers.minutes == {"Procedure/1": Correction(12, "My note")}
    assert problems == []


@pytest.mark.parametrize("minutes", ["0", "1440"])
def test_minutes_from_0_to_a_whole_day_are_taken(settle, minutes):
    answers, problems = settle({"minutes:Procedure/1": minutes, "why:Procedure/1": "x"})
    assert answers.minutes["Procedure/1"].minutes == int(minutes)
    assert problems == []


@pytest.mark.parametrize(
    "minutes", ["1441", "-1", "12.5", "12,5", "1e2", "0x1", "twelve", "١٢", "²", "1_0", "9" * 5000]
)
def test_minutes_that_are_not_whole_are_named_and_what_was_kept_stays(settle, minutes):
    answers, problems = settle({"minutes:Procedure/1": minutes, "why:Procedure/1": "x"})
    assert problems == [f"97110: '{minutes[:20]}' is not whole minutes from 0 to 1440."]
    assert answers.minutes == KEPT.minutes


def test_minutes_without_a_place_are_named_and_what_was_kept_stays(settle):
    answers, problems = settle({"minutes:Procedure/1": "12", "why:Procedure/1": "  "})
    assert problems == ["97110: say where the 12 minutes are documented, so that they count."]
    assert answers.minutes == KEPT.minutes


def test_one_entry_that_cannot_be_used_loses_none_of_the_others(settle):
    answers, problems = settle(
        {
            "minutes:Procedure/1": "many",
            "minutes:Procedure/2": "15",
            "why:Procedure/2": "Note",
            "note:x": "Because",
            "tie": "97112=1 97110=2",
        }
    )
    assert len(problems) == 1
    assert answers.minutes == {**KEPT.minutes, "Procedure/2": Correction(15, "Note")}
    assert (answers.notes, answers.tie) == ({"x": "Because"}, {"97112": 1, "97110": 2})


def test_minutes_taken_away_are_the_chart_s_again(settle):
    answers, problems = settle({"minutes:Procedure/1": "", "why:Procedure/1": "x"})
    assert (answers.minutes, problems) == ({}, [])


def test_minutes_for_a_service_that_the_visit_has_not_are_not_kept(settle):
    answers, _ = settle({"minutes:Procedure/9": "12", "why:Procedure/9": "x", "out:Procedure/9": "x"})
    assert (answers.minutes, answers.left_out) == ({}, {})


@pytest.mark.parametrize("tie", ["", "97112", "97112=", "=2", "97112=two", "97112=-1", "97112=" + "9" * 5000])
def test_a_tie_that_cannot_be_read_leaves_the_kept_choice(settle, tie):
    answers, _ = settle({"tie": tie})
    assert answers.tie == KEPT.tie


@pytest.mark.parametrize(
    ("ticked", "tie"),
    [
        ([], {"97112": 1}),
        (["97110"], {"97112": 1, "97110": 1}),
        (["97110", "97112"], {"97112": 2, "97110": 1}),
        (["99999", "97110", "97110"], {"97112": 1, "97110": 1}),
    ],
)
def test_each_ticked_code_takes_one_unit_and_too_few_or_too_many_are_kept(settle, ticked, tie):
    form = [("tie-open", "97112=1 97110=0"), *(("tie-takes", code) for code in ticked)]
    answers, problems = settle(MultiDict(form))
    assert (answers.tie, problems) == (tie, [])


@pytest.mark.parametrize("units", ["", "97112", "97112=two", "97112=" + "9" * 5000])
def test_ticks_on_units_that_cannot_be_read_leave_the_kept_choice(settle, units):
    answers, _ = settle({"tie-open": units, "tie-takes": "97110"})
    assert answers.tie == KEPT.tie


def test_a_policy_or_discipline_that_does_not_exist_leaves_the_kept_one(settle):
    answers, _ = settle({"policy": "my-own", "discipline": "MD"})
    assert (answers.policy, answers.discipline) == ("cms-part-b", Discipline.OT)


def test_a_modifier_offered_and_not_ticked_is_taken_off(settle):
    form = [("offered:97110", "GP"), ("offered:97110", "CQ"), ("on:97110", "GP"), ("offered:97112", "GP")]
    answers, _ = settle(MultiDict(form))
    assert answers.modifiers_off == {"97110": ("CQ",), "97112": ("GP",)}


def test_a_reason_is_kept_to_its_longest_and_an_empty_one_not_at_all(settle):
    answers, _ = settle({"note:x": "r" * 301, "note:y": "   ", "out:Procedure/2": "o" * 301})
    assert answers.notes == {"x": "r" * 300}
    assert answers.left_out == {"Procedure/2": "o" * 300}


def test_each_finding_has_a_box_of_its_own(settle):
    earlier = Answers(notes={"left-out Procedure/1": "Old", "left-out Procedure/2": "Old"})
    answers, _ = settle({"note:left-out Procedure/1": "New", "note:left-out Procedure/2": ""}, earlier)
    assert answers.notes == {"left-out Procedure/1": "New"}
