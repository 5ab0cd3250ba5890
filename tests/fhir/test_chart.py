"""Which requests a chart costs, and what is never believed."""

import threading
from datetime import date, timedelta

import pytest
import requests

from quarterhour.fhir import chart
from quarterhour.fhir.errors import BadAnswer, Busy, Forbidden, NoDate, NotAuthorized, NotFound, WrongPatient


def kinds(ehr):
    return sorted(path.split("/")[0] for path, _ in ehr.asked)


def test_a_visit_of_this_fortnight_takes_one_round_of_reads(ehr):
    ehr.procedure("97110")
    ehr.coverage()
    chart = ehr.chart()
    assert kinds(ehr) == [
        "ChargeItem",
        "ChargeItem",
        "Coverage",
        "Encounter",
        "Encounter",
        "Patient",
        "Practitioner",
        "PractitionerRole",
        "Procedure",
        "Procedure",
    ]
    assert chart.days == (date(2026, 11, 20),)
    assert [procedure.id for procedure in chart.procedures] == [ehr.resources[-2]["id"]]


def test_the_reads_of_a_round_are_under_way_at_the_same_time(ehr):
    ehr.wait = threading.Barrier(10, timeout=5).wait  # no answer before the tenth question
    ehr.procedure("97110")
    assert len(ehr.chart().procedures) == 1


def test_the_threads_of_an_ehrs_first_chart_are_there_before_it_is_begun():
    before, session = set(threading.enumerate()), requests.Session()
    chart.prepare_reads(session)
    started = set(threading.enumerate()) - before
    assert len(started) == chart.SIDE_BY_SIDE
    chart.prepare_reads(session)
    assert set(threading.enumerate()) - before == started


