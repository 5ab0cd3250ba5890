"""An EHR on loopback and an installation that captures its visits; both databases."""

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

import captured


@pytest.fixture
def a_capture(tmp_path):
    """Opens both sides with settings of their own, for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(captured.a_capture_in(tmp_path, **settings))


@pytest.fixture
def clinic(a_capture):
    return a_capture()


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("waitress").setLevel(logging.ERROR)  # answers are cut short on purpose
    before = structlog.get_config()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
