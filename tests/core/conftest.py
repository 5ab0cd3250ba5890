"""Visits made short: a test shows only what matters to it."""

from __future__ import annotations

from datetime import date

import pytest

from quarterhour.core.library import Library
from quarterhour.core.suggestion import suggest
from quarterhour.core.visit import Discipline, Service, Visit

LIBRARY = Library.load()
A_DAY = date(2026, 3, 2)


def visit_of(*services, **fields):
    """A PT visit of these services: ``Service``s, or (code, minutes) or (code, therapist, assistant)."""
    made = tuple(service if isinstance(service, Service) else Service(*service) for service in services)
    on = fields.pop("on", A_DAY)
    return Visit(
        date_of_service=on, discipline=fields.pop("discipline", Discipline.PT), services=made, **fields
    )


def suggested_for(*services, policy="cms-part-b", tie_choice=None, **fields):
    return suggest(visit_of(*services, **fields), LIBRARY.policy(policy), LIBRARY, tie_choice=tie_choice)


@pytest.fixture(scope="session")
def library():
    return LIBRARY


@pytest.fixture(scope="session")
def a_visit():
    return visit_of


@pytest.fixture(scope="session")
def suggested():
    return suggested_for


@pytest.fixture(scope="session")
def units():
    """Units of the day by code, of those that have any."""

    def units_of(suggestion):
        found: dict[str, int] = {}
        for line in suggestion.lines:
            if line.units_of_day:
                found[line.code] = found.get(line.code, 0) + line.units_of_day
        return found

    return units_of


@pytest.fixture(scope="session")
def outcome():
    """What became of a check: its findings as (status, message), 'passed', or None where it was not asked."""

    def outcome_of(suggestion, check):
        found = [
            (finding.status.value, finding.message) for finding in suggestion.findings if finding.id == check
        ]
        if found:
            assert check not in suggestion.checks_passed
            return found
        return "passed" if check in suggestion.checks_passed else None

    return outcome_of
