from __future__ import annotations

import re
from datetime import date

import pytest

from quarterhour.core.codes import KINDS, TIMED_KINDS
from quarterhour.core.library import Library

CODES = Library.load().codes


def test_a_code_that_nobody_lists_is_not_known():
    assert CODES.get("97620") is None
    assert CODES.on("97620", date(2025, 1, 1)) is None


@pytest.mark.parametrize(
    ("code", "last_day"),
    [("97001", date(2016, 12, 31)), ("97532", date(2017, 12, 31)), ("97127", date(2019, 12, 31))],
)
def test_a_deleted_code_is_valid_on_its_last_day_and_not_on_the_next(code, last_day):
    known = CODES.on(code, last_day)
    assert known.valid_on(last_day)
    assert not known.valid_on(date(last_day.year + 1, 1, 1))


@pytest.mark.parametrize(
    ("code", "first_day"),
    [("97161", date(2017, 1, 1)), ("97129", date(2020, 1, 1)), ("98979", date(2026, 1, 1))],
)
def test_a_new_code_is_valid_from_its_first_day_and_not_the_day_before(code, first_day):
    known = CODES.on(code, first_day)
    assert known.valid_on(first_day)
    assert not known.valid_on(date(first_day.year - 1, 12, 31))


def test_a_code_without_dates_is_valid_on_any_day():
    assert CODES.get("97110").valid_on(date(2001, 1, 1))
    assert CODES.get("97110").valid_on(date(2026, 11, 21))


def test_the_successors_of_a_deleted_code_are_those_valid_on_the_date_through_any_in_between():
    assert CODES.successors("97532", date(2018, 6, 1)) == ("97127", "G0515")
    assert CODES.successors("97532", date(2020, 1, 1)) == ("97129", "97130")
    assert CODES.successors("97703", date(2025, 1, 1)) == ("97763",)


def test_a_code_that_is_valid_or_unknown_has_no_successors():
    assert CODES.successors("97110", date(2025, 1, 1)) == ()
    assert CODES.successors("97620", date(2025, 1, 1)) == ()


def test_the_old_cognitive_code_was_not_timed_and_both_its_neighbours_are():
    assert not CODES.get("97127").timed
    assert CODES.get("97532").timed
    assert CODES.get("97129").timed


def test_only_the_plain_fifteen_minute_codes_pool_into_the_total():
    assert CODES.get("97110").pools
    assert not CODES.get("97129").pools
    assert not CODES.get("96125").pools
    assert not CODES.get("97150").pools


@pytest.mark.parametrize("code", list(CODES), ids=lambda code: code.code)
def test_every_code_fits_its_kind_and_says_where_it_was_read(code):
    assert code.kind in KINDS
    assert re.fullmatch(r"[0-9A-Z][0-9]{3}[0-9A-Z]", code.code)
    assert code.citation.title
    assert code.citation.section
    assert code.citation.url.startswith("https://")
    assert (code.base_minutes is not None) == (code.kind in TIMED_KINDS)
    if code.kind == "timed":
        assert (code.base_minutes, code.addl_minutes, code.minimum_minutes) == (15, 15, 8)
    if code.valid_from and code.valid_to:
        assert code.valid_from < code.valid_to


@pytest.mark.parametrize("code", list(CODES), ids=lambda code: code.code)
def test_a_pair_of_codes_names_each_other_and_successors_are_known(code):
    if code.addon_code:
        assert CODES.get(code.addon_code).addon_of == code.code
    if code.addon_of:
        assert CODES.get(code.addon_of).addon_code == code.code
    assert all(CODES.get(successor) is not None for successor in code.replaced_by)


def test_names_are_short_and_our_own():
    # The descriptors of CPT are sentences such as "..., each 15 minutes to develop ..."; they are the AMA's.
    for code in CODES:
        assert len(code.name) <= 60
        assert not re.search(r"each 15 minutes|one or more areas|direct \(one-on-one\)", code.name)
