"""Who may do what: by (issuer, sub), the operator's mapping and the EHR's own PractitionerRole (checklist 63)."""

from datetime import UTC, datetime

import msgspec
import pytest

from quarterhour.fhir.views import PractitionerRole
from quarterhour.launch.context import Identity
from quarterhour.launch.errors import IssuersInvalid
from quarterhour.launch.issuers import Issuer
from quarterhour.plugin.roles import Role, roles_of, settings_of
from quarterhour.sandbox.quirks import Quirks

NOW = datetime(2026, 11, 20, 4, 30, tzinfo=UTC)  # 19 November, half past eleven at night, in New York


def signs(site, **who):
    """Whether somebody gets from the chart to a receipt; the page they end on."""
    person = site.person()
    page = person.launch("cms-ex1", **who)
    if "Sign off…" not in page.html:
        return False, page
    return person.sign(page).heading.startswith("Signed off"), page


def test_63_a_therapist_by_nucc_code_signs_off(site):
    assert signs(site)[0]


def test_63_an_assistant_by_nucc_code_reviews_but_does_not_sign_off(site):
    signed, page = signs(site, user="pr-cole")
    assert not signed
    assert page.status == 200
    assert "You are known here as an assistant. Charges are signed off by a therapist." in page.text
    assert "Ask the therapist of this visit to open Quarterhour and sign off." in page.text


def test_63_somebody_of_whom_nothing_is_known_reviews_but_does_not_sign_off(a_site):
    site = a_site(quirks=Quirks(withheld_scopes=("user/PractitionerRole.rs",)))
    signed, page = signs(site)
    assert not signed
    assert "does not say whether you are a therapist" in page.text
    assert "map you to a role in the issuers file" in page.text


@pytest.mark.parametrize(
    ("roles", "may"),
    [
        ('users = {"Practitioner/pr-cole" = "therapist"}', True),
        ('users = {"Practitioner/pr-cole" = ["therapist", "administrator"]}', True),
        ('users = {"Practitioner/pr-cole" = ["therapist", "assistant"]}', False),
        ('users = {"Practitioner/pr-cole" = "biller"}', False),
        ('users = {"Practitioner/pr-cole" = "biller"}\nmay_sign = ["therapist", "biller"]', True),
        ('users = {"Practitioner/pr-cole" = "administrator"}', False),
        ('subjects = {"sandbox-pr-cole" = "therapist"}', True),
        ('subjects = {"sandbox-pr-reyes" = "therapist"}', False),
        ('codes = {"http://nucc.org/provider-taxonomy|225200000X" = "therapist"}', True),
        ('codes = {"http://nucc.org/provider-taxonomy|225200000X" = "biller"}', False),
    ],
)
def test_63_the_operators_mapping_decides_before_the_ehr(a_site, roles, may):
    assert signs(a_site(roles=roles), user="pr-cole")[0] is may


def test_63_a_biller_is_told_who_signs(a_site):
    page = signs(a_site(roles='users = {"Practitioner/pr-reyes" = "biller"}'))[1]
    assert "You are known here as biller; charges are signed off by a therapist." in page.text


def test_63_the_sites_own_list_of_practitioners_counts_too(a_site):
    site = a_site()
    page = signs(site, user="pr-osei")[1]
    assert "(therapist)" in page.text


@pytest.mark.parametrize("role", ["therapist", "assistant", "biller"])
def test_only_an_administrator_reads_the_audit_trail(a_site, role):
    site = a_site(roles=f'users = {{"Practitioner/pr-reyes" = "{role}"}}')
    person = site.person()
    page = person.launch()
    assert "Audit trail" not in page.text
    refused = person.get(f"/launches/{page.launch_id}/visits/1/audit")
    assert refused.status == 403
    assert "The audit trail is for administrators." in refused.text
    assert "map you to the role administrator" in refused.text


