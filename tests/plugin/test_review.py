"""A visit with the answers in it: counted, checked, and whether it can be signed."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from quarterhour.core.findings import Finding, Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.visit import Discipline
from quarterhour.plugin.review import Answers, Correction, review

SHIPPED = Library.load()


def units(reviewed):
    return {line.code: line.units for line in reviewed.charged}


def test_a_visit_with_nothing_open_can_be_signed(a_visit):
    reviewed = review(a_visit(("97112", 24), ("97110", 23)), Answers(), SHIPPED)
    assert units(reviewed) == {"97112": 2, "97110": 1}
    assert reviewed.blocked == ()


def test_a_tie_is_asked_and_never_decided_here(a_visit):
    visit = a_visit(("97112", 20), ("97110", 20))
    asked = review(visit, Answers(), SHIPPED)
    assert asked.blocked == ("1 unit is still to be placed.",)
    ways = [dict(way) for way in asked.unsettled.lines_if]
    assert ways == [{"97112": 2, "97110": 1}, {"97112": 1, "97110": 2}]
    for way in ways:
        settled = review(visit, Answers(tie=way), SHIPPED)
        assert (units(settled), settled.blocked) == (dict(way), ())
        assert settled.unsettled == asked.unsettled  # so that it can be changed


def open_ties(reviewed):
    return [reason for reason in reviewed.blocked if "to be placed" in reason]


@pytest.mark.parametrize("tie", [{"97112": 3}, {"97112": 2, "97110": 2}, {"99999": 1}])
def test_a_choice_that_is_none_of_the_ways_decides_nothing(a_visit, tie):
    reviewed = review(a_visit(("97112", 20), ("97110", 20)), Answers(tie=tie), SHIPPED)
    assert open_ties(reviewed)[0].startswith("1 unit is still to be placed.")
    assert units(reviewed) == {"97112": 1, "97110": 1}


MANY = [code.code for code in SHIPPED.codes if code.pools and code.valid_on(date(2026, 11, 20))][:14]


@pytest.mark.parametrize(
    ("taken", "blocked"),
    [
        (0, "4 units are still to be placed."),
        (1, "4 units are still to be placed. 1 code is chosen."),
        (3, "4 units are still to be placed. 3 codes are chosen."),
        (5, "4 units are still to be placed. 5 codes are chosen."),
        (4, None),
    ],
)
def test_a_tie_of_more_than_a_thousand_ways_is_settled_by_as_many_codes_as_units(a_visit, taken, blocked):
    visit = a_visit(*[(code, 4) for code in MANY])
    reviewed = review(visit, Answers(tie=dict.fromkeys(MANY[:taken], 1)), SHIPPED)
    assert reviewed.unsettled.lines_if == ()
    assert open_ties(reviewed) == ([blocked] if blocked else [])
    assert units(reviewed) == (dict.fromkeys(MANY[:taken], 1) if blocked is None else {})


def test_a_kept_choice_of_many_is_asked_again_once_the_count_is_another(a_visit):
    tie = dict.fromkeys(MANY[:4], 1)
    assert review(a_visit(*[(code, 4) for code in MANY]), Answers(tie=tie), SHIPPED).suggestion.ties == ()
    again = review(a_visit(*[(code, 4) for code in MANY], ("97150", 10)), Answers(tie=tie), SHIPPED)
    assert open_ties(again) == ["4 units are still to be placed."]


def test_an_unknown_policy_is_asked_and_both_ways_of_counting_are_shown(a_visit):
    visit = a_visit(("97112", 16), ("97530", 22), policy=None)
    reviewed = review(visit, Answers(), SHIPPED)
    assert reviewed.suggestion is None
    assert reviewed.charged == ()
    assert reviewed.blocked == ("The policy to count under is not chosen.",)
    assert [other.policy for other in reviewed.comparison] == ["cms-part-b", "ama-midpoint"]
    assert [other.suggestion.total_timed_units for other in reviewed.comparison] == [3, 2]
    assert review(visit, Answers(policy="ama-midpoint"), SHIPPED).blocked == ()


def test_a_chosen_policy_counts_instead_of_the_one_that_was_found(a_visit):
    reviewed = review(a_visit(("97112", 16), ("97530", 22)), Answers(policy="ama-midpoint"), SHIPPED)
    assert units(reviewed) == {"97112": 1, "97530": 1}


def test_an_unknown_discipline_is_asked_and_nothing_is_signed_without_it(a_visit):
    visit = a_visit(("97110", 15), discipline=None)
    assert "The discipline is not known." in review(visit, Answers(), SHIPPED).blocked
    answered = review(visit, Answers(discipline=Discipline.OT), SHIPPED)
    assert answered.blocked == ()
    assert [modifier.code for line in answered.lines for modifier in line.modifiers] == ["GO"]


SUMMED_APART = (
    "Other services of this day are PT, and all minutes of a discipline and day are counted as one sum. "
    "If these are PT too, document in the EHR who furnished them and read the chart again; else choose "
    "another discipline, or leave them out with a reason."
)


@pytest.mark.parametrize(
    ("chart_says", "others"), [(None, ("PT", "OT")), ("OT", ("PT",))]
)  # a draft of before may have chosen one as well
def test_a_discipline_that_other_services_of_the_day_are_of_cannot_be_chosen_for_a_second_sum(
    a_visit, chart_says, others
):
    visit = a_visit(
        ("97110", 15),
        discipline=Discipline(chart_says) if chart_says else None,
        other_disciplines=tuple(map(Discipline, others)),
    )
    assert review(visit, Answers(discipline=Discipline.PT), SHIPPED).blocked == (SUMMED_APART,)
    assert review(visit, Answers(discipline=Discipline.SLP), SHIPPED).blocked == ()
    assert review(visit, Answers(), SHIPPED).blocked == (
        () if chart_says else ("The discipline is not known.",)
    )


def test_a_discipline_that_the_chart_tells_can_be_corrected(a_visit):
    assert review(a_visit(("97110", 15)), Answers(), SHIPPED).visit.discipline == "PT"
    assert review(a_visit(("97110", 15)), Answers(discipline=Discipline.OT), SHIPPED).visit.discipline == "OT"


def test_missing_minutes_are_asked_and_the_entered_ones_count(a_visit):
    visit = a_visit(("97110", 20), ("97140", None))
    assert "Minutes are missing for 97140." in review(visit, Answers(), SHIPPED).blocked
    answered = review(visit, Answers(minutes={"Procedure/2": Correction(12, "Note")}), SHIPPED)
    assert (units(answered), answered.blocked) == ({"97110": 1, "97140": 1}, ())


def test_an_assistant_s_minutes_stay_the_assistant_s_when_corrected(a_visit):
    visit = a_visit(("97110", None), assistant_services=frozenset({"Procedure/1"}))
    (service,) = review(visit, Answers(minutes={"Procedure/1": Correction(20, "x")}), SHIPPED).visit.services
    assert (service.minutes, service.assistant_minutes) == (0, 20)


def test_what_is_left_out_is_not_counted_either(a_visit):
    reviewed = review(a_visit(("97112", 24), ("97110", 23)), Answers(left_out={"Procedure/1": "No"}), SHIPPED)
    assert units(reviewed) == {"97110": 2}


def test_with_everything_left_out_there_is_nothing_to_sign(a_visit):
    reviewed = review(a_visit(("97110", 23)), Answers(left_out={"Procedure/1": "No"}), SHIPPED)
    assert reviewed.blocked == ("There is no unit to charge.",)


def test_a_modifier_taken_off_is_off_the_line_and_changes_no_units(a_visit):
    visit = a_visit(("97110", 23))
    plain = review(visit, Answers(), SHIPPED)
    off = review(visit, Answers(modifiers_off={"97110": ("GP",)}), SHIPPED)
    assert [modifier.code for modifier in plain.lines[0].modifiers] == ["GP"]
    assert off.lines[0].modifiers == ()
    assert units(off) == units(plain)


@pytest.mark.parametrize(
    ("severity", "status", "blocks"),
    [
        (Severity.CRITICAL, Status.FAIL, True),
        (Severity.CRITICAL, Status.NOT_CHECKED, False),
        (Severity.WARNING, Status.FAIL, False),
    ],
)
def test_a_critical_finding_wants_a_reason_before_anything_is_signed(a_visit, severity, status, blocks):
    visit = a_visit(("97110", 23), findings=(Finding("left-out", status, severity, "Something."),))
    reviewed = review(visit, Answers(), SHIPPED)
    assert reviewed.blocked == (("1 critical finding needs a reason.",) if blocks else ())
    assert review(visit, Answers(notes={"left-out": "Told."}), SHIPPED).blocked == ()


def test_a_date_before_the_policy_s_first_term_is_said_and_never_guessed(a_visit):
    visit = a_visit(("97110", 23))
    early = replace(visit, visit=replace(visit.visit, date_of_service=date(1999, 12, 31)))
    reviewed = review(early, Answers(), SHIPPED)
    assert reviewed.suggestion is None
    assert reviewed.blocked == (reviewed.not_in_force,)
    assert "1999-12-31" in reviewed.not_in_force


@pytest.mark.parametrize(
    ("answers", "assistants"),
    [
        (Answers(), 8),  # 7:40 and 7:20 are 15 minutes
        (Answers(left_out={"Procedure/1": "Another patient's"}), 7),
        (Answers(minutes={"Procedure/1": Correction(7, "Note")}), 7),
        (Answers(minutes={"Procedure/1": Correction(8, "Note")}), 7),
    ],
)
def test_seconds_of_what_is_left_out_or_corrected_fill_nobodys_minute(a_visit, answers, assistants):
    visit = a_visit(
        ("97110", None),
        ("97110", None),
        assistant_services=frozenset({"Procedure/2"}),
        lasted={
            "Procedure/1": timedelta(minutes=7, seconds=40),
            "Procedure/2": timedelta(minutes=7, seconds=20),
        },
    )
    *_, last = review(visit, answers, SHIPPED).visit.services
    assert (last.reference, last.assistant_minutes) == ("Procedure/2", assistants)
