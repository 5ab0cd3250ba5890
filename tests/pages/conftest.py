"""The clinic of the journeys, with people of every role in it, and axe to look at its pages."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("journeys_conftest", HERE.parent / "journeys" / "conftest.py")
journeys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(journeys)

journeys.ISSUER += """
[issuers.sandbox.roles]
users."Practitioner/pr-reyes" = ["therapist", "administrator"]
users."Practitioner/pr-osei" = "biller"
users."Practitioner/pr-cole" = "assistant"
"""

a_browser, browser, _quiet = journeys.a_browser, journeys.browser, journeys._quiet
a_clinic, clinic, person = journeys.a_clinic, journeys.clinic, journeys.person

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def one_clinic(tmp_path_factory):
    """One clinic for tests that only look."""
    with journeys.a_clinic_in(tmp_path_factory.mktemp("clinic")) as opened:
        yield opened


@pytest.fixture(scope="session")
def axe():
    """Everything that axe has against a page as it stands, everything on it opened, light and dark."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - only where there is a browser

    looked = Axe()

    def violations(page, name: str, *, dark: bool = True) -> dict[str, list[str]]:
        page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true })")
        found: dict[str, list[str]] = {}
        for scheme, rules in (
            ("light", {"type": "tag", "values": WCAG}),
            ("dark", {"type": "rule", "values": ["color-contrast"]}),
        )[: 1 + dark]:
            page.emulate_media(color_scheme=scheme)
            response = looked.run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response
            for violation in response["violations"]:
                nodes = [node["html"][:160] for node in violation["nodes"][:3]]
                found[f"{name}, {scheme}: {violation['id']}"] = nodes
        return found

    return violations
