"""What a visit is made of, Procedure by Procedure, as HTTP brings them."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from fhir.resources.R4B.procedure import Procedure
from hypothesis import given
from hypothesis import strategies as st

from quarterhour.core.findings import Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.suggestion import suggest
from quarterhour.core.units import documented
from quarterhour.core.visit import Discipline, Service, Visit
from quarterhour.fhir.shares import in_whole_minutes

SHIPPED = Library.load()

PT, PTA, OT, OTA = "225100000X", "225200000X", "225X00000X", "224Z00000X"


def ids(visit):
    return {finding.id for finding in visit.findings}


def the(visit, id_):
    (finding,) = [finding for finding in visit.findings if finding.id == id_]
    return finding


def under_cms(prepared):
    return suggest(prepared.visit, SHIPPED.policy("cms-part-b"), SHIPPED)


def lasted(service):
    return service.end - service.start


# Counted


def test_a_completed_procedure_becomes_a_service_with_its_times_and_reference(ehr):
    sent = ehr.procedure("97110", "09:00", "09:38:30", id="PR1")
    Procedure.model_validate(sent)  # the second opinion: what we read is valid FHIR
    prepared = ehr.visit()
    (service,) = prepared.visit.services
    assert (service.code, service.reference, service.performer) == (
        "97110",
        "Procedure/PR1",
        "Practitioner/T1",
    )
    assert lasted(service) == timedelta(minutes=38, seconds=30)
    assert service.minutes is None
    assert prepared.visit.date_of_service == date(2026, 11, 20)
    assert prepared.visit.discipline is Discipline.PT
    assert prepared.findings == ()


def test_services_stand_in_the_order_of_their_start(ehr):
    ehr.procedure("97140", "09:30", "09:45")
    ehr.procedure("97110", "09:00", "09:15")
    ehr.procedure("G0283", None, None)
    codes = [service.code for service in ehr.visit().visit.services]
    assert codes == ["97110", "97140", "G0283"]


@pytest.mark.parametrize(
    "system",
    [
        "http://www.ama-assn.org/go/cpt",
        "urn:oid:2.16.840.1.113883.6.12",
        "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
        "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
    ],
)
def test_a_billing_code_is_found_under_each_name_of_its_system_behind_other_codings(ehr, system):
    codings = [{"system": "http://snomed.info/sct", "code": "1"}, {"system": system, "code": "G0283"}]
    ehr.procedure()["code"] = {"coding": codings}
    assert [service.code for service in ehr.visit().visit.services] == ["G0283"]


def test_a_local_code_counts_by_the_sites_map_and_not_without_it(ehr):
    ehr.procedure()["code"] = {"coding": [{"system": "urn:local", "code": "EX"}], "text": "Exercise"}
    assert the(ehr.visit(), "code-missing").severity is Severity.CRITICAL
    ehr.site = {"codes": {"urn:local|EX": "97110"}}
    assert [service.code for service in ehr.visit().visit.services] == ["97110"]


def test_an_evening_visit_sent_in_utc_is_of_the_evening_in_boston(ehr):
    ehr.now += timedelta(hours=3)
    ehr.encounter["period"] = {"start": "2026-11-21T00:00:00Z", "end": "2026-11-21T01:00:00Z"}
    ehr.procedure("97110", "2026-11-21T00:00:00Z", "2026-11-21T00:30:00Z")
    prepared = ehr.visit()
    assert prepared.visit.date_of_service == date(2026, 11, 20)
    assert prepared.visit.services[0].start.hour == 19


def test_over_the_change_of_clocks_the_minutes_are_those_that_passed(ehr):
    ehr.encounter["period"] = {"start": "2026-11-01T00:30:00-04:00"}
    ehr.procedure("97110", "2026-11-01T01:45:00-04:00", "2026-11-01T01:15:00-05:00")
    (service,) = ehr.visit().visit.services
    assert service.end.timestamp() - service.start.timestamp() == 30 * 60


def test_in_spring_the_hour_that_is_skipped_is_not_counted(ehr):
    ehr.encounter["period"] = {"start": "2026-03-08T01:30:00-05:00"}
    ehr.procedure("97110", "2026-03-08T01:45:00-05:00", "2026-03-08T03:15:00-04:00")
    (service,) = ehr.visit().visit.services
    assert service.end.timestamp() - service.start.timestamp() == 30 * 60


@pytest.mark.parametrize(
    ("start", "end", "minutes"),
    [
        ("2026-11-01T00:30:00", "2026-11-01T00:59:00", 29),
        ("2026-11-01T00:30:00", "2026-11-01T01:00:00", None),
        ("2026-11-01T01:59:00", "2026-11-01T02:20:00", None),
        ("2026-11-01T02:00:00", "2026-11-01T02:20:00", 20),
        ("2026-11-01T00:30:00", "2026-11-01T02:30:00", 180),
    ],
)
def test_without_a_zone_the_hour_that_comes_twice_leaves_the_minutes_unknown(ehr, start, end, minutes):
    ehr.encounter["period"] = {"start": "2026-11-01T00:00:00-04:00"}
    ehr.procedure("97110", None, None, performedPeriod={"start": start, "end": end})
    prepared = ehr.visit()
    (service,) = prepared.visit.services
    known = service.start and (service.end.timestamp() - service.start.timestamp()) / 60
    assert known == minutes
    assert "time-without-zone" in ids(prepared)


@pytest.mark.parametrize(
    ("start", "counted"),
    [
        ("2026-11-20T04:59:59Z", False),  # still the 19th in Boston
        ("2026-11-20T05:00:00Z", True),
        ("2026-11-21T04:44:59Z", True),
        ("2026-11-21T05:00:00Z", False),
        ("2026-11-19T21:00:00-08:00", True),  # midnight in Boston
        ("2026-11-19T20:59:59-08:00", False),
        ("2026-11-21T13:44:00+09:00", True),
        ("2026-11-20", True),
        ("2026-11-19", False),
        ("2026-11-21", False),
    ],
)
def test_the_day_is_that_of_the_place_of_service_whatever_the_offset(ehr, start, counted):
    ehr.now += timedelta(days=2)
    ehr.site = {"procedure_search": "patient"}
    ehr.procedure("97110", None, None, encounter=None, performedDateTime=start)
    assert len(ehr.visit().visit.services) == counted


# Left out, and listed


@pytest.mark.parametrize(
    ("status", "severity"),
    [
        ("in-progress", Severity.WARNING),
        ("stopped", Severity.WARNING),
        ("not-done", Severity.INFO),
        ("entered-in-error", Severity.INFO),
        ("unknown", Severity.WARNING),
        (None, Severity.WARNING),
    ],
)
def test_only_what_is_completed_is_counted_and_the_rest_is_listed(ehr, status, severity):
    ehr.procedure("97140", id="good")
    ehr.procedure(id="bad", status=status)
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == ["Procedure/good"]
    finding = the(prepared, "left-out")
    assert "Procedure/bad" in finding.message
    assert finding.severity is severity


@pytest.mark.parametrize(
    "changed",
    [
        {"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]},
        {"implicitRules": "urn:rules"},
        {"performer": [{"actor": {"reference": "Practitioner/T1"}, "modifierExtension": [{"url": "urn:x"}]}]},
    ],
)
def test_an_unknown_qualification_may_turn_the_meaning_round_so_it_is_not_counted(ehr, changed):
    ehr.procedure(**changed)
    prepared = ehr.visit()
    assert prepared.visit.services == ()
    assert the(prepared, "left-out").severity is Severity.CRITICAL


def test_two_different_billing_codes_are_the_persons_to_choose_from(ehr):
    both = [{"system": "http://www.ama-assn.org/go/cpt", "code": code} for code in ("97110", "97112")]
    ehr.procedure()["code"] = {"coding": both}
    finding = the(ehr.visit(), "code-ambiguous")
    assert finding.codes == ("97110", "97112")


def test_the_future_is_not_counted_but_clocks_may_differ_by_five_minutes(ehr):
    ehr.encounter["period"] = {"start": "2026-11-20T09:00:00-05:00"}
    ehr.procedure("97110", "17:50", "18:05:00", id="now")
    ehr.procedure("97110", "17:50", "18:05:01", id="later")
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == ["Procedure/now"]
    assert "Procedure/later" in the(prepared, "in-future").message


def test_a_procedure_of_the_visit_dated_in_another_year_is_reported_and_opens_no_visit(ehr):
    ehr.procedure("97110", "2024-11-20T09:00:00-05:00", "2024-11-20T09:15:00-05:00", id="old")
    prepared = ehr.visit()
    assert prepared.visit.date_of_service == date(2026, 11, 20)
    assert prepared.visit.services == ()
    assert "2024-11-20" in the(prepared, "outside-visit").message


def test_another_patients_procedure_is_left_out_and_named(ehr):
    ehr.procedure("97110", id="ours")
    ehr.procedure("97110", id="theirs", subject={"reference": "Patient/P2"})
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == ["Procedure/ours"]
    assert "Procedure/theirs" in the(prepared, "wrong-patient").message


def test_an_absolute_reference_to_this_server_is_the_same_patient(ehr):
    ehr.procedure(subject={"reference": "https://ehr.example/fhir/Patient/P1/_history/4"})
    assert len(ehr.visit().visit.services) == 1


def test_the_same_path_on_another_server_is_another_patient(ehr):
    ehr.procedure(subject={"reference": "https://elsewhere.example/fhir/Patient/P1"})
    assert ehr.visit().visit.services == ()


def test_one_entry_that_cannot_be_read_loses_no_other_and_is_named_with_its_place(ehr):
    ehr.procedure("97110", id="good")
    ehr.procedure("97140", id="bad")["performedPeriod"] = {"start": 20261120}
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == ["Procedure/good"]
    message = the(prepared, "not-read").message
    assert "Procedure/bad" in message
    assert "$.performedPeriod.start" in message


def test_an_entry_that_is_no_resource_at_all_is_reported_once(ehr):
    ehr.procedure()
    ehr.entries["Procedure"] = [
        {"resource": None},
        "text",
        {"resource": {"resourceType": "OperationOutcome"}},
    ]
    prepared = ehr.visit()
    assert len(prepared.visit.services) == 1
    assert len([finding for finding in prepared.findings if finding.id == "not-read"]) == 2


def test_two_copies_that_differ_are_told_and_neither_is_counted(ehr):
    sent = ehr.procedure("97110", "09:00", "09:15", id="PR1")
    ehr.entries["Procedure"] = [{"resource": dict(sent)}]
    assert len(ehr.visit().visit.services) == 1
    ehr.entries["Procedure"] = [
        {"resource": {**sent, "performedPeriod": {"start": "2026-11-20T09:00:00-05:00"}}}
    ]
    prepared = ehr.visit()
    assert prepared.visit.services == ()
    assert "Procedure/PR1" in the(prepared, "not-read").message


@pytest.mark.parametrize("kind", ["procedure", "", "Proc edure", "<Procedure>"])
def test_an_entry_whose_type_is_none_of_fhirs_is_named_and_not_passed_over(ehr, kind):
    ehr.entries["Procedure"] = [{"resource": {**ehr.procedure(id="good"), "id": "odd", "resourceType": kind}}]
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == ["Procedure/good"]
    assert "Procedure/odd" in the(prepared, "not-read").message


@pytest.mark.parametrize(
    "visit", [{"display": "Tuesday"}, {"reference": "#e"}, {"reference": ""}, {"identifier": {}}]
)
def test_a_visit_that_cannot_be_told_from_another_is_none_and_the_date_decides(ehr, visit):
    ehr.site = {"procedure_search": "patient"}
    ehr.procedure("97110", encounter=visit, id="dated")
    ehr.procedure("97140", None, None, encounter=visit, id="undated")
    prepared = ehr.visit()
    assert "Procedure/dated" in the(prepared, "matched-by-date").message
    assert "Procedure/undated" in the(prepared, "date-missing").message
    assert [service.reference for service in prepared.visit.services] == ["Procedure/dated"]


# Times that are not certain


@pytest.mark.parametrize(
    ("performed", "told"),
    [
        ({"performedDateTime": "2026-11-20T09:00:00-05:00"}, set()),
        ({"performedDateTime": "2026-11-20"}, set()),
        ({"performedPeriod": {"start": "2026-11-20T09:00:00-05:00"}}, set()),
        ({}, {"date-missing"}),
        ({"performedDateTime": "2026-11"}, set()),
        ({"performedDateTime": "20.11.2026"}, {"time-unreadable", "date-missing"}),
        ({"performedPeriod": {"start": "2026-11-20T09:00:00-05:00", "end": "soon"}}, {"time-unreadable"}),
        ({"performedPeriod": {"end": "2026-11-20T09:00:00-05:00"}}, {"date-missing"}),
    ],
)
def test_without_both_times_the_minutes_are_unknown_and_never_zero(ehr, performed, told):
    ehr.procedure("97110", None, None, **performed)
    prepared = ehr.visit()
    (service,) = prepared.visit.services
    assert (service.minutes, service.start, service.end) == (None, None, None)
    assert ids(prepared) == told


def test_an_end_before_the_start_leaves_the_minutes_unknown(ehr):
    ehr.procedure("97110", "09:15", "09:14:59")
    prepared = ehr.visit()
    assert prepared.visit.services[0].start is None
    assert the(prepared, "end-before-start").severity is Severity.CRITICAL


def test_the_same_start_and_end_leave_the_minutes_unknown_and_a_second_is_a_second(ehr):
    ehr.procedure("97110", "09:00", "09:00:00")
    assert ids(ehr.visit()) == {"no-duration"}
    ehr.resources.pop()
    ehr.procedure("97110", "09:00", "09:00:01")
    prepared = ehr.visit()
    assert lasted(prepared.visit.services[0]) == timedelta(seconds=1)
    assert ids(prepared) == set()


def test_times_without_a_zone_are_read_as_the_place_of_services_and_reported(ehr):
    period = {"start": "2026-11-20T09:00:00", "end": "2026-11-20T09:20:00"}
    ehr.procedure("97110", None, None, performedPeriod=period)
    prepared = ehr.visit()
    assert lasted(prepared.visit.services[0]) == timedelta(minutes=20)
    assert "America/New_York" in the(prepared, "time-without-zone").message


def test_two_times_of_performance_are_one_too_many(ehr):
    ehr.procedure("97110", performedDateTime="2026-11-20T09:00:00-05:00")
    prepared = ehr.visit()
    assert prepared.visit.services[0].start is None
    assert ids(prepared) == {"time-ambiguous"}


def test_what_goes_on_after_midnight_is_told(ehr):
    ehr.now += timedelta(days=1)
    ehr.encounter["period"] = {"start": "2026-11-20T23:30:00-05:00", "end": "2026-11-21T00:30:00-05:00"}
    ehr.procedure("97110", "2026-11-20T23:50:00-05:00", "2026-11-21T00:10:00-05:00")
    prepared = ehr.visit()
    assert prepared.visit.date_of_service == date(2026, 11, 20)
    assert "2026-11-20" in the(prepared, "crosses-midnight").message


@pytest.mark.parametrize(
    ("end", "told"), [("2026-11-21T00:00:00-05:00", set()), ("00:00:01", {"crosses-midnight"})]
)
def test_midnight_itself_is_the_end_of_the_day_and_a_second_later_is_not(ehr, end, told):
    ehr.now += timedelta(days=1)
    ehr.encounter["period"] = {"start": "2026-11-20T23:30:00-05:00", "end": "2026-11-21T00:30:00-05:00"}
    end = end if len(end) > 8 else f"2026-11-21T{end}-05:00"
    ehr.procedure("97110", "2026-11-20T23:50:00-05:00", end)
    assert ids(ehr.visit()) == told


@pytest.mark.parametrize(
    ("start", "day"), [("2026-11-20T23:59:59-05:00", 20), ("2026-11-21T00:00:00-05:00", 21)]
)
def test_what_begins_at_midnight_is_of_the_new_day(ehr, start, day):
    ehr.now += timedelta(days=1)
    ehr.encounter["period"] = {"start": "2026-11-20T23:30:00-05:00", "end": "2026-11-21T00:30:00-05:00"}
    ehr.procedure("97110", start, "2026-11-21T00:20:00-05:00")
    assert ehr.visit().visit.date_of_service.day == day


def test_an_encounter_over_midnight_has_a_visit_for_each_day(ehr):
    ehr.now += timedelta(days=1)
    ehr.encounter["period"] = {"start": "2026-11-20T23:30:00-05:00", "end": "2026-11-21T00:30:00-05:00"}
    ehr.procedure("97110", "2026-11-20T23:30:00-05:00", "2026-11-20T23:50:00-05:00")
    ehr.procedure("97140", "2026-11-21T00:00:00-05:00", "2026-11-21T00:20:00-05:00")
    visits = ehr.visits()
    assert [(prepared.visit.date_of_service.day, len(prepared.visit.services)) for prepared in visits] == [
        (20, 1),
        (21, 1),
    ]


def test_procedures_longer_than_the_visit_itself_are_questioned_from_the_first_minute_over(ehr):
    ehr.procedure("97110", "09:00", "10:00")
    assert ids(ehr.visit()) == set()
    ehr.procedure("97140", "09:00", "09:01")
    assert "61 minutes together" in the(ehr.visit(), "longer-than-encounter").message


# Who


def test_the_discipline_is_the_roles_and_several_make_several_visits(ehr):
    ehr.role("T2", OT)
    ehr.procedure("97110", id="pt")
    ehr.procedure("97535", "09:30", "09:45", id="ot", performer=[{"actor": {"reference": "Practitioner/T2"}}])
    by_discipline = {prepared.visit.discipline: prepared.visit for prepared in ehr.visits()}
    assert {d: [s.reference for s in visit.services] for d, visit in by_discipline.items()} == {
        Discipline.PT: ["Procedure/pt"],
        Discipline.OT: ["Procedure/ot"],
    }


STRANGER = [{"actor": {"reference": "Practitioner/stranger"}}]
OF_OT = [{"actor": {"reference": "Practitioner/T2"}}]
E2 = {"reference": "Encounter/E2"}


def another_visit(ehr):
    period = {"start": "2026-11-20T14:00:00-05:00"}
    ehr.add("Encounter", "E2", subject={"reference": "Patient/P1"}, period=period, status="finished")


def references(prepared):
    return [service.reference for service in prepared.visit.services]


@pytest.mark.parametrize("performer", [None, STRANGER])
@pytest.mark.parametrize(("minutes", "units"), [(7, 1), (8, 1), (20, 3)])  # apart: none, two and two
def test_services_of_an_unknown_discipline_are_counted_with_the_days_only_one_and_asked_about(
    ehr, performer, minutes, units
):
    ehr.procedure("97110", "09:00", f"09:{minutes:02}", id="known")
    ehr.procedure("97140", "09:30", f"09:{30 + minutes}", id="unknown", performer=performer)
    prepared = ehr.visit()
    assert (prepared.visit.discipline, prepared.other_disciplines) == (Discipline.PT, ())
    assert under_cms(prepared).total_timed_units == units
    told = the(prepared, "discipline-not-documented")
    assert (told.severity, told.status, told.codes) == (Severity.CRITICAL, Status.FAIL, ("97140",))
    assert told.message == (
        "The chart does not say who furnished 97140 (Procedure/unknown), or not in which discipline: counted "
        "with the PT minutes of this day. Give the reason why that is right; or document in the EHR who it was "
        "and read the chart again; or leave out, with a reason, what is another discipline's."
    )


def test_where_the_day_has_several_disciplines_the_unknown_one_is_a_visit_of_its_own_and_told(ehr):
    ehr.role("T2", OT)
    ehr.procedure("97110", id="pt")
    ehr.procedure("97535", "09:15", "09:30", id="ot", performer=OF_OT)
    ehr.procedure("97140", "09:30", "09:45", id="unknown", performer=None)
    pt, ot, unknown = ehr.visits()
    assert [one.visit.discipline for one in (pt, ot, unknown)] == [Discipline.PT, Discipline.OT, None]
    assert references(unknown) == ["Procedure/unknown"]
    assert unknown.other_disciplines == (Discipline.PT, Discipline.OT)
    assert pt.other_disciplines == (Discipline.OT,)
    for prepared, discipline in ((pt, "PT"), (ot, "OT")):
        told = the(prepared, "other-visit")
        assert told.severity is Severity.WARNING
        assert told.message == (
            "The chart does not say in which discipline 97140 (Procedure/unknown) was furnished: a visit of "
            f"its own here, and not counted with the {discipline} minutes of this day."
        )


def test_where_no_discipline_of_the_day_is_known_there_is_one_visit_and_any_can_be_chosen(ehr):
    ehr.procedure("97110", performer=None)
    ehr.procedure("97140", "09:15", "09:30", performer=STRANGER)
    prepared = ehr.visit()
    assert (prepared.visit.discipline, prepared.other_disciplines) == (None, ())
    assert len(prepared.visit.services) == 2
    assert "discipline-not-documented" not in ids(prepared)


def test_the_days_other_visits_disciplines_count_as_well(ehr):
    another_visit(ehr)
    ehr.procedure("97140", id="unknown", performer=None)
    ehr.procedure("97110", "14:00", "14:15", id="pt", encounter=E2)
    prepared = ehr.visit()
    assert prepared.visit.discipline is Discipline.PT
    assert references(prepared) == ["Procedure/unknown", "Procedure/pt"]
    assert "discipline-not-documented" in ids(prepared)
    ehr.role("T2", OT)
    ehr.procedure("97535", "14:15", "14:30", id="ot", encounter=E2, performer=OF_OT)
    prepared = ehr.visit()
    assert (prepared.visit.discipline, references(prepared)) == (None, ["Procedure/unknown"])
    assert prepared.other_disciplines == (Discipline.PT, Discipline.OT)


def test_the_unknown_ones_of_the_days_other_visit_join_too(ehr):
    another_visit(ehr)
    ehr.procedure("97110", id="pt")
    ehr.procedure("97140", "14:00", "14:15", id="unknown", encounter=E2, performer=None)
    prepared = ehr.visit()
    assert references(prepared) == ["Procedure/pt", "Procedure/unknown"]
    assert "discipline-not-documented" in ids(prepared)


def test_another_billing_groups_discipline_is_no_discipline_of_this_groups_day(ehr):
    ehr.site = {"groups": {"Organization/A": {"tin": "1"}, "Organization/B": {"tin": "2"}}}
    ehr.encounter["serviceProvider"] = {"reference": "Organization/A"}
    another_visit(ehr)
    ehr.resources[-1]["serviceProvider"] = {"reference": "Organization/B"}
    ehr.procedure("97140", performer=None)
    ehr.procedure("97110", "14:00", "14:15", encounter=E2)
    prepared = ehr.visit()
    assert (prepared.visit.discipline, prepared.other_disciplines) == (None, ())


def test_what_two_disciplines_performed_together_is_either_ones_and_joins_none(ehr):
    ehr.role("T2", OT)
    ehr.procedure("97110", id="pt")
    ehr.procedure(
        "97530", "09:15", "09:30", id="both", performer=[{"actor": {"reference": "Practitioner/T1"}}, *OF_OT]
    )
    pt, both = ehr.visits()
    assert (references(pt), references(both)) == (["Procedure/pt"], ["Procedure/both"])
    assert (both.visit.discipline, both.other_disciplines) == (None, (Discipline.PT,))


def test_a_procedure_without_performer_is_told_to_have_none(ehr):
    ehr.procedure("97110", performer=None)
    prepared = ehr.visit()
    assert prepared.visit.discipline is None
    assert the(prepared, "performer-missing").status is Status.NOT_CHECKED


def test_the_function_on_the_procedure_tells_as_well(ehr):
    function = {"coding": [{"system": "http://nucc.org/provider-taxonomy", "code": OTA}]}
    performer = [{"actor": {"reference": "Practitioner/T9"}, "function": function}]
    ehr.procedure("97535", performer=performer)
    prepared = ehr.visit()
    assert prepared.visit.discipline is Discipline.OT
    assert prepared.visit.services[0].assistant_minutes == 15


def test_the_sites_own_map_comes_before_the_ehrs_roles(ehr):
    ehr.site = {"practitioners": {"Practitioner/T1": {"discipline": "OT"}}}
    ehr.procedure()
    assert ehr.visit().visit.discipline is Discipline.OT


def test_a_practitioner_in_two_disciplines_is_asked(ehr):
    ehr.role("T1", OT)
    ehr.procedure()
    assert ehr.visit().visit.discipline is None


def test_whether_it_was_an_assistant_is_reported_as_unknown_once_a_person(ehr):
    ehr.resources = [each for each in ehr.resources if each["resourceType"] != "PractitionerRole"]
    ehr.procedure("97110")
    ehr.procedure("97140", "09:15", "09:30")
    assert "Practitioner/T1" in the(ehr.visit(), "performer-role-unknown").message


ASSISTANT = [{"actor": {"reference": "Practitioner/A1"}}]
BOTH = [{"actor": {"reference": "Practitioner/T1"}}, *ASSISTANT]


def at(time):
    return datetime.fromisoformat(f"2026-11-20T{time}").replace(tzinfo=ZoneInfo("America/New_York"))


def checked(prepared, check):
    """What core's check says of the visit as it was read: its messages, or 'passed'."""
    suggestion = suggest(prepared.visit, SHIPPED.policy("cms-part-b"), SHIPPED)
    if check in suggestion.checks_passed:
        return "passed"
    return [finding.message for finding in suggestion.findings if finding.id == check]


