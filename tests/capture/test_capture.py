"""What capture puts on the worklist, and what it leaves alone."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from quarterhour.core.visit import Discipline
from quarterhour.plugin import audit, database
from quarterhour.plugin.worklist import Standing, State, Suggested
from quarterhour.sandbox.faults import Fault

EX1 = "Encounter/enc-cms-ex1"


def minutes(procedure, count):
    """The same Procedure, so many minutes long."""
    start = procedure["performedPeriod"]["start"]
    from datetime import datetime

    end = datetime.fromisoformat(start) + timedelta(minutes=count)
    return {"start": start, "end": end.isoformat(timespec="seconds")}


def test_a_visit_that_ended_waits_on_the_worklist_with_its_suggestion(clinic):
    clinic.capture("cms-ex1")
    visit = clinic.only()
    assert visit.captured
    assert visit.standing is Standing.OPEN
    assert visit.discipline is Discipline.PT
    assert visit.units == 3
    assert [(line.code, line.units) for line in visit.lines] == [("97110", 1), ("97112", 2)]
    assert all("GP" in line.modifiers for line in visit.lines)
    assert visit.therapists == ("Practitioner/t-pt",) or visit.therapists


def test_captured_a_hundred_times_it_is_listed_once(clinic):
    for _ in range(5):
        clinic.capture("cms-ex1")
    assert len(clinic.listed()) == 1
    assert clinic.only().changes == ()
