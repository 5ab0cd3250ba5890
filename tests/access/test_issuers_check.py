"""`quarterhour issuers check`: what an EHR supports, over real HTTP, before a clinician finds out."""

import json

import pytest
from click.testing import CliRunner

from quarterhour.plugin.cli import main
from quarterhour.sandbox.quirks import Quirks

CONFIGURATION = "/fhir/.well-known/smart-configuration"
METADATA = "/fhir/metadata"


def check(site, *words):
    return CliRunner().invoke(
        main,
        ["issuers", "check", "--file", str(site.folder / "issuers.toml"), *words],
        catch_exceptions=False,
    )


def lie(site, path, change):
    def answer(honest):
        document = json.loads(honest)
        change(document)
        return (json.dumps(document).encode(),)

    site.lies[path] = answer


@pytest.mark.parametrize("client", ["public", "basic", "RS384", "ES384"])
def test_a_complete_ehr_has_nothing_to_be_set(a_site, client):
    site = a_site(client=client)
    told = check(site)
    assert told.exit_code == 0, told.output
    assert "  needs" not in told.output
    assert "  fails" not in told.output
    for words in ("PKCE with S256", "signing key", "ChargeItem create", "conditional create", "transaction"):
        assert words in told.output


def test_nobody_is_signed_in_and_no_credential_is_sent(a_site):
    site = a_site(client="basic")
    check(site)
    assert {each.method for each in site.ehr_side} == {"GET"}
    assert not any("Authorization" in each.headers for each in site.ehr_side)


@pytest.mark.parametrize(
    ("quirks", "says"),
    [
        (Quirks(no_encounter_search=True), 'set site.procedure_search = "date"'),
        (Quirks(no_conditional_create=True), "No conditional create"),
        (Quirks(no_charge_item=True), 'set site.charge_search = "none"'),
        (Quirks(no_transaction=True), "No transaction"),
        (Quirks(subscriptions="topic"), "Subscriptions by the topic of visits that end"),
        (Quirks(subscriptions="criteria"), "Subscriptions can be created, by R4's criteria"),
        (Quirks(subscriptions="none"), "No subscriptions: visits that end are found by polling"),
        (Quirks(no_refresh_token=True), 'set refresh = "none"'),
        (Quirks(scope_syntax="v1"), 'set scope_syntax = "v1"'),
        (Quirks(no_patient_context=True), "context-ehr-patient is not listed"),
        (Quirks(no_encounter_context=True), "clinicians choose from the patient's visits"),
    ],
)
def test_each_quirk_is_named_with_the_setting_that_it_needs(a_site, quirks, says):
    told = check(a_site(quirks=quirks))
    assert says in told.output
    assert told.exit_code == 0, "a launch works all the same"


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (
            CONFIGURATION,
            lambda said: said.update(code_challenge_methods_supported=["plain"]),
            "PKCE with S256",
        ),
        (CONFIGURATION, lambda said: said.update(issuer="https://okta.example"), "set id_token_issuer"),
        (CONFIGURATION, lambda said: said.pop("jwks_uri"), "no jwks_uri"),
        (
            CONFIGURATION,
            lambda said: said["capabilities"].remove("client-public"),
            "client_auth = public is not",
        ),
        (CONFIGURATION, lambda said: said["capabilities"].remove("sso-openid-connect"), "sso-openid-connect"),
        (METADATA, lambda said: said.update(fhirVersion="3.0.2"), "FHIR 3.0.2"),
        (METADATA, lambda said: said.update(rest=[]), "Procedure is not offered"),
        (METADATA, lambda said: said.update(resourceType="Bundle"), "no CapabilityStatement"),
    ],
)
def test_where_a_launch_cannot_work_it_says_why_and_exits_with_1(site, path, change, says):
    lie(site, path, change)
    told = check(site)
    assert told.exit_code == 1
    assert says in told.output


@pytest.mark.parametrize("path", [CONFIGURATION, METADATA])
@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"[" * 100_000])
def test_an_unreadable_document_is_said_to_be_so(site, path, body):
    site.lies[path] = lambda _: (body,)
    told = check(site)
    assert told.exit_code == 1
    assert "Traceback" not in told.output


