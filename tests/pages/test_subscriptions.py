"""Administration says which EHRs tell of visits that end, and which do so no longer."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import insert

from quarterhour.plugin import database


def subscribed(clinic, **changed):
    here = clinic.installation
    (issuer,) = here.issuers
    given = {
        "id": "s",
        "issuer": issuer.iss,
        "path": "p",
        "sealed": here.vault.seal({"path": "p", "token": "t"}),
        "kind": "topic",
        "criteria": "https://ehr.example/topic",
        "ehr_id": "1",
        "status": "active",
        "through": 7,
        "made_at": here.clock() - timedelta(hours=1),
        "heard_at": here.clock() - timedelta(minutes=2),
        "event_at": here.clock() - timedelta(minutes=2),
    }
    with here.engine.begin() as connection:
        connection.execute(insert(database.subscription).values(**given | changed))


def administration(person, page):
    return person.open(re.match(r".*/launches/[^/]+", page.url)[0] + "/administration/")


def test_without_a_subscription_that_is_said(clinic, person):
    page = administration(person, person.launch("cms-ex1"))
    assert "None. EHRs are asked what changed, where capture is set up." in page.text


def test_one_that_tells_is_listed_and_asks_for_nobody(clinic, person):
    subscribed(clinic)
    page = administration(person, person.launch("cms-ex1"))
    assert "may not be telling" not in page.text
    assert re.search(r"/fhir topic active 7 16:58 UTC on 21 November 2026 16:58 UTC", page.text)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"status": "error"}, "its subscription is error"),
        ({"status": "gone"}, "its subscription is gone"),
        ({"status": "requested"}, "its subscription is requested"),
    ],
)
def test_one_that_does_not_tell_any_more_asks_for_a_person(clinic, person, changed, says):
    subscribed(
        clinic, **changed, problem=clinic.installation.vault.seal("It says: the endpoint answered 503")
    )
    page = administration(person, person.launch("cms-ex1"))
    assert says in page.text
    assert "Visits are searched for meanwhile." in page.text
    assert "It says: the endpoint answered 503" in page.text


def test_one_that_is_silent_for_three_heartbeats_asks_for_a_person(clinic, person):
    subscribed(clinic, heard_at=clinic.installation.clock() - timedelta(minutes=16))
    page = administration(person, person.launch("cms-ex1"))
    assert "not even a heartbeat came since 16:44 UTC" in page.text


@pytest.mark.browser
def test_the_page_has_no_violation_of_accessibility(clinic, browser, axe):
    subscribed(clinic, status="error", problem=clinic.installation.vault.seal("the endpoint answered 503"))
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex1"))
    page.goto(re.match(r".*/launches/[^/]+", page.url)[0] + "/administration/")
    page.get_by_text("Needs a look").wait_for()
    assert axe(page, "subscriptions") == {}
