"""Tokens renewed once, sessions that end on the server, and drafts that outlive them (checklist 67-74)."""

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace

import pytest

from quarterhour.launch.errors import SessionEnded
from quarterhour.plugin import database, sessions
from quarterhour.plugin.installation import install
from quarterhour.plugin.worker import work_once
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


def during_the_renewal(site, happens):
    """The token endpoint takes its time, and meanwhile something else happens."""

    def answered(honest):
        del site.lies["/oauth/token"]
        happens()
        return (honest,)

    site.lies["/oauth/token"] = answered


def the_launch(site, page):
    return sessions.Opened(
        id=page.launch_id,
        issuer=next(iter(site.installation.issuers)),
        session=stored_session(site),
        person="",
    )


def test_68_a_renewal_that_takes_as_long_as_a_request_can_is_not_overtaken(a_site):
    site = a_site(quirks=SHORT)
    page = site.person().launch()
    site.clock.forward(seconds=90)
    launch = the_launch(site, page)
    with ThreadPoolExecutor(1) as another:
        found = []

        def another_asks():
            issuer = launch.issuer
            site.clock.forward(seconds=2 * (issuer.connect_timeout + issuer.read_timeout))
            found.append(another.submit(sessions.renewed, site.installation, launch))
            wait(found, timeout=0.5)  # as long as it would take to be answered

        during_the_renewal(site, another_asks)
        renewed = sessions.renewed(site.installation, launch)
        assert found[0].result(timeout=10).access_token == renewed.access_token
    assert len(renewals(site)) == 1


def test_68_a_lease_is_longer_where_the_ehr_is_given_more_time(a_site):
    slow = a_site(more="read_timeout = 40\nconnect_timeout = 10")
    issuer = next(iter(slow.installation.issuers))
    assert sessions.renewing(issuer).total_seconds() > 2 * (10 + 40)


def test_68_the_slower_of_two_renewals_does_not_overwrite_the_newer_session(a_site):
    site = a_site(quirks=SHORT)
    page = site.person().launch()
    site.clock.forward(seconds=90)
    launch = the_launch(site, page)
    newer = replace(launch.session, access_token="newer", refresh_token="newer-too")

    def somebody_took_over():
        sealed = site.installation.vault.seal_bytes(newer.to_json().encode())
        with site.installation.engine.begin() as connection:
            connection.execute(database.launch.update().values(session=sealed, renewing_until=site.clock.now))

    during_the_renewal(site, somebody_took_over)
    assert sessions.renewed(site.installation, launch).access_token == "newer"
    assert stored_session(site).refresh_token == "newer-too"
    (row,) = site.rows(database.launch)
    assert row.renewing_until == site.clock.now, "the lease that is theirs is left to them"


def test_68_keys_that_are_rotated_during_a_renewal_do_not_lose_it(a_site):
    """It seals the same session anew."""
    site = a_site(quirks=SHORT)
    page = site.person().launch()
    site.clock.forward(seconds=90)
    launch = the_launch(site, page)

    def sealed_anew():
        sealed = site.installation.vault.seal_bytes(launch.session.to_json().encode())
        with site.installation.engine.begin() as connection:
            connection.execute(database.launch.update().values(session=sealed))

    during_the_renewal(site, sealed_anew)
    renewed = sessions.renewed(site.installation, launch)
    assert stored_session(site).access_token == renewed.access_token != launch.session.access_token


def test_71_signing_out_during_a_renewal_leaves_no_session(a_site):
    site = a_site(quirks=SHORT)
    page = site.person().launch()
    site.clock.forward(seconds=90)
    launch = the_launch(site, page)
    during_the_renewal(site, lambda: sessions.end(site.installation, launch))
    with pytest.raises(SessionEnded):
        sessions.renewed(site.installation, launch)
    assert site.rows(database.launch) == []


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


def a_choice(page):
    """The first way to settle the tie, as the form has it."""
    return page.html.split('name="tie"')[1].split('value="')[1].split('"')[0]


def tied_visit(site):
    return next(each.id for each in site.sandbox.scenarios if len(each.expected) > 1)


def token_endpoint_away(site, times=1000):
    site.sandbox.faults.add(Fault("status", path="/oauth/token", status=503, times=times))


def token_endpoint_refuses(site):
    for token in site.sandbox.smart.issued.tokens.values():
        token.revoked = True