def test_an_administrator_reads_the_trail_of_the_visit_and_that_is_on_record(a_site):
    site = a_site(
        roles='users = {"Practitioner/pr-reyes" = "therapist", "Practitioner/pr-cole" = "administrator"}'
    )
    therapist = site.person()
    therapist.sign(therapist.launch())
    administrator = site.person()
    page = administrator.launch(user="pr-cole")
    trail = administrator.get(f"/launches/{page.launch_id}/visits/1/audit")
    assert trail.status == 200
    assert "signed" in trail.text
    assert "Practitioner/pr-reyes" in trail.text
    last = site.trail()[-1]
    assert (last.action, last.who) == ("trail-read", "Practitioner/pr-cole")


def test_a_user_who_is_a_patient_is_not_let_in(site, person):
    from quarterhour.sandbox.authorization import Authorized  # noqa: PLC0415

    patient = site.sandbox.scenario("cms-ex1").patient
    token = site.sandbox.smart.launch(Authorized(f"Patient/{patient}", f"Patient/{patient}", None))
    page = person.get(f"{site.app_url}/launch?iss={site.ehr_url}/fhir&launch={token}")
    assert page.status == 403
    assert "Quarterhour is for the clinic's staff" in page.text


# --- the table itself -----------------------------------------------------------------------------------------


def issuer(roles, **more):
    return Issuer(
        id="x",
        iss="https://ehr.example/fhir",
        name="X",
        time_zone="America/New_York",
        client_id="q",
        client_auth="public",
        roles=roles,
        **more,
    )


def user(fhir_user="Practitioner/1", roles=()):
    return Identity(issuer="https://ehr.example", sub="s", fhir_user=fhir_user, name="Dr. Boss", roles=roles)


def test_a_claim_of_the_id_token_makes_somebody_what_the_operator_says():
    known = issuer({"claims": {"pt": "therapist"}}, role_claim="jobs")
    assert roles_of(known, user(roles=("clerk", "pt")), now=NOW) == {Role.THERAPIST}
    assert roles_of(known, user(roles=("clerk",)), now=NOW) == frozenset()


def test_a_user_known_by_name_is_not_also_made_something_by_a_claim():
    known = issuer({"users": {"Practitioner/1": "biller"}, "claims": {"pt": "therapist"}}, role_claim="jobs")
    assert roles_of(known, user(roles=("pt",)), now=NOW) == {Role.BILLER}


def test_a_reference_on_another_server_is_another_user():
    known = issuer({"users": {"Practitioner/1": "therapist"}})
    assert roles_of(known, user("https://evil.example/fhir/Practitioner/1"), now=NOW) == frozenset()


def test_the_display_name_makes_nobody_anything():
    assert roles_of(issuer({"users": {"Dr. Boss": "administrator"}}), user(), now=NOW) == frozenset()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"users": {"Practitioner/1": "boss"}}, "issuers.x.roles: "),
        ({"people": {}}, "people"),
        ({"may_sign": ["assistant"]}, "an assistant does not sign off charges"),
        ({"claims": {"pt": "therapist"}}, "set role_claim"),
    ],
)
def test_a_mistake_in_the_table_is_named_at_start(table, says):
    with pytest.raises(IssuersInvalid, match=says):
        settings_of(issuer(table))


def test_a_mistake_in_the_table_stops_the_start(a_site):
    with pytest.raises(IssuersInvalid, match=r"issuers\.sandbox\.roles"):
        a_site(roles='may_sign = ["assistant"]')


@pytest.mark.parametrize(
    ("period", "may"),
    [
        ({"end": "2026-11-19"}, True),
        ({"end": "2026-11-18"}, False),
        ({"start": "2026-11-19"}, True),
        ({"start": "2026-11-20"}, False),
        ({"end": "2026-11"}, True),
        ({"end": "soon"}, False),
        ({}, True),
    ],
)
def test_63_a_role_makes_a_therapist_on_the_days_of_its_period_where_the_ehr_is(period, may):
    taxonomy = {"system": "http://nucc.org/provider-taxonomy", "code": "225100000X"}
    role = msgspec.convert(
        {
            "resourceType": "PractitionerRole",
            "id": "r1",
            "practitioner": {"reference": "Practitioner/1"},
            "code": [{"coding": [taxonomy]}],
            "period": period,
        },
        PractitionerRole,
    )
    expected = {Role.THERAPIST} if may else frozenset()
    assert roles_of(issuer({}), user("Practitioner/1"), [role], now=NOW) == expected
