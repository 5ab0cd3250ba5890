"""What the EHR granted is looked at before anybody works (checklist 57), over real HTTP."""

import csv
import io

import pytest

from quarterhour.sandbox.quirks import Quirks

WRITE = "user/ChargeItem.cu"


def without(*scopes, **quirks):
    return Quirks(withheld_scopes=scopes, **quirks)


def test_with_every_scope_the_visit_can_be_signed_off(site, person):
    page = person.launch()
    assert "Read only." not in page.text
    assert person.sign(page).heading.startswith("Signed off")


@pytest.fixture
def read_only(a_site):
    return a_site(quirks=without(WRITE))


def test_57_without_charge_item_create_the_page_is_read_only_and_says_so(read_only):
    page = read_only.person().launch()
    assert "Read only. Sandbox EHR did not let Quarterhour write charges" in page.text
    assert "to permit user/ChargeItem.c" in page.text
    assert "Sign off…" not in page.html


def test_57_without_charge_item_create_signing_is_refused_whatever_is_posted(read_only):
    person = read_only.person()
    page = person.launch()
    address, fields = page.form("/visits/1")
    for refused in (person.get(f"{address}/sign"), person.post(f"{address}/sign", fields)):
        assert refused.status == 403
        assert refused.heading == "You may not do this here"
        assert "Export or print the charges" in refused.text
    assert not read_only.asked("/fhir/ChargeItem", "POST")
    assert "sign-off-refused" in [entry.action for entry in read_only.trail()]


def test_57_a_read_only_visit_is_exported_as_a_table(read_only):
    person = read_only.person()
    page = person.launch()
    table = person.get(f"/launches/{page.launch_id}/visits/1/charges.csv")
    rows = list(csv.DictReader(io.StringIO(table.html)))
    assert {row["Code"]: row["Units"] for row in rows} == {"97112": "2", "97110": "1"}
    assert table.headers["Content-Disposition"] == 'attachment; filename="charges.csv"'
    assert table.headers["Cache-Control"] == "no-store"


def test_57_a_read_only_visit_is_shown_to_print_or_copy(read_only):
    person = read_only.person()
    page = person.launch()
    printed = person.get(f"/launches/{page.launch_id}/visits/1/print")
    assert "Not signed off and not written to the EHR" in printed.text
    assert "97112" in printed.text
    assert [entry.what["how"] for entry in read_only.trail() if entry.action == "exported"] == ["print"]


def test_an_export_waits_until_all_is_settled(a_site):
    site = a_site(quirks=without(WRITE))
    person = site.person()
    tied = next(each for each in site.sandbox.scenarios if len(each.expected) > 1)
    page = person.launch(tied.id)
    table = person.get(f"/launches/{page.launch_id}/visits/1/charges.csv")
    assert table.status == 409
    assert "still to be placed" in table.text


@pytest.mark.parametrize("scope", ["patient/Patient.r", "patient/Encounter.rs", "patient/Procedure.rs"])
def test_57_a_read_scope_that_no_review_can_be_without_is_named_before_anything_is_read(a_site, scope):
    site = a_site(quirks=without(scope))
    page = site.person().launch()
    assert page.status == 403
    assert scope in page.text
    assert not [each for each in site.ehr_side if each.path.startswith("/fhir/Procedure")]


@pytest.mark.parametrize("scope", ["patient/Coverage.rs", "user/Practitioner.r", "user/PractitionerRole.rs"])
def test_57_a_read_scope_that_the_review_can_do_without_is_named_on_the_page(a_site, scope):
    page = a_site(quirks=without(scope)).person().launch()
    assert page.status == 200
    assert f"({scope})" in page.text


def test_57_without_sight_of_charges_nothing_is_signed_since_they_might_be_there_already(a_site):
    page = a_site(quirks=without("patient/ChargeItem.rs")).person().launch()
    assert "did not let Quarterhour look for charges that are there already" in page.text
    assert "Sign off…" not in page.html


def test_creating_without_updating_is_enough_to_sign(a_site):
    scopes = '["openid", "fhirUser", "patient/*.rs", "user/ChargeItem.c", "user/*.rs"]'
    site = a_site(more=f"scopes = {scopes}")
    person = site.person()
    assert person.sign(person.launch()).heading.startswith("Signed off")


def test_a_cell_that_a_spreadsheet_would_run_is_made_text(a_site):
    site = a_site(quirks=without(WRITE))
    patient = site.sandbox.store.get("Patient", site.sandbox.scenario("cms-ex1").patient).resource
    patient["name"][0] |= {"given": ["=cmd|' /C calc'!A0"], "family": "X"}
    person = site.person()
    page = person.launch()
    rows = list(
        csv.DictReader(io.StringIO(person.get(f"/launches/{page.launch_id}/visits/1/charges.csv").html))
    )
    assert {row["Patient"][:2] for row in rows} == {"'="}


# --- by the way out -------------------------------------------------------------------------------------------


def asked(site):
    return site.asked("/oauth/authorize")[0].params["scope"][0].split()


def test_57_where_charges_leave_as_a_claim_that_is_asked_for_and_charge_items_need_not_be_written(a_site):
    site = a_site(more='writing = {way = "claim"}', quirks=without(WRITE))
    person = site.person()
    page = person.launch()
    assert "Read only." not in page.text
    assert {"user/Claim.rs", "user/Claim.cu"} <= set(asked(site))
    assert WRITE not in asked(site)
    assert person.sign(page).heading.startswith("Signed off")
    assert [filed.resource["status"] for filed in site.sandbox.store.all("Claim")] == ["draft"]


def test_57_where_charges_leave_as_a_claim_the_page_is_read_only_without_its_scope(a_site):
    site = a_site(more='writing = {way = "claim"}', quirks=without("user/Claim.cu"))
    page = site.person().launch()
    assert "Read only. Sandbox EHR did not let Quarterhour write charges" in page.text
    assert "to permit user/Claim.c" in page.text


@pytest.mark.parametrize("way", ['way = "ticket"', 'way = "csv", folder = "FOLDER"'])
def test_57_where_nothing_is_written_into_the_ehr_nothing_is_asked_for_to_write(a_site, tmp_path, way):
    site = a_site(more=f"writing = {{{way.replace('FOLDER', str(tmp_path))}}}", quirks=without(WRITE))
    person = site.person()
    page = person.launch()
    assert [scope for scope in asked(site) if scope.endswith((".c", ".cu", ".cud", ".write"))] == []
    assert "did not grant Quarterhour to write" not in page.text
    assert person.sign(page).heading.startswith("Signed off")
    assert {each.method for each in site.ehr_side if each.path.startswith("/fhir/")} == {"GET"}
