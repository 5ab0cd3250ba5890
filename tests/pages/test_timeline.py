"""The picture of the minutes: what is drawn, where, and the same in sentences."""

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from quarterhour.core.visit import Service
from quarterhour.fhir.performers import Performer
from quarterhour.plugin.timeline import NARROW, WIDE, Kind, draw, picture, scale, steps

BOSTON = ZoneInfo("America/New_York")
CMS = {"unit_minutes": 15, "minimum_minutes": 8}
TIMED = {"97110": True, "97112": True, "97140": True, "G0283": False}


@dataclass(frozen=True)
class Times:
    start: datetime
    end: datetime


def at(start: str, end: str, day: str = "2026-03-02") -> Times:
    first, last = (datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=BOSTON) for time in (start, end))
    return Times(first, last)


def seen(services, times=None, scales=(), **more):
    given = {"entered": {}, "left_out": (), "assistants": (), "zone": BOSTON, "timed": TIMED} | more
    return picture(services, times=times or {}, scales=scales, **given)


def service(code: str, reference: str, **facts) -> Service:
    return Service(code, reference=reference, **facts)


TWO = (service("97112", "a"), service("97110", "b"))


# --- what is seen -------------------------------------------------------------------------------------------


def test_each_service_has_its_lane_with_its_minutes_by_the_clock():
    seen_ = seen(TWO, {"a": at("09:00", "09:20"), "b": at("09:20", "09:40")})
    assert [(lane.code, lane.minutes, lane.kind) for lane in seen_.lanes] == [
        ("97112", 20, Kind.THERAPIST),
        ("97110", 20, Kind.THERAPIST),
    ]
    assert (seen_.gaps, seen_.shared) == ((), ())


def test_therapist_assistant_and_both_together_are_told_apart():
    services = (
        service("97110", "a", minutes=0, assistant_minutes=14),
        service("97110", "b", minutes=0, concurrent_minutes=5),
        service("97110", "c", minutes=12),
    )
    kinds = [(lane.kind, lane.minutes) for lane in seen(services).lanes]
    assert kinds == [(Kind.ASSISTANT, 14), (Kind.TOGETHER, 5), (Kind.THERAPIST, 12)]


REYES = Performer("Practitioner/1", assistant=False, name="Maria Reyes, PT")
COLE = Performer("Practitioner/2", assistant=True, name="Jonas Cole, PTA")
NAMELESS = Performer("Practitioner/3")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"minutes": 12}, "12 minutes, therapist (Maria Reyes, PT)."),
        ({"minutes": 0, "assistant_minutes": 14}, "14 minutes, assistant (Jonas Cole, PTA)."),
        (
            {"minutes": 0, "concurrent_minutes": 5},
            "5 minutes, therapist and assistant together (Maria Reyes, PT and Jonas Cole, PTA).",
        ),
    ],
)
def test_who_did_it_is_named_and_never_by_a_reference(facts, says):
    (lane,) = seen((service("97110", "a", **facts),), people={"a": (REYES, COLE, NAMELESS)}).lanes
    assert lane.says == f"97110: no clock times, {says}"


def test_whoever_has_no_name_in_the_chart_is_the_therapist_or_the_assistant():
    (lane,) = seen((service("97110", "a", minutes=12),), people={"a": (NAMELESS,)}).lanes
    assert lane.says == "97110: no clock times, 12 minutes, therapist."


def test_minutes_divided_by_hand_bear_the_name_of_each_whose_they_are():
    lanes = seen(TWO[:1], entered={"a": (20, 8)}, people={"a": (REYES, COLE)}).lanes
    assert [lane.by for lane in lanes] == ["Maria Reyes, PT", "Jonas Cole, PTA"]
    lanes = seen(TWO[:1], entered={"a": (20, 8)}, people={"a": (REYES,)}).lanes
    assert [lane.by for lane in lanes] == ["Maria Reyes, PT", ""]


@pytest.mark.parametrize("form", [WIDE, NARROW])
def test_names_stand_in_the_drawing_and_a_long_one_is_cut_there_only(form):
    long = Performer("Practitioner/4", assistant=False, name="Wilhelmina Featherstonehaugh-Cholmondeley, PT")
    seen_ = seen(
        TWO, {"a": at("09:00", "09:20"), "b": at("09:20", "09:40")}, people={"a": (REYES,), "b": (long,)}
    )
    first, second = (f"{bar.words} {bar.by}" for bar in draw(seen_, form).bars)
    assert "Maria Reyes, PT" in first
    assert "Wilhelmina" in second
    assert "…" in second
    assert long.name in " ".join(seen_.facts)


def test_an_untimed_service_and_one_that_no_table_knows_are_drawn_as_untimed():
    services = (service("G0283", "a", minutes=10), service("99999", "b", minutes=5))
    assert [lane.kind for lane in seen(services).lanes] == [Kind.UNTIMED, Kind.UNTIMED]


def test_minutes_that_nobody_knows_are_not_zero():
    (lane,) = seen((service("97140", "a"),)).lanes
    assert lane.minutes is None
    assert lane.says == "97140: no clock times, minutes not known, therapist."


def test_time_between_two_services_is_a_gap_and_a_service_at_once_with_another_is_shared():
    seen_ = seen(TWO, {"a": at("09:00", "09:20"), "b": at("09:25", "09:40")})
    assert [(gap.clock, gap.minutes) for gap in seen_.gaps] == [("9:20 to 9:25", 5)]
    seen_ = seen(TWO, {"a": at("09:00", "09:20"), "b": at("09:15", "09:40")})
    assert seen_.gaps == ()
    assert [(one.codes, one.at.minutes) for one in seen_.shared] == [(("97112", "97110"), 5)]