def test_an_assistants_minutes_are_the_assistants_and_keep_their_times(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", id="PR1", performer=ASSISTANT)
    prepared = ehr.visit()
    (service,) = prepared.visit.services
    assert (service.minutes, service.assistant_minutes) == (0, 15)
    assert (service.start, service.end) == (at("09:00"), at("09:15"))
    assert prepared.assistant_services == {"Procedure/PR1"}
    assert prepared.visit.discipline is Discipline.PT


def test_therapist_and_assistant_together_are_concurrent_and_keep_their_times(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", performer=BOTH)
    (service,) = ehr.visit().visit.services
    assert (service.minutes, service.assistant_minutes, service.concurrent_minutes) == (0, 0, 15)
    assert (service.start, service.end) == (at("09:00"), at("09:15"))


def test_an_assistants_seconds_are_added_up_before_they_become_minutes(ehr):
    ehr.role("A1", PTA)
    assistant = [{"actor": {"reference": "Practitioner/A1"}}]
    ehr.procedure("97110", "09:00", "09:07:40", performer=assistant)
    ehr.procedure("97110", "09:10", "09:17:40", performer=assistant)
    assert [service.assistant_minutes for service in ehr.visit().visit.services] == [7, 8]  # 15:20


@pytest.mark.parametrize(
    ("taken_over", "end", "assistant", "units", "odd"),
    [
        ("09:14:40", "09:23", 9, 2, True),  # 14:40 and 8:20 are 23 minutes
        ("09:14:40", "09:22:59", 8, 1, False),  # 14:40 and 8:19 are 22:59
        ("09:14:40", "09:23:40", 9, 2, False),  # 14:40 and 9:00
        ("09:15", "09:23:40", 8, 2, False),  # 15:00 and 8:40
    ],
)
def test_a_codes_seconds_are_added_up_over_therapist_and_assistant(
    ehr, taken_over, end, assistant, units, odd
):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", taken_over)
    ehr.procedure("97110", taken_over, end, performer=ASSISTANT)
    prepared = ehr.visit()
    assert prepared.visit.services[1].assistant_minutes == assistant
    assert sum(line.units for line in under_cms(prepared).lines) == units
    assert ("odd-minute" in ids(prepared)) == odd


def test_the_odd_minute_is_the_assistants_so_that_it_takes_no_modifier_off(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", "09:07:40")
    ehr.procedure("97110", "09:07:40", "09:15", performer=ASSISTANT)  # 7:40 and 7:20
    prepared = ehr.visit()
    (line,) = under_cms(prepared).lines
    assert (line.units, [put.code for put in line.modifiers]) == (1, ["CQ", "GP"])
    told = the(prepared, "odd-minute")
    assert (told.severity, told.codes) == (Severity.WARNING, ("97110",))
    assert told.message == (
        "97110 lasted 7 minutes and 40 seconds by the therapist and 7 minutes and 20 seconds by the assistant "
        "alone; the minute that is made of the seconds of both is counted as the assistant's, "
        "which may decide about the assistant's modifier."
    )


def test_a_minute_made_by_the_therapist_alone_and_with_the_assistant_is_the_therapists(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", "09:07:40")
    ehr.procedure("97110", "09:07:40", "09:15", performer=BOTH)
    prepared = ehr.visit()
    assert [service.concurrent_minutes for service in prepared.visit.services] == [0, 8]
    assert under_cms(prepared).total_timed_minutes == 15
    assert "odd-minute" not in ids(prepared)


def test_seconds_of_different_codes_make_no_minute(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", "09:07:40")
    ehr.procedure("97140", "09:07:40", "09:15", performer=ASSISTANT)
    assert under_cms(ehr.visit()).total_timed_minutes == 14


@given(seconds=st.lists(st.tuples(st.sampled_from("TAB"), st.integers(1, 4000)), min_size=1, max_size=6))
def test_the_whole_minutes_of_a_code_are_the_floor_of_all_its_seconds(seconds):
    """T by clock, A by the assistant, B by both: no share is a minute or more from its own seconds' floor."""
    start = at("09:00")
    services = [
        Service("97110", start=start, end=start + timedelta(seconds=each), reference=str(place))
        for place, (_, each) in enumerate(seconds)
    ]
    lasted = {str(place): timedelta(seconds=each) for place, (_, each) in enumerate(seconds)}
    whose = {who: {str(place) for place, (by, _) in enumerate(seconds) if by == who} for who in "TAB"}
    shared = in_whole_minutes(services, lasted, assistant=whose["A"], together=whose["B"])
    visit = Visit(date(2026, 11, 20), Discipline.PT, shared)
    found = documented(visit, SHIPPED.codes)["97110"]
    assert found.minutes == sum(each for _, each in seconds) // 60
    assistants = sum(each for by, each in seconds if by == "A") // 60
    assert found.assistant_minutes - assistants in {0, 1}
    assert in_whole_minutes(shared, lasted, assistant=whose["A"], together=whose["B"]) == shared


def test_an_assistants_unknown_time_is_unknown_and_not_zero(ehr):
    ehr.role("A1", PTA)
    ehr.procedure("97110", None, None, performer=[{"actor": {"reference": "Practitioner/A1"}}])
    (service,) = ehr.visit().visit.services
    assert (service.minutes, service.assistant_minutes) == (None, 0)


@pytest.mark.parametrize("other", [ASSISTANT, BOTH, None])  # None: T1 alone
@pytest.mark.parametrize(("start", "shared"), [("09:14", "1 minute"), ("09:15", None), ("09:16", None)])
def test_times_counted_twice_are_found_whoever_performed_them(ehr, other, start, shared):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", "09:15", performer=ASSISTANT)
    ehr.procedure("97140", start, "09:30", **({"performer": other} if other else {}))
    told = (
        f"97110 (09:00 to 09:15) and 97140 ({start} to 09:30) share {shared}, which can be counted only once."
    )
    says = checked(ehr.visit(), "minutes-counted-twice")
    assert says == ([told] if shared else "passed")


@pytest.mark.parametrize(("start", "apart"), [("09:29", False), ("09:30", True)])
def test_an_assistants_group_is_compared_with_one_on_one_minutes_by_the_clock(ehr, start, apart):
    ehr.role("A1", PTA)
    ehr.procedure("97150", "09:00", "09:30", performer=ASSISTANT)
    ehr.procedure("97110", start, "09:45")
    says = checked(ehr.visit(), "group-with-individual")
    told = "97150 and 97110 took the same time: group and one-on-one minutes must be apart."
    assert says == ("passed" if apart else [told])


@pytest.mark.parametrize(
    ("taken_over", "units"),  # a therapist's eight minutes of the last unit need no modifier
    [("09:22", {"": 1, "CQ": 1}), ("09:23", {"": 2})],
)
def test_the_last_unit_has_the_modifier_where_the_therapists_own_minutes_do_not_make_it(
    ehr, taken_over, units
):
    ehr.role("A1", PTA)
    ehr.procedure("97110", "09:00", taken_over)
    ehr.procedure("97110", taken_over, "09:30", performer=ASSISTANT)
    prepared = ehr.visit()
    suggestion = suggest(prepared.visit, SHIPPED.policy("cms-part-b"), SHIPPED)
    found = {
        next((put.code for put in line.modifiers if put.code == "CQ"), ""): line.units
        for line in suggestion.lines
    }
    assert found == units


def test_of_an_assistants_time_over_midnight_only_the_days_own_is_counted_and_so_told(ehr):
    ehr.role("A1", PTA)
    ehr.now = datetime(2026, 11, 22, tzinfo=ZoneInfo("UTC"))
    ehr.procedure("97110", "23:50", "2026-11-21T00:10:00-05:00", performer=ASSISTANT)
    prepared = ehr.visit()
    assert prepared.visit.services[0].assistant_minutes == 10
    (told,) = checked(prepared, "outside-date-of-service")
    assert told.startswith("97110 is timed 2026-11-20 23:50 to 2026-11-21 00:10, not all on 2026-11-20; ")
    assert told.endswith("10 minutes of it lie on that date, 10 were counted.")


# The period of a role


@pytest.mark.parametrize(
    ("period", "why"),
    [
        ({}, None),
        ({"start": "2026-11-20", "end": "2026-11-20"}, None),
        ({"start": "2026-11-21"}, "begins on 2026-11-21"),
        ({"end": "2026-11-19"}, "ended on 2026-11-19"),
        ({"start": "2026-11"}, None),
        ({"start": "2026-12"}, "begins in 2026-12"),
        ({"end": "2026-11"}, None),
        ({"end": "2026-10"}, "ended in 2026-10"),
        ({"start": "2026", "end": "2026"}, None),
        ({"start": "2027"}, "begins in 2027"),
        ({"end": "2025"}, "ended in 2025"),
        ({"end": "2026-11-20T04:59:59Z"}, "ended on 2026-11-19"),  # still the 19th in Boston
        ({"end": "2026-11-20T05:00:00Z"}, None),
        ({"start": "2026-11-21T04:59:59Z"}, None),
        ({"start": "2026-11-21T05:00:00Z"}, "begins on 2026-11-21"),
        ({"start": "lately"}, "has a period that we cannot read"),
        ({"start": "2026-01-01", "end": "20.11.2026"}, "has a period that we cannot read"),
    ],
)
def test_a_role_counts_on_the_days_of_its_period_and_both_its_ends(ehr, period, why):
    role = ehr.role("A1", PTA)
    role |= {"id": "assistant", "period": period}
    ehr.procedure("97110", performer=ASSISTANT)
    prepared = ehr.visit()
    (service,) = prepared.visit.services
    if why is None:
        assert (prepared.visit.discipline, service.assistant_minutes) == (Discipline.PT, 15)
        assert ids(prepared) == set()
    else:
        assert (prepared.visit.discipline, service.assistant_minutes) == (None, 0)
        told = the(prepared, "role-not-in-force")
        assert told.severity is Severity.INFO
        assert told.message == (
            f"PractitionerRole/assistant {why}, so it says nothing of Practitioner/A1 on 2026-11-20."
        )
        assert "Practitioner/A1 is a therapist" in the(prepared, "performer-role-unknown").message


def test_who_was_an_assistant_and_is_a_therapist_now_is_what_they_were_on_the_day(ehr):
    ehr.role("A1", PTA)["period"] = {"end": "2026-11-19"}
    ehr.role("A1", PT)["period"] = {"start": "2026-11-20"}
    ehr.procedure("97110", performer=ASSISTANT)
    prepared = ehr.visit()
    assert prepared.visit.services[0].assistant_minutes == 0
    assert ids(prepared) == {"role-not-in-force"}
    assert "ended on 2026-11-19" in the(prepared, "role-not-in-force").message


def test_an_ended_role_that_says_the_same_as_the_one_in_force_is_not_worth_a_word(ehr):
    ehr.role("T1", PT)["period"] = {"end": "2020-12-31"}
    ehr.procedure("97110")
    assert ids(ehr.visit()) == set()


# The day


def test_the_days_other_visit_is_counted_too_and_labelled(ehr):
    ehr.add(
        "Encounter", "E2", subject={"reference": "Patient/P1"}, period={"start": "2026-11-20T14:00:00-05:00"}
    )
    ehr.procedure("97110")
    ehr.procedure("97110", "14:00", "14:08", id="later", encounter={"reference": "Encounter/E2"})
    prepared = ehr.visit()
    assert len(prepared.visit.services) == 2
    assert "Procedure/later" in the(prepared, "counted-with-day").message


def test_a_procedure_without_a_visit_is_matched_by_its_date_and_labelled(ehr):
    ehr.procedure("97110", encounter=None)
    ehr.procedure("97110", "2026-11-19T09:00:00-05:00", "2026-11-19T09:15:00-05:00", encounter=None)
    prepared = ehr.visit()
    assert ids(prepared) == {"matched-by-date"}
    assert prepared.visit.discipline is Discipline.PT
    assert len(prepared.visit.services) == 1


def test_another_discipline_of_another_visit_has_its_own_page(ehr):
    ehr.role("T2", OT)
    ehr.procedure("97110")
    ehr.procedure(
        "97535",
        "14:00",
        "14:15",
        encounter={"reference": "Encounter/E2"},
        performer=[{"actor": {"reference": "Practitioner/T2"}}],
    )
    prepared = ehr.visit()
    assert [service.code for service in prepared.visit.services] == ["97110"]
    assert the(prepared, "other-visit").severity is Severity.INFO


def test_another_billing_groups_visit_of_the_day_is_not_counted(ehr):
    ehr.site = {"groups": {"Organization/A": {"tin": "1"}, "Organization/B": {"tin": "2"}}}
    ehr.encounter["serviceProvider"] = {"reference": "Organization/A"}
    ehr.add(
        "Encounter",
        "E2",
        subject={"reference": "Patient/P1"},
        period={"start": "2026-11-20T14:00:00-05:00"},
        serviceProvider={"reference": "Organization/B"},
    )
    ehr.procedure("97110")
    ehr.procedure("97110", "14:00", "14:15", encounter={"reference": "Encounter/E2"})
    prepared = ehr.visit()
    assert len(prepared.visit.services) == 1
    assert prepared.visit.provider.tin == "1"
    assert "other-group" in ids(prepared)


def test_a_visit_without_procedures_is_still_a_visit(ehr):
    prepared = ehr.visit()
    assert prepared.visit.services == ()
    assert prepared.visit.discipline is None


# The status of the day's other visits


def two_visits(ehr, **changed):
    """97110 for half an hour in the launch's visit, and again in the day's other one."""
    period = {"start": "2026-11-20T11:00:00-05:00"}
    other = {"subject": {"reference": "Patient/P1"}, "period": period, "status": "finished", **changed}
    ehr.add("Encounter", "E2", **{name: value for name, value in other.items() if value is not None})
    ehr.procedure("97110", "09:00", "09:30", id="own")
    return ehr.procedure("97110", "11:00", "11:30", id="other", encounter={"reference": "Encounter/E2"})


def units_under_cms(prepared):
    return {line.code: line.units for line in under_cms(prepared).lines}


@pytest.mark.parametrize(
    ("status", "why"), [("cancelled", "was cancelled"), ("entered-in-error", "was entered in error")]
)
def test_procedures_of_a_visit_that_did_not_take_place_are_not_counted_and_named(ehr, status, why):
    two_visits(ehr, status=status)
    prepared = ehr.visit()
    assert units_under_cms(prepared) == {"97110": 2}
    told = the(prepared, "left-out")
    assert (told.severity, told.status, told.codes) == (Severity.WARNING, Status.FAIL, ("97110",))
    assert told.message == (
        f"97110 (Procedure/other) is of Encounter/E2, another visit of this day that {why}, and is not counted."
    )
    assert "encounter-status" not in ids(prepared)


@pytest.mark.parametrize("status", ["finished", "in-progress", "onleave"])
def test_procedures_of_a_visit_that_takes_place_are_counted_without_a_word(ehr, status):
    two_visits(ehr, status=status)
    prepared = ehr.visit()
    assert units_under_cms(prepared) == {"97110": 4}
    assert ids(prepared) == {"counted-with-day"}


@pytest.mark.parametrize(
    ("changed", "severity", "why"),
    [
        ({"status": "planned"}, Severity.WARNING, "has the status 'planned'"),
        ({"status": "arrived"}, Severity.WARNING, "has the status 'arrived'"),
        ({"status": "triaged"}, Severity.WARNING, "has the status 'triaged'"),
        ({"status": "unknown"}, Severity.WARNING, "has the status 'unknown'"),
        ({"status": "noshow"}, Severity.WARNING, "has the status 'noshow'"),  # none of FHIR's
        ({"status": None}, Severity.WARNING, "has no status"),
        (
            {"modifierExtension": [{"url": "urn:x"}]},
            Severity.CRITICAL,
            "carries a qualification that we do not know",
        ),
    ],
)
def test_where_it_is_doubtful_whether_a_visit_took_place_it_is_counted_and_told_once(
    ehr, changed, severity, why
):
    two_visits(ehr, **changed)
    ehr.procedure("97140", "11:30", "11:45", encounter={"reference": "Encounter/E2"})
    prepared = ehr.visit()
    assert len(prepared.visit.services) == 3
    told = the(prepared, "encounter-status")
    assert (told.severity, told.status) == (severity, Status.FAIL)
    assert told.message == (
        f"Encounter/E2, another visit of this day whose services are counted here, {why}. "
        "Check that it took place."
    )


def test_a_visit_that_could_not_be_read_is_counted_and_told(ehr):
    two_visits(ehr)
    ehr.refused["Encounter?date"] = 403
    prepared = ehr.visit()
    assert units_under_cms(prepared) == {"97110": 4}
    told = the(prepared, "encounter-status")
    assert (told.severity, told.status) == (Severity.WARNING, Status.NOT_CHECKED)
    assert "Encounter/E2" in told.message


@pytest.mark.parametrize("period", [None, {"start": "2026-11-19T11:00:00-05:00"}])
def test_a_cancelled_visit_is_known_by_its_procedures_of_the_day_whatever_its_own_date(ehr, period):
    two_visits(ehr, status="cancelled", period=period)
    ehr.entries["Encounter"] = [
        {"resource": each} for each in ehr.resources if each["id"] == "E2"
    ]  # some servers find visits without a date too
    assert units_under_cms(ehr.visit()) == {"97110": 2}


def test_a_part_of_a_whole_of_a_cancelled_visit_counts_itself(ehr):
    two_visits(ehr, status="cancelled")
    ehr.procedure("97110", "09:30", "09:45", id="part", partOf=part("other"))
    assert [service.reference for service in ehr.visit().visit.services] == [
        "Procedure/own",
        "Procedure/part",
    ]


# Parts and wholes


def part(of):
    return [{"reference": f"Procedure/{of}"}]


def test_a_whole_with_a_time_counts_and_its_parts_of_the_same_code_do_not(ehr):
    ehr.procedure("97110", "09:00", "09:30", id="whole")
    ehr.procedure("97110", "09:00", "09:15", partOf=part("whole"))
    ehr.procedure("97140", "09:30", "09:45", id="other", partOf=part("whole"))
    prepared = ehr.visit()
    assert [service.reference for service in prepared.visit.services] == [
        "Procedure/whole",
        "Procedure/other",
    ]
    assert "part-of-another" in ids(prepared)


def test_a_whole_without_a_time_gives_way_to_its_parts(ehr):
    ehr.procedure("97110", None, None, id="whole")
    ehr.procedure("97110", "09:00", "09:15", id="part", partOf=part("whole"))
    assert [service.reference for service in ehr.visit().visit.services] == ["Procedure/part"]


def test_two_procedures_that_call_each_other_the_whole_count_once(ehr):
    ehr.procedure("97110", "09:00", "09:15", id="a", partOf=part("b"))
    ehr.procedure("97110", "09:00", "09:15", id="b", partOf=part("a"))
    assert len(ehr.visit().visit.services) == 1


def test_a_part_of_a_part_is_counted_once(ehr):
    ehr.procedure("97110", "09:00", "09:15", id="c", partOf=part("b"))
    ehr.procedure("97110", "09:00", "09:20", id="b", partOf=part("a"))
    ehr.procedure("97110", "09:00", "09:30", id="a")
    assert [service.reference for service in ehr.visit().visit.services] == ["Procedure/a"]


def test_a_part_of_a_whole_that_was_entered_in_error_counts_itself(ehr):
    ehr.procedure("97110", "09:00", "09:30", id="whole", status="entered-in-error")
    ehr.procedure("97110", "09:00", "09:15", id="part", partOf=part("whole"))
    assert [service.reference for service in ehr.visit().visit.services] == ["Procedure/part"]