def test_an_ehr_that_is_down_when_the_token_has_run_out_is_named_once_it_is_needed(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    token_endpoint_away(site)
    site.clock.forward(seconds=120)
    assert person.get(page.url).status == 200, "what was read can still be looked at"
    down = person.get(f"/launches/{page.launch_id}/?again=1")
    assert down.status == 503
    assert "Wait a minute" in down.text
    assert "Nothing was lost" in down.text
    site.sandbox.faults.clear()
    site.clock.forward(seconds=5)
    assert person.get(f"/launches/{page.launch_id}/?again=1").status == 200


@pytest.mark.parametrize(("seconds", "asked"), [(4.999, 1), (5, 2)])
def test_a_token_endpoint_that_failed_is_left_alone_for_five_seconds(a_site, seconds, asked):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    token_endpoint_away(site)
    site.clock.forward(seconds=120)
    for _ in range(3):
        assert person.get(page.url).status == 200
        assert person.get(f"/launches/{page.launch_id}/?again=1").status == 503
    site.clock.forward(seconds=seconds)
    assert person.get(page.url).status == 200
    assert len(renewals(site)) == asked


def test_93_a_refresh_token_that_the_ehr_no_longer_takes_ends_the_session_and_keeps_the_draft(a_site):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch(tied_visit(site))
    choice = a_choice(page)
    token_endpoint_refuses(site)
    site.clock.forward(seconds=120)
    kept = person.submit(page, "/visits/1", tie=choice)
    assert kept.status == 200, "what was read can still be settled"
    ended = person.get(f"/launches/{page.launch_id}/?again=1")
    assert ended.status == 401
    assert "did not renew its permission (invalid_grant)" in ended.text
    assert "Nothing was lost" in ended.text
    again = person.launch(tied_visit(site))
    assert f'value="{choice}" data-live-field checked' in again.html


@pytest.mark.parametrize(("fails", "status"), [(token_endpoint_away, 503), (token_endpoint_refuses, 401)])
def test_93_what_is_settled_is_kept_also_where_the_ehr_is_needed_and_its_permission_is_not_renewed(
    a_site, fails, status
):
    """The button that reads the chart again keeps the form first, and the page that tells of the EHR is true."""
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch(tied_visit(site))
    choice = a_choice(page)
    fails(site)
    site.clock.forward(seconds=120)
    told = person.submit(page, "/visits/1", tie=choice, go="reload")
    assert told.status == status
    assert "Nothing was lost" in told.text
    site.sandbox.faults.clear()
    again = person.launch(tied_visit(site))
    assert f'value="{choice}" data-live-field checked' in again.html


@pytest.mark.parametrize(("fails", "status"), [(token_endpoint_away, 503), (token_endpoint_refuses, 401)])
def test_70_nothing_is_signed_where_the_permission_has_run_out_and_is_not_renewed(a_site, fails, status):
    site = a_site(quirks=SHORT)
    person = site.person()
    page = person.launch()
    confirm = person.submit(page, "/visits/1", go="sign")
    fails(site)
    site.clock.forward(seconds=120)
    refused = person.submit(confirm, "/sign")
    assert refused.status == status
    assert "Nothing was lost" in refused.text
    assert site.rows(database.decision) == []
    assert site.sandbox.charge_items("cms-ex1") == []


def test_70_a_permission_that_runs_out_right_after_the_sign_off_leads_to_the_receipt(a_site):
    """The chart is read once more at sign-off; while it is, the token's time runs out."""
    site = a_site(quirks=WITHOUT_REFRESH)
    person = site.person()
    page = person.launch()
    confirm = person.submit(page, "/visits/1", go="sign")

    def slowly(honest):
        site.clock.now = stored_session(site).expires_at
        return (honest,)

    site.lies["/fhir/Procedure"] = slowly
    receipt = person.submit(confirm, "/sign")
    assert receipt.status == 200
    assert receipt.heading.startswith("Signed off")
    assert receipt.text.count("Not yet sent") == 2
    assert "Do not enter it by hand." in receipt.text
    assert "permission for this session has run out" in receipt.text
    assert site.sandbox.charge_items("cms-ex1") == []
    del site.lies["/fhir/Procedure"]
    person.launch()
    assert work_once(site.installation).worked_on == 1
    after = person.get(person.launch().url + "visits/1/receipt")
    assert "Do not enter it by hand." not in after.text
    assert len(site.sandbox.charge_items("cms-ex1")) == 2


def test_93_a_form_that_came_after_the_end_is_not_said_to_be_kept(a_site):
    site = a_site(idle_minutes=5)
    person = site.person()
    page = person.launch(tied_visit(site))
    site.clock.forward(minutes=5, seconds=1)
    ended = person.submit(page, "/visits/1", tie=a_choice(page))
    assert ended.status == 401
    assert "Nothing was lost" not in ended.text
    assert "Before you enter anything again" in ended.text
    assert site.rows(database.draft) == []


# --- no refresh token -----------------------------------------------------------------------------------------


def test_69_without_a_refresh_token_a_relaunch_finds_the_draft(a_site):
    site = a_site(quirks=WITHOUT_REFRESH)
    person = site.person()
    page = person.launch(tied_visit(site))
    choice = a_choice(page)
    site.clock.forward(seconds=120)
    kept = person.submit(page, "/visits/1", tie=choice)
    assert kept.status == 200, "what was read can still be settled"
    ended = person.get(f"/launches/{page.launch_id}/?again=1")
    assert ended.status == 401
    assert KEPT in ended.text
    again = person.launch(tied_visit(site))
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


def test_71_the_page_after_signing_out_is_shown_in_the_ehrs_frame(site, person):
    ended = person.submit(person.launch(), "/end")
    assert f"frame-ancestors {site.ehr_url}" in ended.headers["Content-Security-Policy"]


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
