"""Modifiers: whose, why, in which order, and which are never put on by themselves."""

from __future__ import annotations

from decimal import Decimal

import pytest

from quarterhour.core.library import Library
from quarterhour.core.modifiers import assistant_splits
from quarterhour.core.policy import InForce
from quarterhour.core.suggestion import suggest
from quarterhour.core.units import count, documented
from quarterhour.core.visit import AlreadyCharged, Discipline, History, Provider, Service


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


def test_a_modifier_put_on_twice_stands_once(suggested):
    (line,) = suggested(("97110", 15), modifiers={"97110": ("59", "59")}).lines
    assert codes(line) == ["59", "GP"]


def test_the_assistants_modifier_of_the_clinician_stays_where_the_assistants_part_asks_for_none(suggested):
    # 30 + 2 = 32 make 2 units, both the therapist's.
    (line,) = suggested(("97110", 30, 2), modifiers={"97110": ("CQ",)}).lines
    assert codes(line) == ["CQ", "GP"]
    charged = suggested(
        ("97110", 30), modifiers={"97110": ("CQ",)}, already_charged=(AlreadyCharged("97110", 1),)
    )
    assert codes(charged.lines[0]) == ["CQ", "GP"]


def test_a_line_without_units_of_the_day_carries_no_modifier_though_one_was_charged(suggested):
    (line,) = suggested(("97110", 5), already_charged=(AlreadyCharged("97110", 1),)).lines
    assert (line.units, line.units_of_day, line.modifiers) == (0, 0, ())


def test_an_order_that_decides_nothing_is_not_among_the_terms_used(suggested):
    one, two = (suggested(("97110", 15), modifiers={"97110": given}) for given in ((), ("59",)))
    assert "modifier_order" not in {term.name for term in one.terms}
    assert "modifier_order" in {term.name for term in two.terms}


def test_a_policy_need_not_speak_of_order_or_of_two_methods(tmp_path, a_visit):
    (tmp_path / "ours.yaml").write_text(
        "policy: ours\ntitle: Ours\nsources:\n"
        '  letter: {title: L, section: s, url: "https://a.example/", read_on: 2026-01-01, verified: true}\n'
        "terms:\n"
        + "".join(
            f"  {name}:\n    2022-01-01: {{value: {value}, source: letter}}\n"
            for name, value in {
                "counting": "total-timed-minutes",
                "unit_minutes": 15,
                "minimum_minutes": 8,
                "discipline_modifiers": "{PT: GP}",
                "assistant_modifiers": "{PT: CQ}",
                "assistant_method": "therapist-eight-minutes",
                "assistant_de_minimis_percent": 10,
            }.items()
        ),
        encoding="utf-8",
    )
    library = Library.load(tmp_path)
    visit = a_visit(("97110", 0, 15), modifiers={"97110": ("59",)})
    (line,) = suggest(visit, library.policy("ours"), library).lines
    assert codes(line) == ["CQ", "GP", "59"]
    doubtful = suggest(a_visit(("97110", 7, 1)), library.policy("ours"), library)
    (finding,) = [one for one in doubtful.findings if one.id == "assistant-method"]
    assert finding.source.title == "L"  # that of the modifiers, as the policy does not speak of two methods


# ---- which lines the assistant's minutes make ------------------------------------------------------


def says(line):
    return [reason.says for reason in line.because]


def test_only_a_code_that_the_assistant_furnished_is_split(suggested):
    both, alone, pair = suggested(("97110", 8, 22), ("97140", 15), ("97129", 15)).lines[1:]
    assert (both.code, alone.code, pair.code) == ("97110", "97140", "97129")
    split = "8 minutes by the therapist, 22 by the assistant alone"
    assert says(both)[-1].startswith(split)
    assert both.because[-1].source == both.modifiers[0].source
    for line in (alone, pair):
        assert codes(line) == ["GP"]
        assert not any("assistant" in reason for reason in says(line))


