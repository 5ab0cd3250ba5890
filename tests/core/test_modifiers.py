"""Modifiers: whose, why, in which order, and which are never put on by themselves."""

from __future__ import annotations

from decimal import Decimal

import pytest

from quarterhour.core.visit import Discipline, History


def codes(line):
    return [put.code for put in line.modifiers]


@pytest.mark.parametrize(
    ("discipline", "code", "modifier"),
    [(Discipline.PT, "97110", "GP"), (Discipline.OT, "97530", "GO"), (Discipline.SLP, "92507", "GN")],
)
def test_each_discipline_has_its_modifier_with_reason_and_source(suggested, discipline, code, modifier):
    (line,) = suggested((code, 30), discipline=discipline).lines
    (put,) = line.modifiers
    assert put.code == modifier
    assert f"{discipline.value} plan of care" in put.reason
    assert put.source is not None


def test_a_code_sometimes_therapy_has_it_too_and_one_that_is_never_has_not(suggested):
    sometimes, never = suggested(("97129", 15), ("97010", 10)).lines
    assert (codes(sometimes), codes(never)) == (["GP"], [])


def test_what_the_clinician_put_on_stays_with_that_reason(suggested):
    (line,) = suggested(("97110", 15), modifiers={"97110": ("59", "GP")}).lines
    assert codes(line) == ["59", "GP"]
    assert line.modifiers[0].reason == "Put on by the clinician."


def test_payment_modifiers_come_first_and_information_after(suggested):
    (line,) = suggested(("97110", 0, 15), modifiers={"97110": ("KX", "ZZ", "59")}).lines
    assert codes(line) == ["59", "CQ", "GP", "KX", "ZZ"]


def test_kx_and_59_are_never_put_on_by_themselves(suggested):
    suggestion = suggested(
        ("97150", 30), ("97110", 15), ("97530", 15), ("97140", 15), ("97124", 15),
        history=History(therapy_amount=Decimal(5000)),
    )  # fmt: skip
    put = {code for line in suggestion.lines for code in codes(line)}
    assert put == {"GP"}
    assert {"kx-threshold", "ncci-edit"} <= {finding.id for finding in suggestion.findings}


def test_the_assistants_modifier_of_the_clinician_stays_off_the_therapists_line(suggested):
    first, second = suggested(("97110", 30, 15), modifiers={"97110": ("CQ",)}).lines
    assert (codes(first), codes(second)) == (["GP"], ["CQ", "GP"])


def test_the_assistants_modifier_of_the_clinician_stays_where_the_minutes_ask_for_none(suggested):
    (line,) = suggested(("97110", 30), modifiers={"97110": ("CQ",)}).lines
    assert codes(line) == ["CQ", "GP"]


def test_the_clinicians_modifier_stands_on_both_lines_of_a_split(suggested):
    first, second = suggested(("97110", 30, 15), modifiers={"97110": ("59",)}).lines
    assert (codes(first), codes(second)) == (["59", "GP"], ["59", "CQ", "GP"])


def test_a_line_without_units_carries_no_modifier(suggested):
    (line,) = suggested(("97110", 7), modifiers={"97110": ("59",)}).lines
    assert (line.units, line.modifiers) == (0, ())
