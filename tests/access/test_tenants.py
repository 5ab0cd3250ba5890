"""Several EHRs at one Quarterhour: the administrators of one see nothing of another (OWASP ASVS 5.0, 8.4.1)."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner

from quarterhour.plugin import audit, database
from quarterhour.plugin.app import REFUSALS_ON_RECORD_PER_MINUTE
from quarterhour.plugin.cli import main

ADMINISTRATOR = 'users = {"Practitioner/pr-cole" = "administrator"}'
OTHER = "https://other.example/fhir"
OTHER_EHR = f"""
[issuers.other]
name = "Other EHR"
iss = "{OTHER}"
client_id = "quarterhour-other"
client_auth = "public"
time_zone = "America/New_York"

[issuers.other.site]
policies = [{{policy = "cms-part-b", payer = "Organization/payer-medicare"}}]
"""


@pytest.fixture
def shared(a_site):
    """Two EHRs; of the other one, of none, and from before entries had an EHR, something is on record."""
    site = a_site(roles=ADMINISTRATOR, issuers=OTHER_EHR)
    put(site, OTHER, "Practitioner/of-another", "signed")
    put(site, None, "Practitioner/of-nobody", "keys-rotated")
    return site


def put(site, issuer, who, action):
    with site.installation.engine.begin() as connection:
        audit.record(
            connection,
            site.installation.vault,
            now=site.clock.now,
            action=action,
            who=who,
            issuer=issuer,
        )


def administration(site, path="/"):
    person = site.person()
    home = person.launch(user="pr-cole")
    return person.get(f"{site.app_url}/launches/{home.launch_id}/administration{path}")


def test_the_trail_shows_an_administrator_the_entries_of_their_own_ehr(shared):
    page = administration(shared, "/audit")
    assert "Practitioner/pr-cole" in page.text
    assert "Practitioner/of-another" not in page.text
    assert "Practitioner/of-nobody" not in page.text
    assert "keys-rotated" not in page.html, "nor are their actions offered"


@pytest.mark.parametrize("asked", ["who=Practitioner/of-", "action=signed", "action=keys-rotated&who=of"])
def test_no_search_finds_another_ehrs_entries(shared, asked):
    assert "No entry fits" in administration(shared, f"/audit?{asked}").text


def test_where_there_is_one_ehr_its_administrators_read_what_belongs_to_none(a_site):
    site = a_site(roles=ADMINISTRATOR)
    put(site, None, "Practitioner/of-nobody", "keys-rotated")
    assert "Practitioner/of-nobody" in administration(site, "/audit").text


def test_administration_names_no_other_ehr_and_asks_none(shared):
    page = administration(shared, "/?check=other")
    assert page.status == 200
    assert "Sandbox EHR" in page.text
    assert "Other EHR" not in page.text
    assert "other.example" not in page.html


def test_the_operators_command_lists_all_of_them(shared, monkeypatch):
    monkeypatch.setattr("quarterhour.plugin.cli_audit.installed", lambda: shared.installation)
    told = CliRunner().invoke(main, ["audit", "list"])
    assert told.exit_code == 0, told.output
    entries = [json.loads(line) for line in told.output.splitlines()]
    assert [(entry["issuer"], entry["who"]) for entry in entries] == [
        (OTHER, "Practitioner/of-another"),
        (None, "Practitioner/of-nobody"),
    ]


# --- a trail that is long -----------------------------------------------------------------------------------


def test_pages_of_the_trail_are_cut_after_the_search(a_site):
    site = a_site(roles=ADMINISTRATOR)
    for number in range(120):
        put(site, f"{site.ehr_url}/fhir", f"Practitioner/{number}", "signed" if number % 2 else "read")
    page = administration(site, "/audit?action=signed&page=2")
    assert "60 entries, page 2 of 2" in page.text
    assert ("Practitioner/19" in page.text, "Practitioner/21" in page.text) == (True, False)
    page = administration(site, "/audit?who=Practitioner/1&page=1")  # 1, 10 to 19, 100 to 119
    assert "31 entries" in page.text


def test_from_and_to_are_whole_days(a_site):
    site = a_site(roles=ADMINISTRATOR)
    today = site.clock.now.date()
    put(site, f"{site.ehr_url}/fhir", "Practitioner/today", "signed")
    for since, until, found in [
        (today, today, True),
        (today + timedelta(days=1), today + timedelta(days=1), False),
        (today - timedelta(days=1), today - timedelta(days=1), False),
    ]:
        page = administration(site, f"/audit?action=signed&since={since}&until={until}")
        assert ("Practitioner/today" in page.text) == found, (since, until)


@pytest.mark.parametrize("asked", ["page=" + "9" * 5000, "page=-1", "page=٣", "until=9999-12-31", "since=x"])
def test_what_is_no_page_and_no_day_is_passed_over(a_site, asked):
    assert administration(a_site(roles=ADMINISTRATOR), f"/audit?{asked}").status == 200


# --- refused launches -------------------------------------------------------------------------------------


def refused(site):
    return site.person().get(f"{site.app_url}/launch?iss=https://unknown.example/fhir&launch=x")


def test_so_many_refused_launches_a_minute_are_on_record_and_the_rest_in_the_log_alone(site, logged):
    """Anybody can have a launch refused, and what is on the trail is kept for good."""
    pages = [refused(site) for _ in range(REFUSALS_ON_RECORD_PER_MINUTE + 3)]
    assert {page.status for page in pages} == {403}
    assert [entry.action for entry in site.trail()] == ["launch-refused"] * REFUSALS_ON_RECORD_PER_MINUTE
    told = [json.loads(line) for line in logged().splitlines() if '"refused"' in line]
    assert [line["on_record"] for line in told] == [True] * REFUSALS_ON_RECORD_PER_MINUTE + [False] * 3


def test_a_refusal_that_cannot_be_recorded_has_its_page_all_the_same(site, logged):
    with site.installation.engine.begin() as connection:
        database.audit.drop(connection)
    page = refused(site)
    assert page.status == 403
    assert "unknown.example" in page.text
    assert "refusal_not_recorded" in logged()