def test_a_code_without_a_unit_is_not_split(suggested):
    (line,) = suggested(("97110", 2, 5)).lines
    assert not any("full units" in reason for reason in says(line))


def test_lines_of_a_split_have_the_sum_once_and_nothing_of_charges(suggested):
    first, second = suggested(("97110", 23, 22)).lines
    assert says(first) == says(second)
    assert says(first)[-1] == (
        "23 minutes by the therapist, 22 by the assistant alone; 8 and 7 remain: "
        "the therapist's 8 make the last unit without the assistant's."
    )
    assert not any("charged" in reason for reason in says(first))


def test_a_split_has_its_own_minutes_beside_a_pair_of_codes(suggested):
    plain, assisted, _ = suggested(("97110", 23, 22), ("97129", 15)).lines
    assert (plain.minutes, assisted.minutes) == (23, 22)


def test_an_untimed_code_whose_minutes_are_not_known_says_so_on_its_line(suggested):
    (line,) = suggested(Service("97150", assistant_minutes=10)).lines
    assert (
        says(line)[-1]
        == "The therapist's minutes of 97150 are not known, so the assistant's share is not either."
    )


def test_all_units_of_a_code_whose_minutes_are_not_known_are_without_the_modifier(a_visit, library):
    visit = a_visit(Service("97150", assistant_minutes=10, units=2))
    terms = InForce(library.policy("cms-part-b"), visit.date_of_service)
    services = documented(visit, library.codes)
    splits = assistant_splits(visit, count(visit, services, terms, library.codes), services, terms)
    assert (splits["97150"].without, splits["97150"].assisted) == (2, 0)


def test_a_first_code_alone_is_the_assistants_who_furnished_it(suggested):
    (line,) = suggested(("97129", 0, 15)).lines
    assert (line.units, codes(line)) == (1, ["CQ", "GP"])
    assert line.modifiers[0].reason == (
        "0 minutes by the therapist, 15 by the assistant alone: full units are theirs who furnished them."
    )


def test_a_code_of_an_hour_is_compared_as_a_whole(suggested):
    (line,) = suggested(("96125", 30, 35)).lines
    assert (line.units, codes(line)) == (1, ["CQ", "GP"])


def test_a_pair_of_which_no_unit_is_the_assistants_is_not_doubted(suggested, outcome):
    assert outcome(suggested(("97129", 28, 2)), "assistant-method") == "passed"


def test_a_doubt_about_a_first_code_names_no_further_one(suggested, outcome):
    ((status, message),) = outcome(suggested(("97129", 7, 1)), "assistant-method")
    assert (status, message.startswith("97129: 1 of 8 minutes")) == ("fail", True)


# ---- what was charged before -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "sum_of_it"),
    [
        (1, 2, "3 for the day, 1 already charged: 2 to charge now."),
        (3, 0, "3 for the day, 3 already charged: 0 to charge now."),
        (4, 0, "3 for the day, 4 already charged: 0 to charge now."),
    ],
)
def test_a_line_says_what_was_charged_before(suggested, before, now, sum_of_it):
    suggestion = suggested(("97110", 45), already_charged=(AlreadyCharged("97110", before),))
    (line,) = suggestion.lines
    assert (line.units, says(line)[-1]) == (now, sum_of_it)
    (counting,) = [term for term in suggestion.terms if term.name == "counting"]
    assert line.because[-1].source == counting.citation


@pytest.mark.parametrize(
    "charge",
    [
        {"specialty": "OT"},
        {"specialty": "OT", "tin": "T1"},
    ],
)
def test_a_charge_by_a_specialty_is_unclear_to_a_visit_that_names_none(suggested, outcome, charge):
    suggestion = suggested(
        ("97110", 30), provider=Provider(tin="T1"), already_charged=(AlreadyCharged("97110", 1, **charge),)
    )
    ((status, _),) = outcome(suggestion, "already-charged")
    assert (status, suggestion.lines[0].units) == ("not-checked", 2)
