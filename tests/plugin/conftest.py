"""Both databases, and everything that charges leave by."""

import logging
import sys
from pathlib import Path

import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

import databases
import fault_matrix


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