def test_one_ehr_is_checked_by_its_address(a_site):
    table = (
        '\n[issuers.down]\nname = "Down"\niss = "http://127.0.0.1:9/fhir"\nclient_id = "q"\nclient_auth = "public"\n'
        'time_zone = "UTC"\nallow_http = true\nallow_private_addresses = true\n'
    )
    site = a_site(issuers=table)
    assert check(site, f"{site.ehr_url}/fhir").exit_code == 0
    every = check(site)
    assert every.exit_code == 1
    assert "Down (http://127.0.0.1:9/fhir)" in every.output
    assert "did not answer" in every.output


def test_an_address_that_is_not_on_the_list_is_not_asked(site):
    told = check(site, "http://127.0.0.1:9/other")
    assert told.exit_code == 1
    assert "not known here, so nothing was sent to it" in told.output
    assert site.ehr_side == []


# What reading needs


def searched_by(kind, *names):
    """The EHR says that this type is searched by these parameters, or, without any, that it has none of it."""

    def change(said):
        (rest,) = said["rest"]
        rest["resource"] = [each for each in rest["resource"] if names or each["type"] != kind]
        for each in rest["resource"]:
            if each["type"] == kind:
                each["searchParam"] = [{"name": name, "type": "string"} for name in names]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (searched_by("Procedure", "patient", "date"), 'set site.procedure_search = "date"'),
        (searched_by("Procedure", "patient"), 'set site.procedure_search = "patient"'),
        (searched_by("Procedure", "patient", "encounter"), 'set site.procedure_search = "patient"'),
        (searched_by("Procedure", "_id", "date", "encounter"), "Procedure's search by patient is not listed"),
        (searched_by("ChargeItem"), 'set site.charge_search = "none"'),
        (searched_by("ChargeItem", "context", "subject"), 'set site.charge_search = "context"'),
        (searched_by("ChargeItem", "context", "patient"), "not said to be searched by occurrence"),
        (searched_by("ChargeItem", "_id"), 'by occurrence and patient: set site.charge_search = "none"'),
        (searched_by("Encounter", "patient"), "Encounter is not said to be searched by date"),
        (searched_by("PractitionerRole", "_id"), "map practitioners in site.practitioners"),
        (searched_by("Coverage", "_id"), "Coverage is not said to be searched by patient"),
    ],
)
def test_each_search_that_an_ehr_lacks_is_named_with_the_setting_that_it_needs(site, change, says):
    lie(site, METADATA, change)
    told = check(site)
    assert says in told.output
    assert "  needs" in told.output


@pytest.mark.parametrize(
    ("site_table", "change", "says"),
    [
        (
            'procedure_search = "date"',
            searched_by("Procedure", "patient", "date", "encounter"),
            "searched better",
        ),
        ('procedure_search = "patient"', searched_by("Procedure", "patient"), 'procedure_search = "patient"'),
        ('charge_search = "none"', searched_by("ChargeItem", "context"), "take site.charge_search away"),
        (
            'minutes_observations = {"u|m" = "97110"}',
            searched_by("Observation"),
            "Observation is not offered",
        ),
        ('concept_map = "none.json"', searched_by("Coverage", "patient"), "none.json cannot be read"),
    ],
)
def test_settings_that_do_not_fit_this_ehr_are_named(site, site_table, change, says):
    file = site.folder / "issuers.toml"
    file.write_text(file.read_text().replace(".site]\n", f".site]\n{site_table}\n", 1))
    lie(site, METADATA, change)
    assert says in check(site).output


@pytest.mark.parametrize("way", ["dft-file", "csv"])
def test_a_folder_for_charges_is_told_by_its_mark_and_nothing_is_put_there(site, way):
    folder = site.folder / "charges"
    file = site.folder / "issuers.toml"
    table = f'[issuers.sandbox.writing]\nway = "{way}"\nfolder = "{folder}"\n'
    file.write_text(f"{file.read_text()}\n{table}")
    assert "writing.folder cannot be read (No such file or directory)" in check(site).output
    folder.mkdir()
    told = check(site)
    assert "does not hold the file .quarterhour-charges" in told.output
    assert told.exit_code == 0
    assert list(folder.iterdir()) == []
    (folder / ".quarterhour-charges").touch()
    assert "works  writing.folder is there" in check(site).output


def test_a_folder_is_of_no_interest_where_charges_leave_otherwise(site):
    file = site.folder / "issuers.toml"
    file.write_text(f'{file.read_text()}\n[issuers.sandbox.writing]\nfolder = "/nowhere"\n')
    assert "writing.folder" not in check(site).output
