"""Each check on minutes in its three outcomes: it fails, it passes, it could not be made and says why."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from quarterhour.core.findings import Severity
from quarterhour.core.library import Library
from quarterhour.core.suggestion import CHECKS, suggest
from quarterhour.core.visit import AlreadyCharged, Contract, Discipline, History, Provider, Service

EASTERN = timezone(timedelta(hours=-5))


def at(clock, day=2, zone=EASTERN):
    hour, minute, *second = map(int, clock.split(":"))
    return datetime(2026, 3, day, hour, minute, *second, tzinfo=zone)


def timed(code, start, end, **fields):
    return Service(code, start=at(start), end=at(end), **fields)


def test_every_check_has_an_id_of_its_own():
    names = [name for name, _ in CHECKS]
    assert len(names) == len(set(names))


# ---- minutes-missing ------------------------------------------------------------------------------


def test_a_timed_code_without_minutes_is_missing_them_not_zero(suggested, outcome):
    suggestion = suggested(Service("97110"), ("97140", 15))
    ((status, message),) = outcome(suggestion, "minutes-missing")
    assert (status, "97110" in message, "neither minutes nor times" in message) == ("fail", True, True)
    assert (suggestion.total_timed_minutes, suggestion.total_timed_units) == (None, None)
    assert suggestion.total_treatment_minutes is None
    first, second = suggestion.lines
    assert (first.units, first.minutes) == (0, None)
    assert (second.units, second.minutes) == (1, 15)
    assert "these units may change" in second.because[-1].says


def test_missing_minutes_touch_no_other_code_where_each_is_counted_alone(suggested, units, outcome):
    alone = suggested(Service("97110"), ("97140", 15), policy="ama-midpoint")
    ((_, message),) = outcome(alone, "minutes-missing")
    assert message.endswith("it is not counted.")
    assert (units(alone), alone.total_timed_units) == ({"97140": 1}, None)
    assert [reason.says for reason in alone.lines[1].because] == [
        "15 minutes of 97140 alone; 8 to 22 make 1 unit."
    ]
    own_rule = suggested(Service("97129"), ("97140", 15))
    assert (own_rule.total_timed_minutes, own_rule.pooled_minutes) == (None, 15)
    assert not any("may change" in reason.says for reason in own_rule.lines[1].because)


def test_missing_minutes_are_critical(suggested):
    (finding,) = [one for one in suggested(Service("97110")).findings if one.id == "minutes-missing"]
    assert (finding.severity, finding.codes) == (Severity.CRITICAL, ("97110",))


def test_a_start_without_an_end_leaves_minutes_unknown(suggested, outcome):
    ((_, message),) = outcome(suggested(Service("97110", start=at("10:00"))), "minutes-missing")
    assert "a start and no end" in message
    ((_, message),) = outcome(suggested(Service("97110", end=at("10:00"))), "minutes-missing")
    assert "an end and no start" in message


def test_an_end_before_the_start_is_no_minutes(suggested, outcome):
    ((_, message),) = outcome(suggested(timed("97110", "10:20", "10:00")), "minutes-missing")
    assert "its end is before its start" in message


def test_an_assistants_minutes_do_not_say_what_the_therapists_are(suggested, outcome):
    ((_, message),) = outcome(suggested(("97110", None, 15)), "minutes-missing")
    assert "the therapist's own minutes are not given" in message


def test_zero_minutes_are_known(suggested, outcome):
    suggestion = suggested(("97110", 0))
    assert outcome(suggestion, "minutes-missing") == "passed"
    assert suggestion.total_timed_minutes == 0


def test_untimed_codes_need_no_minutes(suggested, outcome):
    assert outcome(suggested(Service("97161")), "minutes-missing") is None


@pytest.mark.parametrize(
    "complete",
    [timed("97110", "10:00", "10:20"), Service("97110", 15, start=at("10:00"))],
)
def test_what_is_lacking_is_that_of_the_service_that_lacks_it(suggested, outcome, complete):
    ((_, message),) = outcome(suggested(complete, Service("97110")), "minutes-missing")
    assert "it has neither minutes nor times" in message


def test_missing_minutes_of_a_rule_of_its_own_touch_no_other_code(suggested, outcome):
    ((_, message),) = outcome(suggested(Service("97129"), ("97110", 15)), "minutes-missing")
    assert message.endswith("it is not counted.")


# ---- minutes-counted-twice ------------------------------------------------------------------------


def test_two_services_of_the_same_ten_minutes_are_counted_twice(suggested, outcome):
    suggestion = suggested(timed("97110", "10:00", "10:25"), timed("97140", "10:15", "10:40"))
    ((status, message),) = outcome(suggestion, "minutes-counted-twice")
    assert status == "fail"
    assert "97110 (10:00 to 10:25) and 97140 (10:15 to 10:40) share 10 minutes" in message
    assert suggestion.total_timed_minutes == 50  # shown, not cut


def test_services_that_touch_do_not_overlap(suggested, outcome):
    suggestion = suggested(timed("97110", "10:00", "10:15"), timed("97140", "10:15", "10:30"))
    assert outcome(suggestion, "minutes-counted-twice") == "passed"


def test_two_therapists_at_the_same_time_overlap_even_in_one_code(suggested, outcome):
    suggestion = suggested(
        timed("97110", "10:00", "10:15", performer="A"), timed("97110", "10:14", "10:30", performer="B")
    )
    ((status, message),) = outcome(suggestion, "minutes-counted-twice")
    assert (status, "share 1 minute," in message) == ("fail", True)


def test_an_unattended_modality_may_run_beside_others(suggested, outcome):
    suggestion = suggested(timed("97110", "10:00", "10:30"), timed("G0283", "10:00", "10:15"))
    assert outcome(suggestion, "minutes-counted-twice") == "passed"


def test_minutes_that_exceed_their_times_are_counted_twice(suggested, outcome):
    ((status, message),) = outcome(
        suggested(timed("97110", "10:00", "10:20", minutes=21)), "minutes-counted-twice"
    )
    assert (status, message) == ("fail", "97110 has 21 minutes, but from 10:00 to 10:20 there are 20.")
    assert (
        outcome(suggested(timed("97110", "10:00", "10:20", minutes=20)), "minutes-counted-twice") == "passed"
    )


def test_without_times_overlap_cannot_be_seen(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 15), ("97140", 15)), "minutes-counted-twice")
    assert (status, "97110, 97140 without start and end" in message) == ("not-checked", True)
    assert outcome(suggested(("97110", 15)), "minutes-counted-twice") == "passed"
    assert outcome(suggested(("G0283", 15)), "minutes-counted-twice") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (timed("97140", "10:00", "10:30"), timed("97110", "10:10", "10:20")),  # by their start
        (timed("97140", "10:00", "10:15"), timed("97110", "10:00", "10:30")),  # else by their end
        (timed("97110", "10:00", "10:15"), timed("97140", "10:00", "10:15")),  # else by their code
    ],
)
def test_the_order_of_services_changes_nothing_of_what_is_counted_twice(suggested, outcome, one, other):
    ((_, message),) = outcome(suggested(one, other), "minutes-counted-twice")
    assert message.startswith(f"{one.code} (10:00 to ")
    assert outcome(suggested(other, one), "minutes-counted-twice") == [("fail", message)]


def test_services_apart_and_services_that_share_less_than_a_minute_are_not_counted_twice(suggested, outcome):
    apart = suggested(timed("97110", "10:00", "10:15"), timed("97140", "10:25", "10:40"))
    assert outcome(apart, "minutes-counted-twice") == "passed"
    seconds = suggested(timed("97110", "10:00:00", "10:15:59"), timed("97140", "10:15:00", "10:30:00"))
    assert outcome(seconds, "minutes-counted-twice") == "passed"
    minute = suggested(timed("97110", "10:00:00", "10:16:00"), timed("97140", "10:15:00", "10:30:00"))
    assert outcome(minute, "minutes-counted-twice")[0][0] == "fail"


def test_a_service_of_no_length_has_no_room_for_minutes(suggested, outcome):
    ((_, message),) = outcome(suggested(timed("97110", "10:00", "10:00", minutes=5)), "minutes-counted-twice")
    assert message == "97110 has 5 minutes, but from 10:00 to 10:00 there are 0."


def test_a_service_whose_end_is_before_its_start_has_no_times_to_compare(suggested, outcome):
    backwards = timed("97110", "10:20", "10:00")
    ((status, message),) = outcome(
        suggested(backwards, backwards, timed("97140", "10:00", "10:30")), "minutes-counted-twice"
    )
    assert (status, "known: 97110 without start and end" in message) == ("not-checked", True)


def test_the_minutes_of_a_month_take_none_of_the_day(suggested, outcome):
    beside = suggested(timed("98980", "10:00", "10:25"), timed("97140", "10:00", "10:30"))
    assert outcome(beside, "minutes-counted-twice") == "passed"
    device = suggested(timed("98976", "10:00", "10:25"), timed("97140", "10:00", "10:30"))
    assert outcome(device, "minutes-counted-twice") == "passed"
    assert outcome(suggested(("98980", 10)), "no-timed-units") is None
    assert (
        outcome(suggested(timed("97150", "10:00", "10:30"), ("98980", 25)), "group-with-individual") is None
    )


# ---- outside-date-of-service ----------------------------------------------------------------------


def test_only_the_minutes_of_the_date_of_service_are_counted(suggested, outcome):
    before = Service("97110", start=at("23:50", day=1), end=at("00:20"))
    suggestion = suggested(before)
    ((status, message),) = outcome(suggestion, "outside-date-of-service")
    assert (status, "20 minutes of it lie on that date" in message) == ("fail", True)
    assert suggestion.total_timed_minutes == 20
    after = Service("97110", start=at("23:50"), end=at("00:20", day=3))
    assert suggested(after).total_timed_minutes == 10


def test_a_service_of_another_date_has_no_minutes_on_this(suggested, outcome):
    suggestion = suggested(Service("97110", start=at("10:00", day=3), end=at("10:30", day=3)))
    ((status, _),) = outcome(suggestion, "outside-date-of-service")
    assert (status, suggestion.total_timed_minutes) == ("fail", 0)


def test_times_in_utc_say_nothing_about_the_day(suggested, outcome):
    start, end = at("23:50", day=2, zone=UTC), at("00:20", day=3, zone=UTC)
    suggestion = suggested(Service("97110", start=start, end=end))
    ((status, message),) = outcome(suggestion, "outside-date-of-service")
    assert (status, "UTC" in message) == ("not-checked", True)
    assert suggestion.total_timed_minutes == 30


def test_times_on_the_date_pass_and_minutes_alone_are_not_asked(suggested, outcome):
    assert outcome(suggested(timed("97110", "10:00", "10:30")), "outside-date-of-service") == "passed"
    assert outcome(suggested(("97110", 30)), "outside-date-of-service") is None


@pytest.mark.parametrize("half", [Service("97110", start=at("10:00")), Service("97110", end=at("10:00"))])
def test_one_time_of_two_is_not_asked_about_its_date(suggested, outcome, half):
    assert outcome(suggested(half), "outside-date-of-service") is None


@pytest.mark.parametrize(("start_zone", "end_zone"), [(UTC, EASTERN), (EASTERN, UTC)])
def test_one_time_in_utc_is_enough_not_to_know_the_day(suggested, outcome, start_zone, end_zone):
    service = Service("97110", start=at("10:00", zone=start_zone), end=at("23:00", zone=end_zone))
    assert outcome(suggested(service), "outside-date-of-service")[0][0] == "not-checked"


def test_times_of_other_days_of_which_the_end_is_first_have_no_minutes_here(suggested, outcome):
    service = Service("97110", start=at("10:00", day=4), end=at("10:00", day=3))
    ((status, message),) = outcome(suggested(service), "outside-date-of-service")
    assert (status, "0 minutes of it lie on that date" in message) == ("fail", True)


# ---- service-below-minimum ------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "found"), [(7, "fail"), (8, "passed")])
def test_a_code_counted_alone_needs_eight_minutes(suggested, outcome, minutes, found):
    became = outcome(suggested(("97110", minutes), policy="ama-midpoint"), "service-below-minimum")
    assert became == found if found == "passed" else became[0][0] == found


def test_under_the_total_a_short_service_is_not_below_a_minimum(suggested, outcome):
    assert outcome(suggested(("97110", 33), ("97140", 7)), "service-below-minimum") is None


@pytest.mark.parametrize(("code", "minutes"), [("96125", 30), ("98980", 19), ("97550", 15), ("97129", 7)])
def test_a_code_with_a_threshold_of_its_own_needs_that(suggested, outcome, code, minutes):
    ((status, _),) = outcome(suggested((code, minutes)), "service-below-minimum")
    assert status == "fail"
    assert outcome(suggested((code, minutes + 1)), "service-below-minimum") == "passed"


def test_a_threshold_that_nobody_found_is_said(suggested, outcome, units):
    suggestion = suggested(("97545", 119))
    ((status, message),) = outcome(suggestion, "service-below-minimum")
    assert (status, "only full ones were counted" in message) == ("not-checked", True)
    assert units(suggestion) == {}
    assert units(suggested(("97545", 120))) == {"97545": 1}
    assert outcome(suggested(("97545", 120)), "service-below-minimum") == "passed"


def test_unknown_minutes_cannot_be_compared(suggested, outcome):
    ((status, _),) = outcome(suggested(Service("97110"), policy="ama-midpoint"), "service-below-minimum")
    assert status == "not-checked"
    ((status, _),) = outcome(suggested(Service("97129")), "service-below-minimum")
    assert status == "not-checked"


def test_codes_that_are_not_timed_have_no_minimum(suggested, outcome):
    assert outcome(suggested(Service("97161"), policy="ama-midpoint"), "service-below-minimum") is None


# ---- no-timed-units -------------------------------------------------------------------------------


def test_seven_timed_minutes_make_no_unit_and_eight_do(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 4), ("97140", 3)), "no-timed-units")
    assert (status, message.startswith("7 minutes")) == ("fail", True)
    assert outcome(suggested(("97110", 4), ("97140", 4)), "no-timed-units") == "passed"


def test_unknown_minutes_leave_it_open_whether_there_is_a_unit(suggested, outcome):
    ((status, _),) = outcome(suggested(Service("97110")), "no-timed-units")
    assert status == "not-checked"


def test_no_timed_code_no_question(suggested, outcome):
    assert outcome(suggested(("97161", 30)), "no-timed-units") is None


# ---- total-treatment-time -------------------------------------------------------------------------


def test_total_treatment_time_holds_all_services(suggested, outcome):
    services = [("97110", 25), ("97161", 20)]
    assert outcome(suggested(*services, total_treatment_minutes=45), "total-treatment-time") == "passed"
    ((status, message),) = outcome(suggested(*services, total_treatment_minutes=44), "total-treatment-time")
    assert (status, message) == (
        "fail",
        "Total treatment time is 44 minutes, but the services alone take 45.",
    )


def test_an_unattended_modality_may_lie_within_the_total(suggested):
    services = [("97110", 25), ("G0283", 10)]
    (finding,) = [
        one
        for one in suggested(*services, total_treatment_minutes=34).findings
        if one.id == "total-treatment-time"
    ]
    assert finding.severity is Severity.INFO
    (finding,) = [
        one
        for one in suggested(*services, total_treatment_minutes=24).findings
        if one.id == "total-treatment-time"
    ]
    assert finding.severity is Severity.WARNING


def test_undocumented_total_treatment_time_is_said(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 25), ("G0283", 10)), "total-treatment-time")
    assert (status, "add up to 35 minutes" in message) == ("not-checked", True)
    ((status, message),) = outcome(
        suggested(Service("97161"), total_treatment_minutes=40), "total-treatment-time"
    )
    assert (status, "97161" in message) == ("not-checked", True)


# ---- untimed-units --------------------------------------------------------------------------------


def test_an_untimed_code_stands_once_whatever_its_minutes(suggested, outcome, units):
    suggestion = suggested(("97012", 45))
    assert units(suggestion) == {"97012": 1}
    assert outcome(suggestion, "untimed-units") == "passed"


def test_an_untimed_code_performed_twice_is_asked_about_and_not_cut(suggested, outcome, units):
    suggestion = suggested(Service("97012", 15, units=2))
    ((status, message),) = outcome(suggestion, "untimed-units")
    assert (status, "separate encounter" in message) == ("fail", True)
    assert units(suggestion) == {"97012": 2}


def test_an_untimed_code_documented_twice_is_one_unit_and_a_question(suggested, outcome, units):
    suggestion = suggested(("97012", 15), ("97012", 15))
    ((status, message),) = outcome(suggestion, "untimed-units")
    assert (status, "documented 2 times" in message) == ("fail", True)
    assert units(suggestion) == {"97012": 1}


def test_no_untimed_code_no_question(suggested, outcome):
    assert outcome(suggested(("97110", 15)), "untimed-units") is None


def test_units_documented_on_a_timed_code_are_not_used_and_that_is_said(suggested, outcome, units):
    suggestion = suggested(Service("97110", 15, units=3))
    ((status, message),) = outcome(suggestion, "units-not-counted")
    assert (status, "3 units" in message, units(suggestion)) == ("fail", True, {"97110": 1})
    assert outcome(suggested(("97110", 15)), "units-not-counted") is None


# ---- average-minutes-per-unit ---------------------------------------------------------------------


def test_fewer_than_fifteen_minutes_a_unit_are_noted(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 38)), "average-minutes-per-unit")
    assert (status, "38 minutes for 3 units are 12.7 a unit" in message) == ("fail", True)
    assert outcome(suggested(("97110", 45)), "average-minutes-per-unit") == "passed"
    ((status, _),) = outcome(suggested(("97110", 44)), "average-minutes-per-unit")
    assert status == "fail"


def test_the_average_needs_all_minutes_and_a_policy_that_asks(suggested, outcome):
    ((status, _),) = outcome(suggested(Service("97110"), ("97140", 15)), "average-minutes-per-unit")
    assert status == "not-checked"
    assert outcome(suggested(("97110", 38), policy="ama-midpoint"), "average-minutes-per-unit") is None


# ---- group-with-individual ------------------------------------------------------------------------


def test_group_and_individual_minutes_must_be_apart(suggested, outcome):
    together = suggested(timed("97150", "10:00", "10:30"), timed("97110", "10:29", "10:45"))
    ((status, _),) = outcome(together, "group-with-individual")
    assert status == "fail"
    apart = suggested(timed("97150", "10:00", "10:30"), timed("97110", "10:30", "10:45"))
    assert outcome(apart, "group-with-individual") == "passed"


def test_group_and_individual_without_times_are_asked_about(suggested, outcome):
    ((status, message),) = outcome(suggested(("97150", 30), ("97110", 15)), "group-with-individual")
    assert (status, "need separate time" in message) == ("not-checked", True)
    assert outcome(suggested(("97150", 30)), "group-with-individual") is None


def test_a_visit_without_services_has_no_treatment_time_to_document(suggested, outcome):
    assert outcome(suggested(), "total-treatment-time") is None


def test_minutes_of_a_code_that_is_not_in_the_table_are_treatment_time(suggested, outcome):
    there = suggested(("99999", 30), total_treatment_minutes=30)
    assert outcome(there, "total-treatment-time") == "passed"
    missing = suggested(Service("97161"), Service("97110"), total_treatment_minutes=30)
    assert outcome(missing, "total-treatment-time")[0][1].endswith("minutes of 97161, 97110 are not known.")


def test_the_further_part_of_an_untimed_service_may_stand_more_than_once(suggested, outcome):
    suggestion = suggested(("97597", None), Service("97598", units=2), Service("97598"))
    assert outcome(suggestion, "untimed-units") == "passed"


def test_a_policy_that_does_not_speak_of_untimed_codes_does_not_ask(suggested, outcome):
    assert outcome(suggested(("97161", 30), policy="hns"), "untimed-units") is None


def test_units_of_a_code_not_billed_by_time_are_counted(suggested, outcome):
    assert outcome(suggested(Service("97161", units=2)), "units-not-counted") is None


def test_a_visit_without_plain_timed_codes_has_no_average(suggested, outcome):
    assert outcome(suggested(("97161", 30)), "average-minutes-per-unit") is None
    assert outcome(suggested(("97129", 8)), "average-minutes-per-unit") is None


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        ("09:30", "09:45", "passed"), ("09:45", "10:00", "passed"), ("09:45", "10:01", "fail"),
        ("10:10", "10:20", "fail"), ("09:30", "11:00", "fail"),
        ("10:29", "10:45", "fail"), ("10:30", "10:45", "passed"),
    ],
)  # fmt: skip
def test_one_on_one_minutes_lie_before_or_after_the_group(suggested, outcome, start, end, found):
    became = outcome(
        suggested(timed("97150", "10:00", "10:30"), timed("97110", start, end)), "group-with-individual"
    )
    assert became == found if found == "passed" else became[0][0] == found


def test_one_service_of_several_in_the_time_of_the_group_is_enough(suggested, outcome):
    apart, within = timed("97110", "09:00", "09:15"), timed("97110", "10:10", "10:20")
    suggestion = suggested(timed("97150", "10:00", "10:30"), apart, within)
    assert outcome(suggestion, "group-with-individual")[0][0] == "fail"


def test_every_code_of_group_and_individual_services_is_named(suggested, outcome):
    suggestion = suggested(("97150", 30), ("92508", 30), ("97110", 15), ("97140", 15))
    assert outcome(suggestion, "group-with-individual")[0][1] == (
        "97150, 92508 and 97110, 97140 on one day need separate time; "
        "97150, 92508, 97110, 97140 without start and end."
    )
    assert outcome(suggested(("97110", 15)), "group-with-individual") is None


def test_group_beside_untimed_codes_is_not_asked_about(suggested, outcome):
    assert outcome(suggested(("97150", 30), ("97161", 30)), "group-with-individual") is None


def test_a_site_may_let_group_and_individual_minutes_stand_together(tmp_path, a_visit, outcome):
    (tmp_path / "ours.yaml").write_text(
        "policy: ours\ntitle: Ours\nlike: cms-part-b\nsources:\n"
        '  letter: {title: L, section: s, url: "https://a.example/", read_on: 2025-03-01, verified: true}\n'
        "terms:\n  group_needs_separate_time:\n    2020-01-01: {value: false, source: letter}\n",
        encoding="utf-8",
    )
    library = Library.load(tmp_path)
    suggestion = suggest(a_visit(("97150", 30), ("97110", 15)), library.policy("ours"), library)
    assert outcome(suggestion, "group-with-individual") is None


# ---- assistants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("therapist", "assistant"), [(7, 1), (43, 5)])
def test_where_the_methods_of_de_minimis_differ_it_is_said(suggested, outcome, therapist, assistant):
    code = "97110" if therapist == 7 else "97150"
    ((status, message),) = outcome(suggested((code, therapist, assistant)), "assistant-method")
    assert (status, f"{assistant} of {therapist + assistant} minutes" in message) == ("fail", True)


def test_where_the_methods_agree_nothing_is_found(suggested, outcome):
    assert outcome(suggested(("97110", 7, 5)), "assistant-method") == "passed"
    assert outcome(suggested(("97110", 30)), "assistant-method") is None


def test_two_last_units_outside_nine_to_fourteen_minutes_are_said(suggested, outcome):
    assert outcome(suggested(("97110", 9, 14)), "assistant-method") == "passed"
    # 8 + 14 = 22, and 1 of another code: 23 make 2 units, both of 97110.
    ((status, message),) = outcome(suggested(("97110", 8, 14), ("97140", 1)), "assistant-method")
    assert (status, "speaks of 9 to 14 minutes by each" in message) == ("not-checked", True)


def test_before_2022_two_last_units_have_no_rule(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 12, 14), on=date(2021, 5, 3)), "assistant-method")
    assert (status, "Before 2022" in message) == ("not-checked", True)


def test_no_modifier_is_known_for_an_assistant_in_speech(suggested, outcome):
    suggestion = suggested(("92507", 20, 10), discipline=Discipline.SLP)
    ((status, message),) = outcome(suggestion, "assistant-method")
    assert (status, "SLP" in message) == ("not-checked", True)


def test_an_evaluation_is_the_therapists_alone(suggested, outcome):
    suggestion = suggested(("97161", 20, 10))
    ((status, message),) = outcome(suggestion, "assistant-evaluation")
    assert (status, "10 minutes" in message) == ("fail", True)
    assert [modifier.code for modifier in suggestion.lines[0].modifiers] == ["GP"]
    assert outcome(suggested(("97161", 30)), "assistant-evaluation") == "passed"
    assert outcome(suggested(("97110", 20, 10)), "assistant-evaluation") is None


def test_an_evaluation_by_an_assistant_is_said_though_the_policy_has_no_modifier_for_it(suggested):
    suggestion = suggested(("97161", 20, 10), policy="ama-midpoint")
    (finding,) = [one for one in suggestion.findings if one.id == "assistant-evaluation"]
    assert (finding.severity, finding.source) == (Severity.CRITICAL, None)


# ---- already-charged ------------------------------------------------------------------------------


def test_what_was_charged_is_taken_off_and_never_below_zero(suggested, outcome):
    suggestion = suggested(("97110", 45), already_charged=(AlreadyCharged("97110", 2),))
    assert [(line.units, line.units_of_day) for line in suggestion.lines] == [(1, 3)]
    assert outcome(suggestion, "already-charged") == "passed"
    suggestion = suggested(("97110", 15), already_charged=(AlreadyCharged("97110", 2),))
    assert [(line.units, line.units_of_day) for line in suggestion.lines] == [(0, 1)]
    ((status, message),) = outcome(suggestion, "already-charged")
    assert (status, message) == ("fail", "97110: 2 units already charged, but the day allows 1.")


def test_a_charge_without_a_service_is_more_than_the_day_allows(suggested, outcome):
    ((status, _),) = outcome(
        suggested(("97110", 15), already_charged=(AlreadyCharged("97140", 1),)), "already-charged"
    )
    assert status == "fail"


def test_a_code_charged_without_a_service_has_none_allowed_and_nothing_charged_is_not_asked(
    suggested, outcome
):
    suggestion = suggested(("97110", 15), already_charged=(AlreadyCharged("97140", 1),))
    assert outcome(suggestion, "already-charged") == [
        ("fail", "97140: 1 unit already charged, but the day allows 0.")
    ]
    assert outcome(suggested(("97110", 15)), "already-charged") is None


def test_a_charge_within_a_tie_may_still_be_right(suggested, outcome):
    tied = [("97110", 20), ("97140", 20)]
    assert (
        outcome(suggested(*tied, already_charged=(AlreadyCharged("97110", 2),)), "already-charged")
        == "passed"
    )
    ((status, _),) = outcome(
        suggested(*tied, already_charged=(AlreadyCharged("97110", 3),)), "already-charged"
    )
    assert status == "fail"


@pytest.mark.parametrize(
    ("charge", "now"),
    [
        (AlreadyCharged("97110", 1, tin="T1", specialty="PT"), 1),
        (AlreadyCharged("97110", 1, tin="T1"), 1),
        (AlreadyCharged("97110", 1), 1),
        (AlreadyCharged("97110", 1, tin="T2", specialty="PT"), 2),
        (AlreadyCharged("97110", 1, tin="T1", specialty="OT"), 2),
    ],
)
def test_only_what_this_group_charged_is_taken_off(suggested, charge, now):
    suggestion = suggested(("97110", 30), provider=Provider("T1", "PT"), already_charged=(charge,))
    assert suggestion.lines[0].units == now


def test_a_charge_that_cannot_be_placed_is_said_and_not_taken_off(suggested, outcome):
    suggestion = suggested(("97110", 30), already_charged=(AlreadyCharged("97110", 1, tin="T1"),))
    ((status, _),) = outcome(suggestion, "already-charged")
    assert (status, suggestion.lines[0].units) == ("not-checked", 2)


def test_charges_come_off_the_lines_without_the_assistants_modifier_first(suggested, outcome):
    suggestion = suggested(("97110", 30, 15), already_charged=(AlreadyCharged("97110", 2),))
    assert [(line.units, line.units_of_day) for line in suggestion.lines] == [(0, 2), (1, 1)]
    ((status, message),) = outcome(suggestion, "already-charged")
    assert (status, "whether with the assistant's modifier is not known" in message) == ("not-checked", True)


@pytest.mark.parametrize(
    ("therapist", "helper", "before"),
    [(30, 15, 0), (0, 30, 1), (30, 2, 1)],  # nothing charged, all the assistant's, all the therapist's
)
def test_where_there_is_one_line_it_is_known_which_was_charged(suggested, outcome, therapist, helper, before):
    suggestion = suggested(("97110", therapist, helper), already_charged=(AlreadyCharged("97110", before),))
    assert outcome(suggestion, "already-charged") == "passed"


# ---- amounts of the year --------------------------------------------------------------------------


def amount(dollars):
    return History(therapy_amount=Decimal(dollars))


FREE = Contract(amounts={"97110": Decimal(0)})
A_PENNY = Contract(amounts={"97110": Decimal("0.01")})  # so that today's part of a sum is known


@pytest.mark.parametrize(("dollars", "found"), [("2479.99", "passed"), ("2480.00", "fail")])
def test_kx_is_asked_for_above_the_threshold(suggested, outcome, dollars, found):
    suggestion = suggested(("97110", 15), history=amount(dollars), contract=A_PENNY)
    became = outcome(suggestion, "kx-threshold")
    assert became == found if found == "passed" else became[0][0] == found
    assert all(modifier.code != "KX" for line in suggestion.lines for modifier in line.modifiers)


def test_todays_amount_may_cross_the_threshold(suggested, outcome):
    contract = Contract(amounts={"97110": Decimal("30.00")})
    ((status, message),) = outcome(
        suggested(("97110", 15), history=amount("2460"), contract=contract), "kx-threshold"
    )
    assert (status, "with today's 2,490.00" in message) == ("fail", True)
    assert (
        outcome(suggested(("97110", 15), history=amount("2450"), contract=contract), "kx-threshold")
        == "passed"
    )


def test_kx_put_on_by_the_clinician_answers_the_question(suggested, outcome):
    suggestion = suggested(("97110", 15), history=amount("2600"), modifiers={"97110": ("KX",)})
    assert outcome(suggestion, "kx-threshold") == "passed"
    both = suggested(("97110", 15), ("97140", 15), history=amount("2600"), modifiers={"97110": ("KX",)})
    assert outcome(both, "kx-threshold")[0][0] == "fail"


def test_only_the_lines_that_are_billed_need_kx(suggested, outcome):
    billed = suggested(("97110", 15), ("97140", 0), history=amount("2600"), modifiers={"97110": ("KX",)})
    assert outcome(billed, "kx-threshold") == "passed"


@pytest.mark.parametrize(("dollars", "found"), [("2450", "not-checked"), ("2451", "fail")])
def test_a_code_whose_amount_is_not_known_leaves_open_whether_the_threshold_holds(
    suggested, outcome, dollars, found
):
    contract = Contract(amounts={"97140": Decimal("30.00")})
    suggestion = suggested(("97140", 15), ("97110", 15), history=amount(dollars), contract=contract)
    ((status, message),) = outcome(suggestion, "kx-threshold")
    assert status == found
    if found == "not-checked":
        assert message == (
            "0.00 are left of the KX threshold of 2026 for PT and SLP together; the contract's amount for 97110 "
            "is not known."
        )


def test_without_any_amount_nobody_knows_what_today_adds(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 15), history=amount("2000")), "kx-threshold")
    assert (status, message[:6]) == ("not-checked", "480.00")


@pytest.mark.parametrize(
    ("dollars", "found"), [("2405", "passed"), ("2405.01", "not-checked"), ("2410.01", "fail")]
)
def test_a_tie_may_decide_whether_the_threshold_holds(suggested, outcome, dollars, found):
    """20 and 20 minutes: a unit of each, and a third that costs 20 or 25."""
    contract = Contract(amounts={"97110": Decimal(25), "97140": Decimal(20)})
    history = History(therapy_amount=Decimal(dollars) + 5)
    suggestion = suggested(("97110", 20), ("97140", 20), history=history, contract=contract)
    became = outcome(suggestion, "kx-threshold")
    assert became == found if found == "passed" else became[0][0] == found


def test_minutes_that_are_not_known_may_cost_what_is_left(suggested, outcome):
    suggestion = suggested(("97110", None), history=amount("2400"), contract=A_PENNY)
    ((status, message),) = outcome(suggestion, "kx-threshold")
    assert (status, "the minutes of 97110 are not known" in message) == ("not-checked", True)


def test_a_policy_without_thresholds_does_not_ask_for_kx_though_it_is_there(suggested, outcome):
    suggestion = suggested(("97110", 15), policy="ama-midpoint", modifiers={"97110": ("KX",)})
    assert outcome(suggestion, "kx-threshold") is None
    assert outcome(suggestion, "medical-review-threshold") is None


@pytest.mark.parametrize(
    "term",
    [
        "kx_buckets:\n    2020-01-01: {value: {PT: PT, OT: OT, SLP: SLP}, source: letter}\n",
        "kx_amount:\n    2020-01-01: {value: 100, source: letter}\n",
        "medical_review_amount:\n    2020-01-01: {value: 100, source: letter}\n",
    ],
)
def test_half_of_what_a_threshold_needs_is_no_threshold(tmp_path, a_visit, outcome, term):
    (tmp_path / "ours.yaml").write_text(
        "policy: ours\ntitle: Ours\nlike: ama-midpoint\nsources:\n"
        '  letter: {title: L, section: s, url: "https://a.example/", read_on: 2025-03-01, verified: true}\n'
        f"terms:\n  {term}",
        encoding="utf-8",
    )
    library = Library.load(tmp_path)
    suggestion = suggest(a_visit(("97110", 15), history=amount("200")), library.policy("ours"), library)
    assert outcome(suggestion, "kx-threshold") is None
    assert outcome(suggestion, "medical-review-threshold") is None


@pytest.mark.parametrize(
    ("year", "threshold"),
    [
        (2018, "2010"), (2019, "2040"), (2020, "2080"), (2021, "2110"), (2022, "2150"),
        (2023, "2230"), (2024, "2330"), (2025, "2410"), (2026, "2480"),
    ],
)  # fmt: skip
def test_each_year_has_its_threshold(suggested, outcome, year, threshold):
    for day in (date(year, 1, 1), date(year, 12, 31)):
        at_it = suggested(("97110", 15), on=day, history=amount(threshold), contract=FREE)
        above = suggested(("97110", 15), on=day, history=amount(f"{threshold}.01"))
        assert outcome(at_it, "kx-threshold") == "passed"
        assert outcome(above, "kx-threshold")[0][0] == "fail"


def test_without_an_amount_or_a_threshold_kx_is_not_checked(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 15)), "kx-threshold")
    assert (status, "2,480.00" in message) == ("not-checked", True)
    ((status, message),) = outcome(
        suggested(("97110", 15), on=date(2027, 1, 1), history=amount("1")), "kx-threshold"
    )
    assert (status, message) == ("not-checked", "The KX threshold of 2027 is not known.")
    assert outcome(suggested(("97110", 15), on=date(2017, 12, 31)), "kx-threshold") is None


def test_speech_shares_the_amount_of_physical_therapy(suggested, outcome):
    ((_, message),) = outcome(suggested(("92507", 30), discipline=Discipline.SLP), "kx-threshold")
    assert "PT and SLP together" in message
    ((_, message),) = outcome(suggested(("97110", 30), discipline=Discipline.OT), "kx-threshold")
    assert "for OT" in message


@pytest.mark.parametrize(("dollars", "found"), [("3000.00", "passed"), ("3000.01", "fail")])
def test_medical_review_may_follow_above_its_threshold(suggested, outcome, dollars, found):
    suggestion = suggested(("97110", 15), history=amount(dollars), contract=FREE)
    became = outcome(suggestion, "medical-review-threshold")
    assert became == found if found == "passed" else became[0][0] == found


def test_medical_review_is_not_checked_without_an_amount_or_from_2028(suggested, outcome):
    ((status, _),) = outcome(suggested(("97110", 15)), "medical-review-threshold")
    assert status == "not-checked"
    later = suggested(("97110", 15), on=date(2028, 1, 1), history=amount("1"))
    assert outcome(later, "medical-review-threshold")[0][0] == "not-checked"


# ---- discipline, modifiers, sources ---------------------------------------------------------------


def test_an_unknown_discipline_puts_on_no_modifier_and_says_so(suggested, outcome):
    suggestion = suggested(("97110", 15), discipline=None)
    ((status, _),) = outcome(suggestion, "discipline-unknown")
    assert (status, suggestion.lines[0].modifiers) == ("fail", ())
    assert outcome(suggested(("97110", 15)), "discipline-unknown") == "passed"


def test_a_code_of_another_discipline_is_asked_about(suggested, outcome):
    ((status, message),) = outcome(suggested(("97110", 15), ("97165", 30)), "discipline-of-code")
    assert (status, "97165 is a code of OT" in message) == ("fail", True)
    assert outcome(suggested(("97110", 15)), "discipline-of-code") == "passed"
    assert outcome(suggested(("97110", 15), discipline=None), "discipline-of-code") is None


def test_a_modifier_of_another_discipline_conflicts(suggested, outcome):
    ((status, _),) = outcome(suggested(("97110", 15), modifiers={"97110": ("GO",)}), "modifier-conflict")
    assert status == "fail"
    assert outcome(suggested(("97110", 15), modifiers={"97110": ("GP",)}), "modifier-conflict") == "passed"
    assert outcome(suggested(("97110", 15)), "modifier-conflict") is None


def test_a_code_of_two_disciplines_names_both(suggested, outcome):
    ((_, message),) = outcome(
        suggested(("97110", 15), ("97550", 30), discipline=Discipline.SLP), "discipline-of-code"
    )
    assert message.startswith("97110 is a code of PT or OT, the visit's discipline is SLP")


def test_a_modifier_conflicts_with_nothing_where_no_other_is_asked_for(suggested, outcome):
    put_on = {"modifiers": {"97110": ("GO",)}}
    assert outcome(suggested(("97110", 15), discipline=None, **put_on), "modifier-conflict") == "passed"
    assert outcome(suggested(("97110", 15), policy="ama-midpoint", **put_on), "modifier-conflict") == "passed"


def test_room_for_modifiers_is_asked_of_the_fullest_line_from_two_on(suggested, outcome):
    assert outcome(suggested(("97110", 15)), "modifier-slots") is None
    assert outcome(suggested(("97110", 15), modifiers={"97110": ("59",)}), "modifier-slots") == "passed"
    full = {"97110": ("59", "KX", "GA", "XE")}
    assert outcome(suggested(("97140", 15), ("97110", 15), modifiers=full), "modifier-slots")[0][0] == "fail"
    unasked = suggested(("97110", 15), policy="ama-midpoint", modifiers={"97110": ("59", "KX")})
    assert outcome(unasked, "modifier-slots") is None


def test_a_modifier_on_a_code_that_is_not_there_is_said(suggested, outcome):
    ((status, message),) = outcome(
        suggested(("97110", 15), modifiers={"97140": ("59",)}), "modifier-conflict"
    )
    assert (status, "97140" in message) == ("fail", True)


def test_a_claim_line_holds_four_modifiers(suggested, outcome):
    four = suggested(("97110", 15), modifiers={"97110": ("59", "KX", "GA")})
    assert (len(four.lines[0].modifiers), outcome(four, "modifier-slots")) == (4, "passed")
    five = suggested(("97110", 15), modifiers={"97110": ("59", "KX", "GA", "XE")})
    assert outcome(five, "modifier-slots")[0][0] == "fail"


def test_what_nobody_verified_reaches_the_reviewer(suggested, outcome):
    ((status, message),) = outcome(
        suggested(("97110", 15), on=date(2020, 5, 1), history=amount("5")), "policy-unverified"
    )
    assert (status, "kx_amount of 2020-01-01" in message) == ("fail", True)
    assert outcome(suggested(("97110", 15), policy="ama-midpoint"), "policy-unverified") == "passed"


def test_an_unverified_entry_of_the_table_of_codes_reaches_the_reviewer(suggested, outcome):
    ((_, message),) = outcome(suggested(("97545", 120), policy="ama-midpoint"), "policy-unverified")
    assert "the entry of 97545" in message


def test_of_many_overlaps_fifty_are_told_one_by_one(suggested, outcome):
    """Of twelve services at the same time there are 66 pairs."""
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    services = [
        Service("97110", start=at, end=at + timedelta(minutes=30), reference=f"{number}")
        for number in range(12)
    ]
    found = outcome(suggested(*services), "minutes-counted-twice")
    assert len(found) == 51
    assert found[-1][1] == "16 more pairs of services share minutes, which can be counted only once."


@pytest.mark.parametrize(("assistant", "found"), [(10, "passed"), (11, "fail")])
def test_an_assistants_minutes_need_room_between_start_and_end_too(suggested, outcome, assistant, found):
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    service = Service(
        "97110", minutes=20, assistant_minutes=assistant, start=at, end=at + timedelta(minutes=30)
    )
    became = outcome(suggested(service), "minutes-counted-twice")
    assert became == found if found == "passed" else became[0][0] == found


@pytest.mark.parametrize(
    ("discipline", "modifier", "found"),
    [
        (Discipline.PT, "CQ", "passed"),
        (Discipline.PT, "CO", "fail"),
        (Discipline.OT, "CO", "passed"),
        (Discipline.OT, "CQ", "fail"),
        (Discipline.SLP, "CQ", "fail"),
    ],
)
def test_an_assistants_modifier_stands_with_its_own_discipline(
    suggested, outcome, discipline, modifier, found
):
    code = "92507" if discipline is Discipline.SLP else "97530"
    suggestion = suggested((code, 30), discipline=discipline, modifiers={code: (modifier,)})
    became = outcome(suggestion, "modifier-conflict")
    assert became == found if found == "passed" else became[0][0] == found
