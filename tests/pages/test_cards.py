"""Administration says how often cards about each finding were put aside in the EHR, and why."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import insert

from quarterhour.plugin import database


def cards(clinic, finding, *outcomes, issuer=None):
    here = clinic.installation
    rows = [
        {
            "card": f"{finding}-{number}",
            "finding": finding,
            "issuer": issuer or next(iter(here.issuers)).iss,
            "service": "quarterhour-patient-view",
            "given_at": here.clock() - timedelta(days=1),
            "outcome": outcome,
            "reason": reason,
        }
        for number, (outcome, reason) in enumerate(outcomes)
    ]
    with here.engine.begin() as connection:
        connection.execute(insert(database.cds_card), rows)


def administration(person):
    return person.open(re.match(r".*/launches/[^/]+", person.launch("cms-ex1").url)[0] + "/administration/")


def test_without_a_card_that_is_said(clinic, person):
    assert "None was shown in the last 90 days." in administration(person).text


def test_findings_are_listed_with_what_became_of_their_cards(clinic, person):
    aside = ("overridden", "not-right")
    cards(
        clinic, "minutes-below-minimum", aside, aside, ("overridden", None), ("accepted", None), (None, None)
    )
    cards(clinic, "kx-threshold", (None, None), ("overridden", "other"))
    cards(clinic, "elsewhere", aside, issuer="https://other.example/fhir")
    text = administration(person).text
    assert (
        "minutes-below-minimum 5 1 3 No reason given: 1, What the card says is not right: 2 "
        "kx-threshold 2 0 1 Another reason: 1"
    ) in text
    assert "elsewhere" not in text


@pytest.mark.browser
def test_the_page_has_no_violation_of_accessibility(clinic, browser, axe):
    cards(clinic, "kx-threshold", (None, None), ("overridden", "other"))
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex1"))
    page.goto(re.match(r".*/launches/[^/]+", page.url)[0] + "/administration/")
    page.get_by_text("Another reason: 1").wait_for()
    assert axe(page, "cards") == {}
