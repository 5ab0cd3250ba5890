"""An installation on the disk of a test; both databases, and everything that charges leave by."""

import logging
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import structlog
from cryptography.fernet import Fernet

from quarterhour.core.visit import Discipline, Service, Visit
from quarterhour.fhir.normalise import PreparedVisit
from quarterhour.fhir.person import Person
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

import databases
import fault_matrix

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
            "assistant_services": frozenset(),
            "proposals": {},
            "versions": {},
            "charges": (),
            "organization": None,
            "account": None,
        }
        return PreparedVisit(**known | changed)

    return made


@pytest.fixture(scope="session")
def postgres():
    with databases.running_postgres() as folder:
        yield folder


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server_of(request):
    """What makes an empty database of this kind."""
    if request.param == "sqlite":
        return lambda folder: f"sqlite:///{folder / 'quarterhour.sqlite3'}"
    socket_folder = request.getfixturevalue("postgres")
    return lambda _folder: databases.new_database(socket_folder)


@pytest.fixture(scope="session")
def bench(server_of, tmp_path_factory):
    """Two EHRs, an interface and a folder, with a database between; see tests/support/fault_matrix.py."""
    folder = tmp_path_factory.mktemp("bench")
    with fault_matrix.a_bench(server_of(folder), folder) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _quiet_servers():
    logging.getLogger("waitress").setLevel(logging.ERROR)  # answers are cut short on purpose


@pytest.fixture(autouse=True)
def _quiet():
    before = structlog.get_config()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
