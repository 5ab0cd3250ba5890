"""An administrator sees whose sessions are open and ends them (OWASP ASVS 5.0, 7.4.5)."""

from __future__ import annotations

import pytest

from quarterhour.plugin import database
from quarterhour.sandbox.faults import Fault

ADMINISTRATOR = 'users = {"Practitioner/pr-cole" = "administrator"}'
PATH = "/administration/sessions"


@pytest.fixture
def clinic(a_site):
    return a_site(roles=ADMINISTRATOR)


@pytest.fixture
def administrator(clinic):
    """Signed in, on the page of sessions."""
    person = clinic.person()
    person.home = person.launch(user="pr-cole")
    person.sessions = f"{clinic.app_url}/launches/{person.home.launch_id}{PATH}"
    return person


def index_of(clinic, page):
    (row,) = (row for row in clinic.rows(database.launch) if row.id == page.launch_id)
    return row.person


def end(person, whose):
    _address, fields = person.get(person.sessions).form(PATH)
    return person.post(person.sessions, [*fields, ("person", whose)])


def test_the_page_tells_who_has_it_open_and_nothing_of_any_patient(clinic, administrator):
    therapist = clinic.person()
    visits = [therapist.launch("cms-ex1"), therapist.launch("cms-ex2")]
    page = administrator.get(administrator.sessions)
    assert "Practitioner/pr-reyes" in page.text
    assert "Practitioner/pr-cole" in page.text
    for scenario in clinic.sandbox.scenarios:
        assert scenario.patient not in page.html
        assert scenario.encounter not in page.html
    names = [filed.resource["name"][0]["family"] for filed in clinic.sandbox.store.all("Patient")]
    assert not [name for name in names if name in page.text]
    assert not [visit.launch_id for visit in visits if visit.launch_id in page.html]
    assert page.headers["Cache-Control"] == "no-store"


def test_ending_a_persons_sessions_ends_all_of_theirs_at_once_and_nobody_elses(clinic, administrator):
    therapist, other = clinic.person(), clinic.person()
    first, second = therapist.launch("cms-ex1"), therapist.launch("cms-ex2")
    others = other.launch("cms-ex3", user="pr-cole")
    page = end(administrator, index_of(clinic, first))
    assert "2 sessions ended. Sandbox EHR confirmed 2 of them" in page.text
    for visit in (first, second):
        assert therapist.get(visit.url).status == 401
    assert other.get(others.url).status == 200
    assert administrator.get(administrator.sessions).status == 200
    tokens = clinic.sandbox.smart.issued.tokens.values()
    assert {token.authorized.user for token in tokens if token.revoked} == {"Practitioner/pr-reyes"}
    (entry,) = [entry for entry in clinic.trail() if entry.action == "sessions-ended"]
    assert entry.who == "Practitioner/pr-cole"
    assert entry.what == {"of": ["Practitioner/pr-reyes"], "sessions": 2}


def test_what_was_settled_is_there_after_the_next_launch(clinic, administrator):
    therapist = clinic.person()
    visit = therapist.launch("cms-ex1")
    therapist.submit(visit, "/visits/1", go="recalculate", note="kept for later")
    drafts = clinic.rows(database.draft)
    assert len(drafts) == 1
    end(administrator, index_of(clinic, visit))
    assert clinic.rows(database.draft) == drafts
    assert therapist.launch("cms-ex1").status == 200


def test_everybodys_sessions_end_but_this_one(clinic, administrator):
    people = [clinic.person() for _ in range(3)]
    visits = [person.launch("cms-ex1") for person in people]
    assert "3 sessions ended" in end(administrator, "everybody").text
    assert [person.get(visit.url).status for person, visit in zip(people, visits, strict=True)] == [401] * 3
    assert [row.id for row in clinic.rows(database.launch)] == [administrator.home.launch_id]


@pytest.mark.parametrize("whose", ["", "nobody", "0" * 64])
def test_a_person_who_is_nobody_ends_nothing(clinic, administrator, whose):
    visit = clinic.person().launch("cms-ex1")
    assert "There was no such session any more." in end(administrator, whose).text
    assert visit.launch_id in {row.id for row in clinic.rows(database.launch)}
    assert "sessions-ended" not in {entry.action for entry in clinic.trail()}


def test_an_ehr_that_does_not_confirm_does_not_keep_a_session_alive(clinic, administrator):
    therapist = clinic.person()
    visit = therapist.launch("cms-ex1")
    clinic.sandbox.faults.add(Fault("status", "POST", "/oauth/revoke", status=503))
    page = end(administrator, index_of(clinic, visit))
    assert "1 session ended. Sandbox EHR confirmed 0 of them" in page.text
    assert therapist.get(visit.url).status == 401


def test_nobody_but_an_administrator_sees_or_ends_sessions(clinic, administrator):
    therapist = clinic.person()
    visit = therapist.launch("cms-ex1")
    address = f"{clinic.app_url}/launches/{visit.launch_id}{PATH}"
    assert therapist.get(address).status == 403
    _, fields = visit.form("/end")
    assert therapist.post(address, [*fields, ("person", "everybody")]).status == 403
    assert len(clinic.rows(database.launch)) == 2


def test_ending_needs_the_mark_of_the_form_and_a_page_of_ours(clinic, administrator):
    visit = clinic.person().launch("cms-ex1")
    assert administrator.post(administrator.sessions, {"person": "everybody"}).status == 400
    _, fields = administrator.get(administrator.sessions).form(PATH)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    form = [*fields, ("person", "everybody")]
    assert administrator.post(administrator.sessions, form, headers=elsewhere).status == 403
    assert visit.launch_id in {row.id for row in clinic.rows(database.launch)}


def test_an_administrator_of_one_ehr_sees_and_ends_none_of_anothers(a_site):
    table = (
        '\n[issuers.second]\nname = "Second"\niss = "https://second.example/fhir"\nclient_id = "q"\n'
        'client_auth = "public"\ntime_zone = "UTC"\n'
    )
    clinic = a_site(roles=ADMINISTRATOR, issuers=table)
    person = clinic.person()
    home = person.launch(user="pr-cole")
    person.sessions = f"{clinic.app_url}/launches/{home.launch_id}{PATH}"
    (row,) = clinic.rows(database.launch)
    with clinic.installation.engine.begin() as connection:
        moved = {**row._asdict(), "id": "elsewhere", "issuer": "https://second.example/fhir", "person": "p2"}
        connection.execute(database.launch.insert().values(moved))
    assert "There was no such session any more." in end(person, "everybody").text
    assert "elsewhere" in {row.id for row in clinic.rows(database.launch)}


@pytest.mark.parametrize(
    "number", ["0", "1", "2", "-1", "", "x", "²", "999999999", "1000000000", "9" * 5000], ids=lambda n: n[:12]
)
def test_a_page_of_the_trail_that_there_is_not_is_the_nearest_one(clinic, administrator, number):
    trail = administrator.get(
        f"/launches/{administrator.home.launch_id}/administration/audit", params={"page": number}
    )
    assert trail.status == 200
    assert "launched" in trail.text


def test_sessions_that_have_ended_by_themselves_are_not_shown(clinic, administrator):
    clinic.person().launch("cms-ex1")
    clinic.clock.forward(minutes=29)
    administrator.get(administrator.sessions)
    clinic.clock.forward(minutes=2)
    assert "Practitioner/pr-reyes" not in administrator.get(administrator.sessions).text
