"""An EHR on loopback and an installation that captures its visits; both databases."""

import importlib.util
import logging
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

import capture_process
import captured

from quarterhour.launch.keys import generate_key

_there = Path(__file__).parent.parent / "journeys" / "conftest.py"
_spec = importlib.util.spec_from_file_location("journeys_conftest_for_capture", _there)
journeys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(journeys)

journeys.ISSUER += """
[issuers.sandbox.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_env = "QUARTERHOUR_TEST_BACKEND_KEY"

[issuers.sandbox.capture]
visits_per_minute = 100000

[issuers.sandbox.roles]
users."Practitioner/pr-osei" = "biller"
users."Practitioner/pr-cole" = "assistant"
users."Practitioner/pr-reyes" = ["therapist", "administrator"]
"""


@pytest.fixture
def a_capture(tmp_path):
    """Opens both sides with settings of their own, for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(captured.a_capture_in(tmp_path, **settings))


@pytest.fixture
def clinic(a_capture):
    return a_capture()


@pytest.fixture
def an_office(tmp_path, monkeypatch):
    """Opens the clinic of the journeys, with people who open Quarterhour, whose EHR is captured too."""
    monkeypatch.setenv("QUARTERHOUR_TEST_BACKEND_KEY", generate_key("ES384"))
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(journeys.a_clinic_in(tmp_path, **settings))


@pytest.fixture
def office(an_office):
    return an_office()


@pytest.fixture(scope="session")
def helper():
    """What forks the processes that tests kill."""
    with closing(capture_process.Helper()) as started:
        yield started


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("waitress").setLevel(logging.ERROR)  # answers are cut short on purpose
    before = structlog.get_config()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
