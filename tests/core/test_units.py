"""Counting: minutes of a visit, ties, codes with rules of their own, and what holds for all minutes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import tracemalloc
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterhour.core.codes import Code
from quarterhour.core.library import Library
from quarterhour.core.policy import Citation, NotInForce, Policy, Term
from quarterhour.core.suggestion import settles, sharing, suggest, units_of_day
from quarterhour.core.units import COUNTING, RULES, Family, UnitTerms, by_code, by_total, units_in
from quarterhour.core.visit import Discipline, Service, Visit
from quarterhour.core.visit_json import suggestion_json

LIBRARY = Library.load()
SOURCE = Citation("a manual", "a section", "https://example.org", date(2026, 1, 1), verified=True)
TERMS = UnitTerms(15, 8, SOURCE)
CODES = ["97110", "97112", "97116", "97124", "97140", "97530", "97535", "97542"]
POOLED = [code.code for code in LIBRARY.codes if code.pools]
EASTERN = timezone(timedelta(hours=-5))

some_minutes = st.dictionaries(st.sampled_from(CODES), st.integers(0, 240), min_size=1, max_size=8)


# ---- minutes of a visit ---------------------------------------------------------------------------


def clocked(code, *times):
    start, end = (datetime(2026, 3, 2, *time, tzinfo=EASTERN) for time in times)
    return Service(code, start=start, end=end)


def test_minutes_of_one_code_are_added_before_counting(suggested, units):
    assert units(suggested(("97110", 5), ("97140", 15), ("97110", 5))) == {"97110": 1, "97140": 1}


def test_seconds_are_added_before_they_become_minutes(suggested):
    halves = [clocked("97110", (10, 0, 0), (10, 7, 30)), clocked("97110", (11, 0, 0), (11, 7, 30))]
    assert suggested(*halves).total_timed_minutes == 15
    assert suggested(halves[0]).total_timed_minutes == 7
    almost = clocked("97110", (10, 0, 0), (10, 7, 59))
    assert suggested(almost).total_timed_minutes == 7


def test_each_code_becomes_whole_minutes_by_itself(suggested):
    halves = [clocked("97110", (10, 0, 0), (10, 7, 30)), clocked("97140", (11, 0, 0), (11, 7, 30))]
    assert suggested(*halves).total_timed_minutes == 14


def test_minutes_given_beside_times_are_what_counts(suggested):
    service = dataclasses.replace(clocked("97110", (10, 0, 0), (10, 30, 0)), minutes=20)
    assert suggested(service).total_timed_minutes == 20


def test_the_night_the_clocks_change_has_its_true_minutes(suggested):
    boston = ZoneInfo("America/New_York")
    on = date(2026, 3, 8)
    over = Service(
        "97110",
        start=datetime(2026, 3, 8, 1, 50, tzinfo=boston),
        end=datetime(2026, 3, 8, 3, 10, tzinfo=boston),
    )
    assert suggested(over, on=on).total_timed_minutes == 20


def test_a_service_that_ends_as_it_starts_has_no_minutes_and_they_are_known(suggested):
    assert suggested(clocked("97110", (10, 0, 0), (10, 0, 0))).total_timed_minutes == 0


@pytest.mark.parametrize("utc", ["start", "end"])
def test_where_one_of_two_times_is_in_utc_no_midnight_is_known(suggested, utc):
    times = {
        "start": datetime(2026, 3, 2, 23, 50, tzinfo=EASTERN),
        "end": datetime(2026, 3, 3, 0, 20, tzinfo=EASTERN),
    }
    times[utc] = times[utc].astimezone(UTC)
    assert suggested(Service("97110", **times)).total_timed_minutes == 30


def test_minutes_together_count_as_the_therapists(suggested, units):
    suggestion = suggested(Service("97110", 10, assistant_minutes=0, concurrent_minutes=20))
    assert (suggestion.total_timed_minutes, units(suggestion)) == (30, {"97110": 2})


def test_untimed_minutes_are_treatment_but_not_timed(suggested):
    suggestion = suggested(("97110", 20), ("97161", 45), ("G0283", 15))
    assert (suggestion.total_timed_minutes, suggestion.total_treatment_minutes) == (20, 80)


def test_a_code_that_is_not_in_the_table_is_not_counted(suggested, outcome):
    suggestion = suggested(("97110", 20), ("99999", 60))
    assert [(line.code, line.units) for line in suggestion.lines] == [("97110", 1), ("99999", 0)]
    assert outcome(suggestion, "code-unknown")[0][0] == "fail"
    assert suggestion.total_timed_minutes == 20


# ---- lines and their reasons ------------------------------------------------------------------------


def test_lines_stand_in_order_of_first_appearance_and_a_code_without_a_unit_has_its_line(suggested):
    suggestion = suggested(("97140", 13), ("97110", 18), ("97035", 8), ("97116", 10), ("97140", 0))
    assert [(line.code, line.units) for line in suggestion.lines] == [
        ("97140", 1),
        ("97110", 1),
        ("97035", 0),
        ("97116", 1),
    ]
    assert suggestion.lines[2].modifiers == ()


def test_the_reasons_are_the_sum_in_a_coders_words(suggested):
    first, second = suggested(("97110", 33), ("97140", 7)).lines
    assert [reason.says for reason in first.because] == [
        "33 + 7 = 40 timed minutes; 38 to 52 make 3 units.",
        (
            "30 of 33 minutes make 2 units; 3 remain. "
            "Larger remainders, of 7 and over, take the units that are left."
        ),
    ]
    assert second.because[1].says == "7 minutes of 97140: no full unit. A remainder of 7 takes one more unit."
    assert all("§20.2.C" in reason.source.section for reason in (*first.because, *second.because))


def test_the_reason_of_a_code_alone_is_its_own_range(suggested):
    (line,) = suggested(("97110", 37), policy="ama-midpoint").lines
    assert [reason.says for reason in line.because] == ["37 minutes of 97110 alone; 23 to 37 make 2 units."]


def test_a_tie_says_who_may_choose(suggested):
    suggestion = suggested(("97110", 20), ("97140", 20))
    assert (suggestion.ties[0].codes, suggestion.ties[0].units) == (("97110", "97140"), 1)
    assert (
        "97110 and 97140 have 5 left each; the clinician chooses who takes 1 unit"
        in suggestion.lines[0].because[-1].says
    )
    assert suggestion.total_timed_units == 3


def says(line):
    return [reason.says for reason in line.because]


UNKNOWN, TWICE = Service("97110"), [Service("97161", units=2), Service("97161")]


@pytest.mark.parametrize(
    ("services", "lines"),
    [
        (
            [("97110", 1)],
            [
                ("97110", 0, 1, "1 timed minute; fewer than 8 make no unit.",
                 "1 minute of 97110: no full unit. The total allows no further unit."),
            ],
        ),
        (
            [("97110", 15)],
            [
                ("97110", 1, 15, "15 timed minutes; 8 to 22 make 1 unit.",
                 "15 of 15 minutes make 1 unit; 0 remain."),
            ],
        ),
        (
            [("97110", 16), ("97140", 16)],
            [
                (code, 1, 16, "16 + 16 = 32 timed minutes; 23 to 37 make 2 units.",
                 "15 of 16 minutes make 1 unit; 1 remain. The total allows no further unit.")
                for code in ("97110", "97140")
            ],
        ),
        (
            [("97110", 30), ("97140", 9), ("97530", 6)],
            [
                ("97110", 2, 30, "30 + 9 + 6 = 45 timed minutes; 38 to 52 make 3 units.",
                 "30 of 30 minutes make 2 units; 0 remain."),
                ("97140", 1, 9, "30 + 9 + 6 = 45 timed minutes; 38 to 52 make 3 units.",
                 "9 minutes of 97140: no full unit. A remainder of 9 takes one more unit."),
                ("97530", 0, 6, "30 + 9 + 6 = 45 timed minutes; 38 to 52 make 3 units.",
                 ("6 minutes of 97530: no full unit. "
                 "Larger remainders, of 9 and over, take the units that are left.")),
            ],
        ),
        (
            [("97110", 7), ("97140", 7), ("97530", 7)],
            [
                (code, 0, 7, "7 + 7 + 7 = 21 timed minutes; 8 to 22 make 1 unit.",
                 (f"7 minutes of {code}: no full unit. "
                 "97110, 97140 and 97530 have 7 left each; the clinician chooses who takes 1 unit."))
                for code in ("97110", "97140", "97530")
            ],
        ),
        (
            [("97110", 12), ("97140", 9), ("97530", 9), ("97116", 2)],
            [
                ("97110", 1, 12, "12 + 9 + 9 + 2 = 32 timed minutes; 23 to 37 make 2 units.",
                 "12 minutes of 97110: no full unit. A remainder of 12 takes one more unit."),
                *[
                    (code, 0, 9, "12 + 9 + 9 + 2 = 32 timed minutes; 23 to 37 make 2 units.",
                     (f"9 minutes of {code}: no full unit. "
                     "97140 and 97530 have 9 left each; the clinician chooses who takes 1 unit."))
                    for code in ("97140", "97530")
                ],
                ("97116", 0, 2, "12 + 9 + 9 + 2 = 32 timed minutes; 23 to 37 make 2 units.",
                 ("2 minutes of 97116: no full unit. "
                 "Larger remainders, of 9 and over, take the units that are left.")),
            ],
        ),
        (
            [("97129", 23)],
            [
                (code, 1, minutes, ("97129 with 97130 by a rule of its own: 23 minutes; 15 minutes make the "
                 "first unit (from 8), each further 15 one more (from 8): 2 units."))
                for code, minutes in (("97129", 15), ("97130", 8))
            ],
        ),
        (
            [("97130", 10)],
            [
                (code, units, minutes, ("97129 with 97130 by a rule of its own: 10 minutes; 15 minutes make "
                 "the first unit (from 8), each further 15 one more (from 8): 1 unit."))
                for code, units, minutes in (("97130", 0, 0), ("97129", 1, 10))
            ],
        ),
        (
            [("98980", 40)],
            [
                (code, 1, 20, ("98980 with 98981 by a rule of its own: 40 minutes of the calendar month, as "
                 "documented; 20 minutes make the first unit, each further 20 one more: 2 units."))
                for code in ("98980", "98981")
            ],
        ),
        (
            [("98979", 10)],
            [
                ("98979", 1, 10, ("98979 by a rule of its own: 10 minutes of the calendar month, as "
                 "documented; 10 minutes make the first unit: 1 unit.")),
            ],
        ),
        (
            [("96125", 91)],
            [
                ("96125", 2, 91, ("96125 by a rule of its own: 91 minutes; 60 minutes make the first unit "
                 "(from 31), each further 60 one more (from 31): 2 units.")),
            ],
        ),
        (
            [("97161", None)],
            [("97161", 1, None, "97161 is not billed by time: once a date, whatever the minutes.")],
        ),
        (TWICE[1:], [("97161", 1, None, "97161 is not billed by time: once a date, whatever the minutes.")]),
        (TWICE, [("97161", 2, None, "97161 is not billed by time; documented as performed 2 times.")]),
        (
            [Service("97161", units=1)],
            [("97161", 1, None, "97161 is not billed by time; documented as performed once.")],
        ),
        ([("99999", 20)], [("99999", 0, 20, "99999 is not in the table of codes: not counted.")]),
        (
            [UNKNOWN, ("97140", 15)],
            [
                ("97110", 0, None, "The minutes of 97110 are not known: not counted."),
                ("97140", 1, 15, "15 timed minutes; 8 to 22 make 1 unit.",
                 "15 of 15 minutes make 1 unit; 0 remain.",
                 "The minutes of 97110 are not known; these units may change."),
            ],
        ),
        (
            [UNKNOWN, Service("97530"), ("97140", 15)],
            [
                ("97110", 0, None, "The minutes of 97110 are not known: not counted."),
                ("97530", 0, None, "The minutes of 97530 are not known: not counted."),
                ("97140", 1, 15, "15 timed minutes; 8 to 22 make 1 unit.",
                 "15 of 15 minutes make 1 unit; 0 remain.",
                 "The minutes of 97110, 97530 are not known; these units may change."),
            ],
        ),
        (
            [Service("97129"), ("97130", 10), UNKNOWN],
            [
                ("97129", 0, None, "The minutes of 97129 are not known: not counted."),
                ("97130", 0, 10, "The minutes of 97129 are not known: not counted."),
                ("97110", 0, None, "The minutes of 97110 are not known: not counted."),
            ],
        ),
        (
            [Service("97129"), Service("97130")],
            [
                (code, 0, None, "The minutes of 97129, 97130 are not known: not counted.")
                for code in ("97129", "97130")
            ],
        ),
        (
            [("97129", 15), UNKNOWN],
            [
                ("97129", 1, 15, ("97129 with 97130 by a rule of its own: 15 minutes; 15 minutes make the "
                 "first unit (from 8), each further 15 one more (from 8): 1 unit.")),
                ("97110", 0, None, "The minutes of 97110 are not known: not counted."),
            ],
        ),
        (
            [("97110", 7), ("97140", 7), ("97530", 2)],
            [
                *[
                    (code, 0, 7, "7 + 7 + 2 = 16 timed minutes; 8 to 22 make 1 unit.",
                     (f"7 minutes of {code}: no full unit. "
                      "97110 and 97140 have 7 left each; the clinician chooses who takes 1 unit."))
                    for code in ("97110", "97140")
                ],
                ("97530", 0, 2, "7 + 7 + 2 = 16 timed minutes; 8 to 22 make 1 unit.",
                 ("2 minutes of 97530: no full unit. "
                  "Larger remainders, of 7 and over, take the units that are left.")),
            ],
        ),
    ],
)  # fmt: skip
def test_lines_in_full(suggested, services, lines):
    found = suggested(*services).lines
    assert [(line.code, line.units, line.minutes, *says(line)) for line in found] == lines


def test_every_step_of_the_count_cites_where_it_was_read(suggested):
    suggestion = suggested(("97140", 15), ("97129", 15), ("97161", None), UNKNOWN, ("99999", 1))
    term = {term.name: term.citation for term in suggestion.terms}
    sources = {line.code: {reason.source for reason in line.because} for line in suggestion.lines}
    assert sources == {
        "97140": {term["counting"]},
        "97110": {term["counting"]},
        "97129": {LIBRARY.codes.get("97129").citation},
        "97161": {term["untimed_units_per_day"]},
        "99999": {None},
    }
    alone = suggested(("97110", 15), policy="ama-midpoint")
    (counting,) = [one.citation for one in alone.terms if one.name == "counting"]
    assert alone.lines[0].because[0].source == counting
    unsaid = suggested(("97161", None), policy="hns")
    assert unsaid.lines[0].because[0].source == LIBRARY.codes.get("97161").citation


@pytest.mark.parametrize("policy", ["cms-part-b", "ama-midpoint"])
def test_minutes_added_before_counting_are_a_reason_of_their_own(suggested, policy):
    twice = suggested(("97110", 10), ("97110", 8), policy=policy)
    assert says(twice.lines[0])[0] == "2 services of 97110 on this date: 18 minutes together."
    assert twice.lines[0].because[0].source == twice.lines[0].because[1].source
    helped = suggested(("97110", 10, 8), policy=policy)
    assert says(helped.lines[0])[0] == (
        "10 by the therapist + 8 by the assistant alone = 18 minutes of 97110."
    )
    assert len(says(suggested(("97110", 18), policy=policy).lines[0])) == (2 if policy == "cms-part-b" else 1)


# ---- ties -----------------------------------------------------------------------------------------


def test_a_chosen_tie_leaves_complete_lines_and_says_so(suggested):
    suggestion = suggested(("97110", 20), ("97140", 20), tie_choice={"97140": 2})
    assert [(line.code, line.units) for line in suggestion.lines] == [("97110", 1), ("97140", 2)]
    assert suggestion.lines[1].because[-1].says == "The clinician chose: 97140 takes one of the tied units."
    assert (suggestion.ties, suggestion.lines_if) == ((), ())


def test_a_chosen_tie_splits_an_assistants_units_anew(suggested):
    # 97110: 10 + 12 = 22 and 97140: 22; 44 make 3. With 2 units of 97110 one is the assistant's.
    services = [("97110", 10, 12), ("97140", 22)]
    with_two = suggested(*services, tie_choice={"97110": 2, "97140": 1})
    assert [(line.code, line.units, line.modifiers[0].code) for line in with_two.lines] == [
        ("97110", 1, "GP"),
        ("97110", 1, "CQ"),
        ("97140", 1, "GP"),
    ]
    with_one = suggested(*services, tie_choice={"97110": 1, "97140": 2})
    assert [(line.code, line.units) for line in with_one.lines] == [("97110", 1), ("97140", 2)]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"97110": 1, "97140": 1},
        {"97110": 2, "97140": 2},
        {"97110": 3},
        {"97110": 0, "97140": 3},
        {"97110": 2, "97116": 1},
        {"97110": 2, "97140": 0},
    ],
)
def test_a_choice_that_is_none_of_the_ways_is_refused(suggested, choice):
    with pytest.raises(ValueError, match="1 tied units are to be shared among 97110, 97140"):
        suggested(("97110", 20), ("97140", 20), tie_choice=choice)


def test_a_settled_tie_leaves_nothing_open_and_says_who_takes_what():
    settled = by_total({"97110": 20, "97140": 20}, TERMS).settled(["97140"])
    assert (settled.units, settled.tied, settled.tied_units) == ({"97110": 1, "97140": 2}, (), 0)
    assert {code: reasons[-1].says for code, reasons in settled.because.items()} == {
        "97110": "The clinician chose: 97110 takes none of the tied units.",
        "97140": "The clinician chose: 97140 takes one of the tied units.",
    }
    assert all(reasons[-1].source == SOURCE for reasons in settled.because.values())


def test_each_code_alone_leaves_nothing_open():
    alone = by_code({"97110": 20, "97140": 20}, TERMS)
    assert (alone.tied, alone.tied_units) == ((), 0)


@pytest.mark.parametrize(
    ("codes", "minutes", "units", "ways", "listed"),
    [(13, 4, 3, 286, True), (12, 7, 6, 924, True), (14, 4, 4, 1001, False), (13, 6, 5, 1287, False)],
)
def test_up_to_a_thousand_ways_to_settle_a_tie_are_listed_and_of_more_a_finding_tells(
    suggested, outcome, codes, minutes, units, ways, listed
):
    suggestion = suggested(*[(code, minutes) for code in POOLED[:codes]])
    assert (suggestion.ties[0].units, len(suggestion.ties[0].codes)) == (units, codes)
    assert len(suggestion.lines_if) == (ways if listed else 0)
    told = (
        f"{units} units can be shared among {codes} codes in {ways:,} ways, more than the 1,000 that are "
        f"written out: choose the {units} codes that take one unit each."
    )
    assert outcome(suggestion, "ways-not-listed") == ("passed" if listed else [("fail", told)])


def test_of_ways_to_share_nothing_is_said_where_nothing_is_tied_or_the_tie_is_settled(suggested, outcome):
    assert outcome(suggested(("97110", 15)), "ways-not-listed") is None
    many = [(code, 4) for code in POOLED[:14]]
    settled = suggested(*many, tie_choice=dict.fromkeys(POOLED[10:14], 1))
    assert outcome(settled, "ways-not-listed") is None


@pytest.mark.parametrize("codes", [2, 11, 12, 13, 14, 20])
@pytest.mark.parametrize("minutes", [*range(1, 15), 19, 22])
def test_every_sharing_of_the_tied_units_settles_the_tie_and_no_other_does(suggested, units, codes, minutes):
    services = [(code, minutes) for code in POOLED[:codes]]
    open_ = suggested(*services)
    if not open_.ties:
        assert not settles(open_, units_of_day(open_))
        return
    (tie,) = open_.ties
    assert bool(open_.lines_if) == (math.comb(len(tie.codes), tie.units) <= 1000)
    assert all(settles(open_, way) for way in open_.lines_if)
    given, chance = units_of_day(open_), random.Random(codes * minutes)
    for _ in range(3):
        order = chance.sample(tie.codes, len(tie.codes))
        for taken in (tie.units - 1, tie.units, tie.units + 1):
            choice = {code: given[code] + (code in order[:taken]) for code in given}
            assert set(sharing(open_, choice)) == set(order[:taken])
            assert settles(open_, choice) == (taken == tie.units)
    choice = {code: given[code] + (code in order[: tie.units]) for code in given}
    settled = suggested(*services, tie_choice=choice)
    assert units(settled) == {code: taken for code, taken in choice.items() if taken}
    assert sum(choice.values()) == settled.total_timed_units == open_.total_timed_units


@pytest.mark.parametrize(
    "choice",
    [
        {"97110": 2, "97140": 1},  # 97530 as if it were not there
        {"97110": 2, "97140": 1, "97530": 2},
        {"97110": 3, "97140": 1, "97530": 1},
        {"97110": 0, "97140": 2, "97530": 1},
        {"97110": 2, "97140": 1, "97530": 1, "97112": 1},
        {},
    ],
)
def test_a_choice_made_for_another_count_shares_nothing_of_this_one(suggested, choice):
    open_ = suggested(("97110", 20), ("97140", 20), ("97530", 15))
    assert open_.ties[0].codes == ("97110", "97140")
    assert sharing(open_, choice) is None
    assert not settles(open_, choice)


def test_a_tie_of_every_code_five_hundred_services_long_needs_little_memory(a_visit):
    minutes = [7] * len(POOLED) + [0] * (500 - len(POOLED))
    visit = a_visit(*zip(itertools.cycle(POOLED), minutes, strict=False))
    tracemalloc.start()
    suggestion = suggest(visit, LIBRARY.policy("cms-part-b"), LIBRARY)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (tie,) = suggestion.ties
    assert math.comb(len(tie.codes), tie.units) > 1_000_000
    assert suggestion.lines_if == ()
    assert len(suggestion_json(suggestion)) < 500_000
    assert most < 20_000_000


def test_where_nothing_is_tied_there_is_nothing_to_choose(suggested):
    with pytest.raises(ValueError, match="no code"):
        suggested(("97110", 20), tie_choice={"97110": 2})


def test_a_tie_of_very_many_codes_is_shown_without_every_way(suggested):
    codes = POOLED[:20]
    suggestion = suggested(*[(code, 7) for code in codes])  # 140 minutes make 9; 20 over 9 ways to share
    assert (suggestion.ties[0].units, len(suggestion.ties[0].codes)) == (9, 20)
    assert suggestion.lines_if == ()
    chosen = suggested(*[(code, 7) for code in codes], tie_choice=dict.fromkeys(codes[:9], 1))
    assert sum(line.units for line in chosen.lines) == 9


# ---- codes with rules of their own ------------------------------------------------------------------


def made_up(code, kind="timed-first", **minutes):
    return Code(code, "CPT", "made up", kind, ("PT",), SOURCE, **minutes)


def test_the_further_units_of_a_pair_are_as_long_as_its_add_on_says():
    first = made_up("00001", base_minutes=30, addl_minutes=10, minimum_minutes=16)
    pair = Family(first, made_up("00002", "timed-addon", base_minutes=20, minimum_minutes=45))
    assert (pair.addl_minutes, pair.first_needs, pair.further_needs) == (20, 16, 15)
    assert [pair.units_in(minutes) for minutes in (15, 16, 44, 45, 50, 64, 65)] == [0, 1, 1, 2, 2, 2, 3]
    assert pair.codes == ("00001", "00002")
    assert [pair.spread(units) for units in (0, 1, 3)] == [
        {"00001": 0, "00002": 0},
        {"00001": 1, "00002": 0},
        {"00001": 1, "00002": 2},
    ]


def test_where_no_source_says_from_when_a_further_unit_counts_it_is_counted_when_full():
    first = made_up("00001", base_minutes=30, minimum_minutes=16)
    pair = Family(first, made_up("00002", "timed-addon", base_minutes=20))
    assert [pair.units_in(minutes) for minutes in (16, 29, 49, 50, 69, 70)] == [1, 1, 1, 2, 2, 3]
    assert not pair.in_equal_units


def test_a_code_without_further_units_has_one():
    single = Family(made_up("00001", base_minutes=30, minimum_minutes=16), None)
    assert (single.addl_minutes, single.further_needs) == (None, None)
    assert [single.units_in(minutes) for minutes in (15, 16, 30, 300)] == [0, 1, 1, 1]
    assert [single.units_at_midpoint(minutes) for minutes in (15, 16, 30, 300)] == [0, 1, 1, 1]
    assert single.spread(1) == {"00001": 1}


def test_a_code_that_repeats_needs_for_each_unit_what_it_needs_for_the_first():
    again = Family(made_up("00001", "per-hour", base_minutes=60, addl_minutes=60, minimum_minutes=31), None)
    assert [again.units_in(minutes) for minutes in (30, 31, 90, 91, 150, 151)] == [0, 1, 1, 2, 2, 3]
    assert again.spread(3) == {"00001": 3}
    assert (again.threshold_known, again.in_equal_units, again.monthly) == (True, True, False)
    full = Family(made_up("00001", "monthly-time", base_minutes=20, addl_minutes=20), None)
    assert [full.units_in(minutes) for minutes in (19, 20, 39, 40)] == [0, 1, 1, 2]
    at_midpoint = [full.units_at_midpoint(minutes) for minutes in (10, 11, 30, 31, 50, 51)]
    assert at_midpoint == [0, 1, 1, 2, 2, 3]
    assert (full.threshold_known, full.monthly) == (False, True)


@pytest.mark.parametrize(
    ("code", "minutes", "expected"),
    [
        ("97129", 7, {}), ("97129", 8, {"97129": 1}), ("97129", 22, {"97129": 1}),
        ("97129", 23, {"97129": 1, "97130": 1}), ("97129", 38, {"97129": 1, "97130": 2}),
        ("97550", 15, {}), ("97550", 16, {"97550": 1}), ("97550", 37, {"97550": 1}),
        ("97550", 38, {"97550": 1, "97551": 1}), ("97550", 53, {"97550": 1, "97551": 2}),
        ("G0541", 15, {}), ("G0541", 16, {"G0541": 1}), ("G0541", 38, {"G0541": 1, "G0542": 1}),
        ("96125", 30, {}), ("96125", 31, {"96125": 1}), ("96125", 90, {"96125": 1}),
        ("96125", 91, {"96125": 2}),
        ("96105", 30, {}), ("96105", 31, {"96105": 1}), ("96105", 91, {"96105": 2}),
        ("92626", 30, {}), ("92626", 31, {"92626": 1}), ("92626", 67, {"92626": 1}),
        ("92626", 68, {"92626": 1, "92627": 1}), ("92626", 83, {"92626": 1, "92627": 2}),
        ("92607", 31, {"92607": 1}), ("92607", 75, {"92607": 1}), ("92607", 76, {"92607": 1, "92608": 1}),
        ("92607", 106, {"92607": 1, "92608": 2}),
        ("96112", 31, {"96112": 1}), ("96112", 76, {"96112": 1, "96113": 1}),
        ("97545", 119, {}), ("97545", 120, {"97545": 1}), ("97545", 179, {"97545": 1}),
        ("97545", 180, {"97545": 1, "97546": 1}),
        ("90912", 14, {}), ("90912", 15, {"90912": 1}), ("90912", 30, {"90912": 1, "90913": 1}),
        ("92605", 60, {"92605": 1}), ("92605", 90, {"92605": 1, "92618": 1}),
        ("98979", 9, {}), ("98979", 10, {"98979": 1}), ("98979", 19, {"98979": 1}),
        ("98980", 19, {}), ("98980", 20, {"98980": 1}), ("98980", 39, {"98980": 1}),
        ("98980", 40, {"98980": 1, "98981": 1}), ("98980", 60, {"98980": 1, "98981": 2}),
        ("98975", 20, {"98975": 1}), ("98977", None, {"98977": 1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", ["cms-part-b", "ama-midpoint"])
def test_a_code_that_is_not_plain_fifteen_minutes_has_its_own_thresholds(
    suggested, units, policy, code, minutes, expected
):
    assert units(suggested((code, minutes), policy=policy)) == expected


def test_minutes_of_a_pair_are_one_service_however_they_are_documented(suggested, units):
    expected = {"97129": 1, "97130": 2}
    assert units(suggested(("97129", 15), ("97130", 25))) == expected
    assert units(suggested(("97130", 40))) == expected
    suggestion = suggested(("97110", 15), ("97129", 40), ("97140", 15))
    assert [(line.code, line.units, line.minutes) for line in suggestion.lines] == [
        ("97110", 1, 15),
        ("97129", 1, 15),
        ("97130", 2, 25),
        ("97140", 1, 15),
    ]


def test_a_pair_with_unknown_minutes_is_not_counted(suggested, units):
    suggestion = suggested(("97129", 15), Service("97130"))
    assert (units(suggestion), suggestion.total_timed_minutes) == ({}, None)
    assert "minutes of 97130 are not known" in suggestion.lines[0].because[0].says


def test_minutes_of_a_pair_do_not_join_the_total(suggested, units):
    # 22 + 22 = 44 would make 3 together; apart they make 1 and 1.
    suggestion = suggested(("97110", 22), ("97129", 22))
    assert units(suggestion) == {"97110": 1, "97129": 1}
    assert (suggestion.total_timed_minutes, suggestion.total_timed_units) == (44, 2)
    assert suggestion.pooled_minutes == 22


def under(policy, **terms):
    """The policy with some of its terms replaced."""
    replaced = {
        name: tuple(dataclasses.replace(term, value=value) for term in policy.terms[name])
        for name, value in terms.items()
    }
    return dataclasses.replace(policy, terms={**policy.terms, **replaced})


def test_a_site_may_let_a_pair_join_the_total(a_visit, units):
    policy = under(LIBRARY.policy("cms-part-b"), pooled_time_families=("97129",))
    suggestion = suggest(a_visit(("97110", 20), ("97129", 24)), policy, LIBRARY)  # 44 make 3
    assert units(suggestion) == {"97110": 1, "97129": 1, "97130": 1}
    tied = suggest(a_visit(("97110", 22), ("97129", 22)), policy, LIBRARY)
    assert list(tied.lines_if) == [{"97110": 2, "97129": 1}, {"97110": 1, "97129": 1, "97130": 1}]
    (tie,) = tied.ties
    assert (tie.codes, tie.billed_as) == (("97110", "97129"), ("97110", "97130"))
    assert [sharing(tied, way) for way in tied.lines_if] == [("97110",), ("97130",)]
    chosen = suggest(a_visit(("97110", 22), ("97129", 22)), policy, LIBRARY, tie_choice=tied.lines_if[1])
    assert [(line.code, line.units, line.minutes) for line in chosen.lines] == [
        ("97110", 1, 22),
        ("97129", 1, 15),
        ("97130", 1, 7),
    ]
    short = a_visit(("97110", 7), ("97130", 7))  # the pair is one service, whichever code names it
    (one, other) = suggest(short, policy, LIBRARY).lines_if
    assert (one, other) == ({"97110": 1}, {"97129": 1})
    tie = suggest(short, policy, LIBRARY)
    assert set(tie.ties[0].codes) <= {line.code for line in tie.lines}
    assert tie.ties[0].billed_as == ("97110", "97129")
    assert units(suggest(short, policy, LIBRARY, tie_choice=other)) == {"97129": 1}


@pytest.mark.parametrize(
    ("minutes", "at_midpoint"),
    [(60, None), (61, "1 unit"), (119, "1 unit"), (120, None), (150, None), (151, "2 units")],
)
def test_where_no_threshold_was_found_the_midpoint_is_told_where_it_would_give_more(
    suggested, outcome, minutes, at_midpoint
):
    found = outcome(suggested(("97545", minutes)), "service-below-minimum")
    told = [message for status, message in found if status == "not-checked"] if found != "passed" else []
    assert [message.split("would give ")[1] for message in told] == (
        [f"{at_midpoint}."] if at_midpoint else []
    )


def test_a_pair_documented_by_both_codes_keeps_their_minutes(suggested):
    lines = suggested(("97129", 20), ("97130", 25)).lines
    assert [(line.code, line.units, line.minutes) for line in lines] == [("97129", 1, 20), ("97130", 2, 25)]


def test_the_reason_of_a_rule_of_its_own_has_its_thresholds(suggested):
    def says(code, minutes):
        return suggested((code, minutes)).lines[0].because[0].says

    assert says("97550", 40) == (
        "97550 with 97551 by a rule of its own: 40 minutes; 30 minutes make the first unit (from 16), "
        "each further 15 one more (from 8): 2 units."
    )
    assert says("98980", 45) == (
        "98980 with 98981 by a rule of its own: 45 minutes of the calendar month, as documented; "
        "20 minutes make the first unit, each further 20 one more: 2 units."
    )
    assert says("98979", 12).endswith("as documented; 10 minutes make the first unit: 1 unit.")


def test_the_reason_of_an_untimed_code_says_how_often_it_was_performed(suggested):
    def says(units):
        return suggested(Service("97012", units=units)).lines[0].because[0].says

    assert says(None) == "97012 is not billed by time: once a date, whatever the minutes."
    assert says(1) == "97012 is not billed by time; documented as performed once."
    assert says(2) == "97012 is not billed by time; documented as performed 2 times."


def test_a_pair_that_joins_the_total_leaves_it_open_when_its_minutes_are_unknown(a_visit):
    visit = a_visit(("97110", 20), Service("97130"))
    policy = LIBRARY.policy("cms-part-b")
    apart = suggest(visit, policy, LIBRARY)
    together = suggest(visit, under(policy, pooled_time_families=("97129",)), LIBRARY)
    assert (apart.pooled_minutes, together.pooled_minutes) == (20, None)
    assert "may change" in together.lines[0].because[-1].says


def test_only_pairs_of_equal_plain_units_may_join_the_total(a_visit, units):
    policy = under(LIBRARY.policy("cms-part-b"), pooled_time_families=("97129", "97550", "96125"))
    # 97550 needs 16 minutes and 96125 needs 31, whatever stands beside them.
    visit = a_visit(("97110", 22), ("97550", 15), ("96125", 30))
    assert units(suggest(visit, policy, LIBRARY)) == {"97110": 1}
    assert units(suggest(a_visit(("97129", 8, 7)), policy, LIBRARY)) == {"97129": 1}


def test_the_unknown_minutes_of_one_family_leave_another_as_it_is(a_visit):
    policy = under(LIBRARY.policy("cms-part-b"), pooled_time_families=("97129",))
    own = suggest(a_visit(("97110", 20), ("97129", 15), Service("97550")), policy, LIBRARY)
    assert (own.total_timed_minutes, own.pooled_minutes) == (None, 35)
    pooled = suggest(a_visit(("97110", 20), Service("97129"), ("97550", 30)), policy, LIBRARY)
    assert (pooled.total_timed_minutes, pooled.pooled_minutes) == (None, None)
    assert says(own.lines[2]) == ["The minutes of 97550 are not known: not counted."]


def test_a_tied_unit_not_given_to_a_pair_may_be_given_elsewhere_by_its_documented_units(a_visit, units):
    policy = under(LIBRARY.policy("cms-part-b"), pooled_time_families=("97129",))
    visit = a_visit(("97110", 22), ("97129", 22))
    assert units(suggest(visit, policy, LIBRARY, tie_choice={"97110": 2, "97129": 1, "97140": 0})) == {
        "97110": 2,
        "97129": 1,
    }


def test_a_visit_without_a_tie_has_no_ways_to_settle_it(suggested):
    suggestion = suggested(("97110", 15), ("97140", 7))
    assert (suggestion.ties, suggestion.lines_if) == ((), ())


def test_unknown_minutes_of_a_month_leave_those_of_the_day_known(suggested):
    suggestion = suggested(("97110", 15), Service("98980"))
    assert (suggestion.total_timed_minutes, suggestion.total_timed_units) == (15, 1)


def test_minutes_of_a_month_are_not_the_days(suggested):
    suggestion = suggested(("97110", 15), ("98980", 40))
    assert (suggestion.total_timed_minutes, suggestion.total_timed_units) == (15, 1)
    assert "of the calendar month, as documented" in suggestion.lines[1].because[0].says


# ---- policies and dates -----------------------------------------------------------------------------


def test_every_counting_word_of_the_policies_has_a_function_and_a_name():
    words = {term.value for policy in LIBRARY.policies.values() for term in policy.terms["counting"]}
    assert words <= set(COUNTING)
    assert set(RULES) == set(COUNTING)


def test_before_its_first_date_a_policy_counts_nothing(suggested):
    assert suggested(("97110", 15), on=date(2000, 4, 1)).total_timed_units == 1
    with pytest.raises(NotInForce, match="begins on 2000-04-01"):
        suggested(("97110", 15), on=date(2000, 3, 31))


def test_a_term_changed_on_a_date_changes_nothing_before_it(a_visit, units):
    policy = LIBRARY.policy("cms-part-b")
    changed = dataclasses.replace(
        policy,
        terms={
            **policy.terms,
            "minimum_minutes": (
                *policy.terms["minimum_minutes"],
                Term("minimum_minutes", 10, date(2026, 6, 1), SOURCE),
            ),
        },
    )
    before, since = a_visit(("97110", 8), on=date(2026, 5, 31)), a_visit(("97110", 8), on=date(2026, 6, 1))
    assert units(suggest(before, changed, LIBRARY)) == units(suggest(before, policy, LIBRARY)) == {"97110": 1}
    assert units(suggest(since, changed, LIBRARY)) == {}
    assert units(suggest(since, policy, LIBRARY)) == {"97110": 1}


def test_the_terms_of_a_suggestion_are_those_that_were_used(suggested):
    names = [term.name for term in suggested(("97110", 15)).terms]
    assert names == sorted(names)
    assert {"counting", "unit_minutes", "minimum_minutes", "discipline_modifiers"} <= set(names)
    assert "assistant_method" not in names


def test_a_policy_without_a_counting_rule_stops(a_visit):
    with pytest.raises(NotInForce):
        suggest(a_visit(("97110", 15)), Policy("empty", "Empty", {}, {}), LIBRARY)


# ---- what holds for all minutes ---------------------------------------------------------------------


@given(some_minutes)
def test_units_given_and_tied_are_the_units_of_the_total(minutes):
    allocation = by_total(minutes, TERMS)
    assert sum(allocation.units.values()) + allocation.tied_units == units_in(sum(minutes.values()), TERMS)
    assert len(allocation.tied) > allocation.tied_units or not allocation.tied


@given(some_minutes, st.data(), st.integers(1, 60))
def test_more_minutes_never_give_fewer_units(minutes, data, more):
    code = data.draw(st.sampled_from(sorted(minutes)))
    longer = {**minutes, code: minutes[code] + more}
    for rule in (by_total, by_code):
        before, after = rule(minutes, TERMS), rule(longer, TERMS)
        assert sum(after.units.values()) + after.tied_units >= sum(before.units.values()) + before.tied_units


@given(some_minutes)
def test_no_code_gets_more_than_one_unit_beyond_its_full_ones(minutes):
    allocation = by_total(minutes, TERMS)
    for code, spent in minutes.items():
        assert 0 <= allocation.units[code] + (code in allocation.tied) - spent // 15 <= (spent % 15 > 0)


@given(st.integers(0, 1440), st.integers(1, 60), st.data())
def test_units_in_is_the_division_it_says(minutes, unit_minutes, data):
    minimum = data.draw(st.integers(1, unit_minutes))
    terms = UnitTerms(unit_minutes, minimum, SOURCE)
    units = units_in(minutes, terms)
    assert minutes - unit_minutes * units < minimum
    assert minutes - unit_minutes * (units - 1) >= minimum or units == 0


services = st.lists(
    st.builds(
        Service,
        st.sampled_from([*CODES, "97150", "97161", "G0283", "97129", "97130", "96125"]),
        st.integers(0, 60) | st.none(),
        st.integers(0, 20),
        st.integers(0, 10),
    ),
    max_size=8,
)


def money(suggestion):
    """What would be charged, and what is left open, whatever the order."""
    lines = sorted(
        (line.code, line.units, sorted(put.code for put in line.modifiers)) for line in suggestion.lines
    )
    ties = sorted((sorted(tie.codes), tie.units) for tie in suggestion.ties)
    return lines, ties, suggestion.total_timed_units


@settings(max_examples=150, deadline=None)
@given(services, st.randoms(use_true_random=False), st.sampled_from(LIBRARY.ids))
def test_the_order_of_services_never_changes_money(documented, chance, policy):
    shuffled = list(documented)
    chance.shuffle(shuffled)
    one, other = (
        suggest(Visit(date(2026, 3, 2), Discipline.PT, tuple(order)), LIBRARY.policy(policy), LIBRARY)
        for order in (documented, shuffled)
    )
    assert money(one) == money(other)


@settings(max_examples=150, deadline=None)
@given(services, st.sampled_from(LIBRARY.ids))
def test_the_same_visit_and_policies_give_the_same_bytes(documented, policy):
    visit = Visit(date(2026, 3, 2), Discipline.PT, tuple(documented), id="v")
    first = suggestion_json(suggest(visit, LIBRARY.policy(policy), LIBRARY))
    assert suggestion_json(suggest(visit, LIBRARY.policy(policy), LIBRARY)) == first


@settings(max_examples=150, deadline=None)
@given(services, st.sampled_from(LIBRARY.ids))
def test_lines_of_a_visit_hold_every_documented_code_once_a_set_of_modifiers(documented, policy):
    suggestion = suggest(
        Visit(date(2026, 3, 2), Discipline.PT, tuple(documented)), LIBRARY.policy(policy), LIBRARY
    )
    assert {service.code for service in documented} <= {line.code for line in suggestion.lines}
    keys = [(line.code, *(put.code for put in line.modifiers)) for line in suggestion.lines]
    assert len(keys) == len(set(keys))
    for line in suggestion.lines:
        assert 0 <= line.units <= line.units_of_day
        assert line.because


def test_utc_is_no_place(suggested):
    start = datetime(2026, 3, 2, 23, 50, tzinfo=UTC)
    assert (
        suggested(Service("97110", start=start, end=start + timedelta(minutes=20))).total_timed_minutes == 20
    )
