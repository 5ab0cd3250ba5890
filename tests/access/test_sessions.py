"""Tokens renewed once, sessions that end on the server, and drafts that outlive them (checklist 67-74)."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from quarterhour.launch.errors import SessionEnded
from quarterhour.plugin import database, sessions
from quarterhour.plugin.installation import install
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

SHORT = Quirks(token_seconds=120)
WITHOUT_REFRESH = Quirks(token_seconds=120, no_refresh_token=True)
KEPT = "what you settled so far is kept"


def renewals(site):
    return [each for each in site.asked("/oauth/token") if each.form["grant_type"] == "refresh_token"]


def stored_session(site):
    (row,) = site.rows(database.launch)
    return sessions.Session.from_json(site.installation.vault.open_bytes(row.session))


def expire_at_the_ehr(site):
    """The EHR no longer knows the access token, though its time is not up."""
    for token in site.sandbox.smart.issued.tokens.values():
        token.expires_at = site.clock.now


# --- renewal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "times"), [(60, 0), (61, 1)])
def test_70_a_token_with_under_a_minute_left_is_renewed_before_it_is_needed(a_site, seconds, times):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.clock.forward(seconds=seconds)
    assert person.get(page.url).status == 200
    assert len(renewals(site)) == times


def test_68_the_rotated_refresh_token_replaces_the_old_one(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    for _ in range(3):
        site.clock.forward(seconds=90)
        assert person.get(page.url).status == 200
    used = [each.form["refresh_token"] for each in renewals(site)]
    assert len(used) == len(set(used)) == 3
    assert stored_session(site).refresh_token not in used


def test_68_the_scope_is_left_out_when_renewing(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.clock.forward(seconds=90)
    person.get(page.url)
    assert renewals(site)[0].form.keys() == {"grant_type", "refresh_token", "client_id"}


def test_68_twelve_requests_at_once_renew_once(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.clock.forward(seconds=90)
    site.sandbox.faults.add(Fault("delay", path="/oauth/token", seconds=0.3))
    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(lambda _: person.get(page.url).status, range(12)))
    assert statuses == [200] * 12
    assert len(renewals(site)) == 1


def test_68_two_processes_on_one_database_renew_once(a_site):
    """Two installations share nothing but the database, as two processes do."""
    site = a_site(quirks=SHORT)
    page = site.person().launch()
    site.clock.forward(seconds=90)
    site.sandbox.faults.add(Fault("delay", path="/oauth/token", seconds=0.3))
    with closing(install(site.installation.settings, site.clock)) as other:
        launch = sessions.Opened(
            id=page.launch_id,
            issuer=next(iter(other.issuers)),
            session=stored_session(site),
            person="",
        )
        with ThreadPoolExecutor(8) as threads:
            found = list(
                threads.map(
                    lambda number: sessions.renewed([site.installation, other][number % 2], launch), range(8)
                )
            )
    assert len({session.access_token for session in found}) == 1
    assert found[0].access_token != launch.session.access_token
    assert len(renewals(site)) == 1


def test_68_a_renewal_that_died_with_its_process_is_taken_over(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.clock.forward(seconds=70)
    with site.installation.engine.begin() as connection:
        connection.execute(database.launch.update().values(renewing_until=site.clock.now))
    site.clock.forward(seconds=1)
    assert person.get(page.url).status == 200
    assert len(renewals(site)) == 1


def test_70_a_401_is_answered_with_one_renewal_and_one_more_try_of_each_read(a_site):
    site = a_site()
    person = site.person()
    page = person.launch()
    expire_at_the_ehr(site)
    site.ehr_side.clear()
    assert person.get(f"/launches/{page.launch_id}/?again=1").status == 200
    assert len(renewals(site)) == 1
    reads = [(each.path, each.query) for each in site.ehr_side if each.path.startswith("/fhir/")]
    assert max(map(reads.count, reads)) == 2


def test_70_a_second_401_is_the_end_and_the_page_says_what_to_do(a_site):
    site = a_site()
    person = site.person()
    page = person.launch()
    site.sandbox.faults.add(Fault("status", path="/fhir/*", status=401, times=1000))
    site.ehr_side.clear()
    ended = person.get(f"/launches/{page.launch_id}/?again=1")
    assert ended.status == 401
    assert KEPT in ended.text
    assert len(renewals(site)) == 1
    reads = [(each.path, each.query) for each in site.ehr_side if each.path.startswith("/fhir/")]
    assert max(map(reads.count, reads)) <= 2


def test_70_a_write_that_met_a_401_is_repeated_once_and_written_once(a_site):
    site = a_site()
    person = site.person()
    page = person.launch()
    confirm = person.submit(page, "/visits/1", go="sign")
    expire_at_the_ehr(site)
    receipt = person.submit(confirm, "/sign")
    assert "Written." in receipt.text
    assert len(site.sandbox.charge_items("cms-ex1")) == 2
    assert len(renewals(site)) == 1
    writes = [
        each.status for each in site.ehr_side if each.method == "POST" and each.path.startswith("/fhir")
    ]
    assert writes.count(401) <= 1
    assert [status for status in writes if status != 401] == [200], "all charges in one transaction"


def test_an_ehr_that_is_down_takes_nothing_from_a_token_that_still_holds(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.sandbox.faults.add(Fault("status", path="/oauth/token", status=503))
    site.clock.forward(seconds=90)
    assert person.get(page.url).status == 200


def test_an_ehr_that_is_down_when_the_token_has_run_out_is_named(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    site.sandbox.faults.add(Fault("status", path="/oauth/token", status=503))
    site.clock.forward(seconds=120)
    down = person.get(page.url)
    assert down.status == 503
    assert "Wait a minute" in down.text
    assert person.get(page.url).status == 200


def test_93_a_refresh_token_that_the_ehr_no_longer_takes_ends_the_session_and_keeps_the_draft(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    for token in site.sandbox.smart.issued.tokens.values():
        token.revoked = True
    site.clock.forward(seconds=90)
    ended = person.get(page.url)
    assert ended.status == 401
    assert "did not renew its permission (invalid_grant)" in ended.text
    assert "Nothing was lost" in ended.text


# --- no refresh token -----------------------------------------------------------------------------------------


def test_69_without_a_refresh_token_a_relaunch_finds_the_draft(a_site):
    site = a_site(quirks=WITHOUT_REFRESH)
    person = site.person()
    tied = next(each for each in site.sandbox.scenarios if len(each.expected) > 1)
    page = person.launch(tied.id)
    choice = page.html.split('name="tie"')[1].split('value="')[1].split('"')[0]
    site.clock.forward(seconds=120)
    kept = person.submit(page, "/visits/1", tie=choice)
    assert kept.status == 200, "what was read can still be settled"
    ended = person.get(f"/launches/{page.launch_id}/?again=1")
    assert ended.status == 401
    assert KEPT in ended.text
    again = person.launch(tied.id)
    assert again.launch_id != page.launch_id
    assert f'value="{choice}" data-live-field checked' in again.html


def test_69_without_a_refresh_token_nothing_is_signed_once_the_permission_has_run_out(a_site):
    site = a_site(quirks=WITHOUT_REFRESH)
    person = site.person()
    page = person.launch()
    confirm = person.submit(page, "/visits/1", go="sign")
    site.clock.forward(seconds=120)
    ended = person.submit(confirm, "/sign")
    assert ended.status == 401
    assert KEPT in ended.text
    assert site.rows(database.decision) == []
    assert person.sign(person.launch()).heading.startswith("Signed off")


def test_69_without_a_refresh_token_nothing_is_asked_for_one(a_site):
    site = a_site(quirks=WITHOUT_REFRESH)
    person = site.person()
    page = person.launch()
    site.clock.forward(seconds=90)
    assert person.get(page.url).status == 200
    assert renewals(site) == []


# --- the end ----------------------------------------------------------------------------------------------------


def test_71_signing_out_revokes_the_refresh_token_and_forgets_the_launch(a_site):
    site = a_site(client="basic")
    person = site.person()
    page = person.launch()
    refresh_token = stored_session(site).refresh_token
    ended = person.submit(page, "/end")
    assert ended.heading == "Session ended"
    assert "confirmed that Quarterhour no longer has access" in ended.text
    (revoked,) = site.asked("/oauth/revoke")
    assert revoked.form == {"token": refresh_token, "token_type_hint": "refresh_token"}
    assert all(token.revoked for token in site.sandbox.smart.issued.tokens.values())
    assert site.rows(database.launch) == []
    assert person.get(page.url).status == 401


def test_71_signing_out_works_here_also_where_the_ehr_fails(site, person):
    page = person.launch()
    site.sandbox.faults.add(Fault("drop", path="/oauth/revoke"))
    ended = person.submit(page, "/end")
    assert ended.status == 200
    assert "was not told, or did not confirm" in ended.text
    assert site.rows(database.launch) == []


def test_71_signing_out_of_one_tab_leaves_the_other_open(site, person):
    one, other = person.launch("cms-ex1"), person.launch("cms-ex2")
    person.submit(one, "/end")
    assert person.get(one.url).status == 401
    assert person.get(other.url).status == 200


def test_71_signing_out_needs_the_mark_of_the_session(site, person):
    page = person.launch()
    refused = person.post(f"/launches/{page.launch_id}/end")
    assert refused.status == 400
    assert person.get(page.url).status == 200


def test_74_a_session_unused_for_the_idle_time_is_open_and_a_second_more_ends_it(a_site):
    site = a_site(idle_minutes=5)
    person = site.person()
    page = person.launch()
    site.clock.forward(minutes=5)
    assert person.get(page.url).status == 200
    site.clock.forward(minutes=5, seconds=1)
    ended = person.get(page.url)
    assert ended.status == 401
    assert KEPT in ended.text


def test_74_a_session_in_use_is_open_to_its_last_second_and_then_ends(a_site):
    site = a_site(quirks=Quirks(token_seconds=80_000), session_hours=2)
    person = site.person()
    page = person.launch()
    for _ in range(4):
        site.clock.forward(minutes=30)
        assert person.get(page.url).status == 200
    site.clock.forward(seconds=1)
    assert person.get(page.url).status == 401
    assert site.rows(database.launch) == []


@pytest.mark.parametrize(("seconds", "left"), [(0, 2), (1, 1)])
def test_74_what_was_read_is_removed_after_the_end_with_the_next_launch(a_site, seconds, left):
    site = a_site(idle_minutes=5)
    site.person().launch("cms-ex1")
    site.clock.forward(minutes=5, seconds=seconds)
    site.person().launch("cms-ex2")
    assert len(site.rows(database.launch)) == left


def test_67_an_ended_session_is_not_renewed(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    launch = sessions.Opened(
        id=page.launch_id,
        issuer=next(iter(site.installation.issuers)),
        session=stored_session(site),
        person="",
    )
    person.submit(page, "/end")
    with pytest.raises(SessionEnded):
        sessions.renewed(site.installation, launch)
    assert renewals(site) == []