def test_services_that_touch_neither_leave_a_gap_nor_share_time():
    seen_ = seen(TWO, {"a": at("09:00", "09:20"), "b": at("09:20", "09:20")})
    assert (seen_.gaps, seen_.shared) == ((), ())


def test_entered_minutes_stand_in_place_of_the_charts_and_say_so():
    seen_ = seen(TWO[:1], {"a": at("09:00", "09:20")}, entered={"a": (12, None)})
    assert seen_.lanes[0].says == "97112: 9:00 to 9:20, 12 minutes as entered, therapist."


def test_entered_minutes_are_divided_as_the_person_said_and_else_stay_whose_they_were():
    assert [(lane.kind, lane.minutes) for lane in seen(TWO[:1], entered={"a": (20, 8)}).lanes] == [
        (Kind.THERAPIST, 12),
        (Kind.ASSISTANT, 8),
    ]
    (lane,) = seen(TWO[:1], entered={"a": (20, None)}, assistants={"a"}).lanes
    assert (lane.kind, lane.minutes) == (Kind.ASSISTANT, 20)


def test_what_is_left_out_stays_visible_and_shares_no_time():
    times = {"a": at("09:00", "09:20"), "b": at("09:15", "09:40")}
    seen_ = seen(TWO, times, left_out={"b"})
    assert seen_.lanes[1].kind is Kind.LEFT_OUT
    assert seen_.shared == ()


def test_times_are_shown_in_the_facilitys_zone():
    utc = Times(datetime(2026, 3, 2, 14, 0, tzinfo=UTC), datetime(2026, 3, 2, 14, 20, tzinfo=UTC))
    assert seen(TWO[:1], {"a": utc}).lanes[0].at.clock == "9:00 to 9:20"


def test_an_hour_that_the_clocks_repeat_is_counted_as_it_passed():
    night = Times(  # the clocks of Boston go back at 2:00 on 1 November 2026
        datetime(2026, 11, 1, 1, 50, tzinfo=BOSTON), datetime(2026, 11, 1, 1, 10, fold=1, tzinfo=BOSTON)
    )
    assert seen(TWO[:1], {"a": night}).lanes[0].minutes == 20


def test_an_end_before_its_start_is_not_drawn():
    (lane,) = seen(TWO[:1], {"a": at("09:20", "09:00")}).lanes
    assert (lane.at, lane.minutes) == (None, None)


# --- the rule's steps ---------------------------------------------------------------------------------------


def test_the_steps_are_the_policys_own():
    assert [(step.units, step.fewest, step.most) for step in steps(40, **CMS)] == [
        (0, 0, 7),
        (1, 8, 22),
        (2, 23, 37),
        (3, 38, 52),
        (4, 53, 67),
    ]
    odd = steps(12, unit_minutes=10, minimum_minutes=6)
    assert [(step.fewest, step.most) for step in odd[:3]] == [(0, 5), (6, 15), (16, 25)]


@pytest.mark.parametrize(
    ("minutes", "says"),
    [
        (7, "Total: 7 minutes; 0 to 7 make no unit."),
        (8, "Total: 8 minutes; 8 to 22 make 1 unit."),
        (22, "Total: 22 minutes; 8 to 22 make 1 unit."),
        (23, "Total: 23 minutes; 23 to 37 make 2 units."),
        (None, "Total: not known, because minutes are missing."),
    ],
)
def test_the_total_says_its_step_and_never_what_is_lacking_to_the_next(minutes, says):
    assert scale("Total", minutes, **CMS).says == says


def test_a_long_day_has_steps_for_all_its_units_and_one_more():
    assert scale("Total", 150, **CMS).steps[-1].units == 11


# --- where it is drawn --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [WIDE, NARROW])
def test_bars_keep_their_proportion_and_stay_within_the_drawing(form):
    times = {"a": at("09:00", "09:20"), "b": at("09:20", "09:40")}
    drawn = draw(seen(TWO, times, scales=[scale("Total", 40, **CMS)]), form)
    first, second = drawn.bars
    assert first.width == second.width
    assert second.x == first.x + first.width
    assert second.x + second.width <= form.width
    assert all(mark.x <= form.width for mark in drawn.ticks)
    assert drawn.scales[0].filled == 40 * drawn.scales[0].width // 68
    assert [name.here for name in drawn.scales[0].names] == [False, False, False, True, False]


def test_times_of_the_axis_are_round_and_few():
    times = {"a": at("08:05", "08:29"), "b": at("08:29", "08:52")}
    assert [tick.words for tick in draw(seen(TWO, times), WIDE).ticks] == [
        "8:10",
        "8:20",
        "8:30",
        "8:40",
        "8:50",
    ]
    times = {"a": at("08:05", "08:29"), "b": at("08:29", "09:22")}
    assert [tick.words for tick in draw(seen(TWO, times), NARROW).ticks] == ["8:30", "9:00"]


def test_without_clock_times_there_is_no_axis_and_the_lane_says_so():
    drawn = draw(seen((service("97110", "a", minutes=20),)), WIDE)
    assert drawn.ticks == ()
    assert (drawn.bars[0].width, drawn.bars[0].words) == (0, "20 min, no clock times")


def test_a_visit_with_nothing_in_it_can_be_drawn():
    assert draw(seen(()), NARROW).bars == ()


def test_a_service_over_several_days_is_drawn_with_its_ends_on_the_axis():
    long = Times(datetime(2026, 3, 2, 9, tzinfo=BOSTON), datetime(2026, 3, 9, 9, tzinfo=BOSTON))
    drawn = draw(seen(TWO[:1], {"a": long}), WIDE)
    assert len(drawn.ticks) == 2
