"""What every shipped policy must hold, whatever it says."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from quarterhour.core import units
from quarterhour.core.library import Library
from quarterhour.core.policy import NotInForce
from quarterhour.core.terms import COUNTING_WORDS, TERMS

LIBRARY = Library.load()
NEXT_YEAR = 2027
DATED = [
    pytest.param(LIBRARY.policy(policy), name, id=f"{policy}-{name}")
    for policy in LIBRARY.ids
    for name in LIBRARY.policy(policy).terms
]


def first_days_of_quarters(since):
    return [
        date(year, month, 1)
        for year in range(since.year, NEXT_YEAR + 1)
        for month in (1, 4, 7, 10)
        if date(year, month, 1) >= since
    ]


@pytest.mark.parametrize(("policy", "name"), DATED)
def test_every_value_has_a_source_with_a_link(policy, name):
    for term in policy.terms[name]:
        assert term.citation.title
        assert term.citation.section
        assert term.citation.url.startswith("https://")
        assert term.citation in policy.sources.values()


@pytest.mark.parametrize(("policy", "name"), DATED)
def test_every_name_has_a_shape_and_dates_ascend(policy, name):
    assert name in TERMS
    dates = [term.since for term in policy.terms[name]]
    assert dates == sorted(set(dates))


@pytest.mark.parametrize(("policy", "name"), DATED)
def test_on_every_quarter_from_the_first_date_to_next_year_exactly_one_value_is_in_force(policy, name):
    dated = policy.terms[name]
    for day in first_days_of_quarters(dated[0].since):
        spans = [
            term
            for term, following in zip(dated, (*dated[1:], None), strict=True)
            if term.since <= day and (following is None or day < following.since)
        ]
        assert spans == [policy.term(name, day)]


@pytest.mark.parametrize(("policy", "name"), DATED)
def test_the_day_before_the_first_date_a_term_is_not_in_force(policy, name):
    with pytest.raises(NotInForce):
        policy.term(name, policy.terms[name][0].since - timedelta(days=1))


@pytest.mark.parametrize("policy", [LIBRARY.policy(policy) for policy in LIBRARY.ids], ids=lambda p: p.id)
def test_every_policy_counts_units_and_says_how(policy):
    assert all(term.value in COUNTING_WORDS for term in policy.terms["counting"])
    assert policy.terms["unit_minutes"]
    assert policy.terms["minimum_minutes"]


def test_every_counting_word_has_a_rule():
    assert set(COUNTING_WORDS) == set(units.RULES) == set(units.COUNTING)


def test_no_code_in_a_policy_is_unknown_to_the_table():
    for policy in map(LIBRARY.policy, LIBRARY.ids):
        for name in ("accepted_codes", "not_accepted_codes", "unlisted_codes", "initial_evaluation_codes"):
            for term in policy.terms.get(name, ()):
                assert all(LIBRARY.codes.get(code) for code in term.value or ())
        for term in policy.terms.get("timed_unit_cap", ()):
            assert all(LIBRARY.codes.get(code) for code in term.value["codes"])


def test_the_codes_that_tufts_accepts_are_valid_whenever_a_line_begins():
    for term in LIBRARY.policy("tufts-commercial-pt").terms["accepted_codes"]:
        assert [code for code in term.value if not LIBRARY.codes.get(code).valid_on(term.since)] == []


def test_the_list_of_optum_is_as_printed_with_its_one_deleted_code():
    term = LIBRARY.policy("optum-0048").term("timed_unit_cap", date(2025, 5, 1))
    assert len(term.value["codes"]) == 22
    deleted = [code for code in term.value["codes"] if not LIBRARY.codes.get(code).valid_on(date(2025, 5, 1))]
    assert deleted == ["97127"]
    assert term.citation.verified
    assert not LIBRARY.policy("optum-0048").term("timed_unit_cap", date(2025, 3, 31)).citation.verified