def test_charts_that_wait_for_one_ehr_leave_those_of_another_alone(ehr, monkeypatch):
    monkeypatch.setattr(chart, "PATIENCE", 0.1)
    slow, quick = ehr.server(), ehr.server()
    under_way, gate = threading.Semaphore(0), threading.Event()

    def wait():
        under_way.release()
        gate.wait(10)

    ehr.wait = wait
    waiting = [ehr.begin(slow) for _ in range(chart.AT_ONCE // 10)]
    assert all(under_way.acquire(timeout=5) for _ in range(chart.AT_ONCE))
    with pytest.raises(Busy, match="Too many wait for a slow EHR already, so nothing was sent"):
        chart.finish_chart(ehr.begin(slow))
    assert len(ehr.asked) == chart.AT_ONCE
    ehr.wait = lambda: 0
    assert chart.finish_chart(ehr.begin(quick)).encounter.id == "E1"
    gate.set()
    assert [chart.finish_chart(begun).encounter.id for begun in waiting] == ["E1"] * len(waiting)
    assert chart.finish_chart(ehr.begin(slow)).encounter.id == "E1"


def test_a_chart_that_finds_room_in_time_is_read(ehr, monkeypatch):
    monkeypatch.setattr(chart, "AT_ONCE", 10)
    server, both = ehr.server(), threading.Barrier(10, timeout=5)
    ehr.wait = both.wait
    begun = [ehr.begin(server), ehr.begin(server)]
    assert [chart.finish_chart(each).encounter.id for each in begun] == ["E1", "E1"]


def test_a_round_of_more_reads_than_all_room_is_made_alone(ehr, monkeypatch):
    monkeypatch.setattr(chart, "AT_ONCE", 3)
    assert ehr.chart().encounter.id == "E1"


def is_last(path, query):
    return path in {"ChargeItem", "Encounter"} or (path == "Procedure" and "encounter" in query)


def test_the_chart_can_be_told_while_the_ehr_still_owes_what_rarely_brings_anything(ehr):
    ehr.procedure("97110")
    ehr.coverage()
    ehr.held = is_last
    begun = ehr.begin(ehr.server())
    expected = chart.chart_without_last(begun)
    ehr.gate.set()
    assert expected == chart.finish_chart(begun)


def undated(ehr):
    ehr.procedure("97140", None, None)


def another_encounter(ehr):
    ehr.add(
        "Encounter", "E2", **{name: ehr.encounter[name] for name in ("status", "class", "subject", "period")}
    )


def refused(ehr):
    ehr.refused["ChargeItem?context"] = 403


@pytest.mark.parametrize("brought", [lambda ehr: ehr.charge(), undated, another_encounter, refused])
def test_what_that_brings_after_all_is_in_the_chart(ehr, brought):
    ehr.procedure("97110")
    brought(ehr)
    ehr.held = is_last
    begun = ehr.begin(ehr.server())
    expected = chart.chart_without_last(begun)
    ehr.gate.set()
    finished = chart.finish_chart(begun)
    assert expected is not None
    assert finished != expected
    assert finished == ehr.chart()


def test_a_procedure_that_changes_before_the_last_reads_bring_it_again_is_told_and_not_counted(ehr):
    procedure = ehr.procedure("97110")
    ehr.held = is_last
    begun = ehr.begin(ehr.server())
    expected = chart.chart_without_last(begun)
    procedure["code"] = ehr.procedure("97140")["code"]
    ehr.resources.pop()
    ehr.gate.set()
    finished = chart.finish_chart(begun)
    assert [each.id for each in expected.procedures] == [procedure["id"]]
    assert finished.procedures == ()
    assert [each.reason for each in finished.unread] == ["Two copies of it differ"]


@pytest.mark.parametrize("what", ["Encounter/E1", "Patient", "Procedure?date"])
def test_where_a_read_that_is_needed_fails_nothing_is_told_before_the_chart_raises_it(ehr, what):
    ehr.refused[what] = 403
    begun = ehr.begin(ehr.server())
    assert chart.chart_without_last(begun) is None
    with pytest.raises(Forbidden):
        chart.finish_chart(begun)


def test_where_a_second_round_is_needed_nothing_is_told_before_it(ehr):
    ehr.encounter["period"] = {"start": "2026-09-01T09:00:00-04:00", "end": "2026-09-01T10:00:00-04:00"}
    begun = ehr.begin(ehr.server())
    assert chart.chart_without_last(begun) is None
    assert chart.finish_chart(begun).days == (date(2026, 9, 1),)


def test_the_window_is_a_day_wider_on_each_side_for_servers_in_other_zones(ehr):
    ehr.chart()
    assert ehr.searches("Encounter")[0]["date"] == ["ge2026-11-05", "le2026-11-22"]


def test_a_visit_further_back_costs_one_more_round_and_finds_its_procedures(ehr):
    ehr.site = {"procedure_search": "date"}
    ehr.encounter["period"] = {"start": "2026-09-01T09:00:00-04:00", "end": "2026-09-01T10:00:00-04:00"}
    ehr.procedure("97110", "2026-09-01T09:00:00-04:00", "2026-09-01T09:15:00-04:00")
    chart = ehr.chart()
    assert len(chart.procedures) == 1
    assert [query["date"] for query in ehr.searches("Procedure")] == [
        ["ge2026-11-05", "le2026-11-22"],
        ["ge2026-08-31", "le2026-09-02"],
    ]


@pytest.mark.parametrize(("days_ago", "searches"), [(14, 1), (15, 2)])
def test_the_edge_of_the_first_rounds_window(ehr, days_ago, searches):
    ehr.site = {"procedure_search": "date"}
    day = date(2026, 11, 20) - timedelta(days=days_ago)
    ehr.encounter["period"] = {"start": f"{day}T09:00:00-05:00", "end": f"{day}T10:00:00-05:00"}
    ehr.chart()
    assert len(ehr.searches("Procedure")) == searches


def test_an_ehr_that_cannot_search_by_encounter_is_not_asked_to(ehr):
    ehr.site = {"procedure_search": "date"}
    ehr.procedure("97110")
    chart = ehr.chart()
    assert len(chart.procedures) == 1
    assert all("encounter" not in query for query in ehr.searches("Procedure"))
    assert [gap.what for gap in chart.not_looked] == ["procedures-without-date"]


def test_an_ehr_that_refuses_the_search_by_encounter_still_gives_a_chart(ehr):
    ehr.procedure("97110")
    ehr.refused["Procedure?encounter"] = 400
    chart = ehr.chart()
    assert len(chart.procedures) == 1
    assert [gap.what for gap in chart.not_looked] == ["procedures-without-date"]


def test_an_ehr_that_cannot_search_by_date_gives_everything_and_we_choose(ehr):
    ehr.site = {"procedure_search": "patient"}
    ehr.procedure("97110", id="today")
    last_year = "2025-11-20T09:00:00-05:00"
    ehr.procedure("97110", last_year, last_year, id="old", encounter={"reference": "Encounter/E0"})
    assert [procedure.id for procedure in ehr.chart().procedures] == ["today"]


def test_an_ehr_without_charges_is_not_asked_for_them(ehr):
    ehr.site = {"charge_search": "none"}
    assert [gap.what for gap in ehr.chart().not_looked] == ["charges"]
    assert ehr.searches("ChargeItem") == []


def test_a_procedure_found_twice_is_there_once(ehr):
    ehr.procedure("97110")
    assert len(ehr.searches("Procedure")) == 0
    assert len(ehr.chart().procedures) == 1
    assert len(ehr.searches("Procedure")) == 2


def test_roles_of_other_performers_are_asked_for_in_one_further_search(ehr):
    ehr.role("T2", "225X00000X")
    ehr.procedure("97110", performer=[{"actor": {"reference": "Practitioner/T2"}}])
    ehr.procedure("97110", performer=[{"actor": {"reference": "Practitioner/T3"}}])
    assert len(ehr.chart().roles) == 2
    assert [query["practitioner"] for query in ehr.searches("PractitionerRole")] == [["T1"], ["T2,T3"]]


def test_a_performer_given_as_a_role_is_read(ehr):
    role = ehr.role("T2", "225X00000X")
    ehr.procedure("97110", performer=[{"actor": {"reference": f"PractitionerRole/{role['id']}"}}])
    assert ehr.visit().visit.discipline == "OT"


def test_whoever_the_sites_map_knows_is_not_asked_for(ehr):
    ehr.site = {"practitioners": {"Practitioner/T1": {"discipline": "PT"}}}
    ehr.procedure("97110")
    ehr.chart()
    assert ehr.searches("PractitionerRole") == []


def test_the_fhir_user_may_be_an_absolute_address(ehr):
    assert ehr.chart(user="https://ehr.example/fhir/Practitioner/T1").user.id == "T1"


def test_a_user_who_is_no_practitioner_is_not_read(ehr):
    assert ehr.chart(user="RelatedPerson/X").user is None
    assert ehr.chart(user=None).user is None


# Never believed


def test_an_encounter_of_another_patient_stops_everything(ehr):
    ehr.encounter["subject"] = {"reference": "Patient/P2"}
    with pytest.raises(WrongPatient, match="right chart"):
        ehr.chart()


def test_an_encounter_that_does_not_say_whose_it_is_stops_everything(ehr):
    del ehr.encounter["subject"]
    with pytest.raises(WrongPatient):
        ehr.chart()


def test_another_record_than_the_one_asked_for_stops_everything(ehr):
    ehr.instead["Encounter/E1"] = "Encounter/E2"
    ehr.add("Encounter", "E2", subject={"reference": "Patient/P1"})
    with pytest.raises(WrongPatient, match="another record"):
        ehr.chart()


def test_a_visit_without_any_date_says_what_to_do(ehr):
    del ehr.encounter["period"]
    ehr.procedure("97110", None, None)
    with pytest.raises(NoDate, match="Enter the date"):
        ehr.chart()


def test_a_visit_without_a_date_is_of_the_day_of_its_procedures(ehr):
    del ehr.encounter["period"]
    ehr.procedure("97110")
    assert ehr.chart().days == (date(2026, 11, 20),)


def test_an_encounter_that_cannot_be_read_names_the_place(ehr):
    ehr.encounter["period"] = "yesterday"
    with pytest.raises(BadAnswer, match=r"\$\.period"):
        ehr.chart()


# What stops, and what only leaves a gap


@pytest.mark.parametrize("what", ["Encounter/E1", "Patient", "Procedure?date"])
def test_without_encounter_patient_or_procedures_there_is_no_chart(ehr, what):
    ehr.refused[what] = 403
    with pytest.raises(Forbidden):
        ehr.chart()


def test_an_unknown_encounter_is_not_found(ehr):
    with pytest.raises(NotFound, match="Check the visit"):
        ehr.chart(encounter="Encounter/E9")


@pytest.mark.parametrize(
    ("refused", "gap"),
    [
        ("Coverage", "coverage"),
        ("ChargeItem", "charges"),
        ("PractitionerRole", "roles"),
        ("Practitioner", "practitioner"),
        ("Encounter?date", "encounters"),
    ],
)
def test_whatever_else_is_refused_leaves_a_gap_with_its_reason(ehr, refused, gap):
    ehr.procedure("97110")
    ehr.refused[refused] = 403
    chart = ehr.chart()
    assert len(chart.procedures) == 1
    assert {missing.what for missing in chart.not_looked} == {gap}
    assert all("does not allow" in missing.reason for missing in chart.not_looked)


def test_an_expired_token_is_told_even_where_only_a_gap_would_be_left(ehr):
    ehr.refused["Coverage"] = 401
    with pytest.raises(NotAuthorized):
        ehr.chart()
