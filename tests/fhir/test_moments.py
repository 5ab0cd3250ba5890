"""Dates and times as EHRs send them."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterhour.fhir.moments import moment

BOSTON = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "at", "day", "zone_assumed"),
    [
        ("2026-11-20T09:00:00-05:00", datetime(2026, 11, 20, 14, tzinfo=UTC), date(2026, 11, 20), False),
        ("2026-11-20T14:00:00Z", datetime(2026, 11, 20, 14, tzinfo=UTC), date(2026, 11, 20), False),
        ("2026-11-21T04:59:59Z", datetime(2026, 11, 21, 4, 59, 59, tzinfo=UTC), date(2026, 11, 20), False),
        ("2026-11-21T05:00:00Z", datetime(2026, 11, 21, 5, tzinfo=UTC), date(2026, 11, 21), False),
        ("2026-11-20T09:00:00", datetime(2026, 11, 20, 14, tzinfo=UTC), date(2026, 11, 20), True),
        ("2026-07-20T09:00:00", datetime(2026, 7, 20, 13, tzinfo=UTC), date(2026, 7, 20), True),
        ("2026-11-20", None, date(2026, 11, 20), False),
        ("2026-11", None, None, False),
        ("2026", None, None, False),
    ],
)
def test_of_each_precision_only_what_it_says_is_taken(text, at, day, zone_assumed):
    got = moment(text, BOSTON)
    assert (got.at, got.day, got.zone_assumed) == (at, day, zone_assumed)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-03-08T01:59:59", "2026-03-08T06:59:59Z"),
        ("2026-03-08T02:00:00", None),  # the clocks went from 2:00 to 3:00
        ("2026-03-08T02:59:59", None),
        ("2026-03-08T03:00:00", "2026-03-08T07:00:00Z"),
        ("2026-11-01T00:59:59", "2026-11-01T04:59:59Z"),
        ("2026-11-01T01:00:00", None),  # and at 2:00 back to 1:00
        ("2026-11-01T01:59:59", None),
        ("2026-11-01T02:00:00", "2026-11-01T07:00:00Z"),
        ("2026-11-01T01:30:00-04:00", "2026-11-01T05:30:00Z"),  # with its offset it is certain
        ("2026-11-01T01:30:00-05:00", "2026-11-01T06:30:00Z"),
    ],
)
def test_a_time_that_the_clocks_showed_twice_or_never_is_no_instant_but_has_its_day(text, utc):
    got = moment(text, BOSTON)
    assert got.at == (datetime.fromisoformat(utc) if utc else None)
    assert got.day == date.fromisoformat(text[:10])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "today",
        "20.11.2026",
        "2026-00",
        "2026-13",
        "20261120",
        "2026-W47-5",
        "2026-02-29",
        "2026-11-20T24:00:00Z",
        "2026-11-20T25:00:00Z",
        "2026-11-20T23:59:60Z",
        "2026-11-20T09:00",
        "2026-11-20 09:00:00",
        "2026-11-20T09:00:00-05:00\n",
        "1899-12-31",
        "9999-12-31T23:59:59-12:00",
        "٢٠٢٦-11-20",
    ],
)
def test_what_is_no_datetime_is_none_and_not_a_guess(text):
    assert moment(text, BOSTON) is None


@given(st.datetimes(datetime(1901, 1, 1), datetime(9989, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_every_instant_comes_back_as_the_same_instant(naive, offset):
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    text = f"{naive.isoformat(timespec='microseconds')}{sign}{hours:02}:{minutes:02}"
    assert moment(text, BOSTON).at == datetime.fromisoformat(text)
