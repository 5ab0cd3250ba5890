"""An installation on the disk of a test: keys, an empty database, one EHR that nobody asks."""

from contextlib import closing
from datetime import UTC, date, datetime

import pytest
from cryptography.fernet import Fernet

from quarterhour.core.visit import Discipline, Service, Visit
from quarterhour.fhir.normalise import PreparedVisit
from quarterhour.fhir.person import Person
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install

ISSUERS = """\
[issuers.riverside]
iss = "https://ehr.example/fhir"
name = "Riverside"
time_zone = "America/New_York"
client_id = "quarterhour"
client_auth = "public"
"""
NOW = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
KEYS = tuple(Fernet.generate_key().decode() for _ in range(3))


@pytest.fixture
def now():
    return NOW


@pytest.fixture
def keys():
    """Three keys, oldest first."""
    return KEYS


@pytest.fixture
def settings(tmp_path):
    """Settings with whatever the test changes."""
    issuers = tmp_path / "issuers.toml"
    issuers.write_text(ISSUERS)

    def made(**changed):
        given = {
            "public_url": "https://units.example",
            "issuers_file": issuers,
            "secret_keys": KEYS[0],
            "database_url": f"sqlite:///{tmp_path / 'quarterhour.sqlite3'}",
        }
        return Settings(**given | changed)

    return made


@pytest.fixture
def here(settings):
    with closing(install(settings(), lambda: NOW)) as installation:
        yield installation


@pytest.fixture
def a_visit():
    """A visit as it was read; services as (code, minutes) on Friday 2026-11-20."""

    def made(*services, discipline=Discipline.PT, policy="cms-part-b", **changed):
        known = {
            "visit": Visit(
                date_of_service=date(2026, 11, 20),
                discipline=discipline,
                services=tuple(
                    Service(code, minutes, reference=f"Procedure/{number}")
                    for number, (code, minutes) in enumerate(services, start=1)
                ),
            ),
            "findings": (),
            "patient": "Patient/1",
            "person": Person(name="Pat Synthetic", birth_date="1950-01-01", sex="female", record_number="1"),
            "encounter": "Encounter/1",
            "policy_id": policy,
            "policy_because": "The coverage names it.",
            "coverage": None,
            "performers": {},
            "occurrences": {},
            "assistant_services": frozenset(),
            "proposals": {},
            "versions": {},
            "charges": (),
            "organization": None,
            "account": None,
        }
        return PreparedVisit(**known | changed)

    return made
