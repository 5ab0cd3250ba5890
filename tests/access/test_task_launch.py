"""Launched from a task list or a CDS card: the visit is the one that the task or card was about.

https://hl7.org/fhir/smart-app-launch/STU2.2/task-launch.html
"""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from quarterhour.launch.context import app_context
from quarterhour.sandbox.authorization import Authorized


@pytest.fixture
def from_task(site):
    """Follows a Task for a visit (Task.for, Task.encounter, and the appContext among Task.input)."""

    def follow(patient, encounter, context):
        scenario = site.sandbox.scenario("cms-ex1")
        task = Authorized(
            f"Practitioner/{scenario.user}",
            f"Patient/{patient}",
            f"Encounter/{encounter}" if encounter else None,
            app_context=context,
        )
        launch = site.sandbox.smart.launch(task)
        return site.person().get(f"/launch?{urlencode({'iss': f'{site.ehr_url}/fhir', 'launch': launch})}")

    return follow


def test_90_a_task_for_a_visit_opens_its_review(site, from_task):
    visit = site.sandbox.scenario("cms-ex1")
    assert "Sign off…" in from_task(visit.patient, None, app_context(visit.encounter)).html


def test_90_the_visit_of_the_task_comes_before_the_one_that_is_open_in_the_chart(site, from_task):
    visit = site.sandbox.scenario("cms-ex1")
    page = from_task(visit.patient, "never-opened", app_context(visit.encounter))
    assert "Sign off…" in page.html
    assert not any("never-opened" in f"{each.path}?{each.query}" for each in site.ehr_side)


def test_58_90_a_task_that_names_another_patients_visit_opens_nothing(site, from_task):
    visit, other = site.sandbox.scenario("cms-ex1"), site.sandbox.scenario("cms-ex2")
    assert visit.patient != other.patient
    page = from_task(visit.patient, visit.encounter, app_context(other.encounter))
    assert page.status >= 400
    assert "Sign off…" not in page.html
