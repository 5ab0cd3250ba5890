"""The FHIR server of the sandbox, over HTTP: reach of a token, searches, writes, Bundles, quirks."""

import threading
import uuid
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from fhir.resources.R4B import get_fhir_model_class

READ = "launch patient/*.rs"


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["resource"]["id"] for entry in answer.json().get("entry", [])]


def issue(answer) -> tuple[int, str]:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    assert answer.headers["Content-Type"].startswith("application/fhir+json")
    return answer.status_code, body["issue"][0]["code"]


# Reach of a token


def test_without_a_token_there_is_nothing_but_metadata(app):
    answer = app.fhir(None, "GET", "/Patient/pat-adams")
    assert issue(answer) == (401, "login")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert app.fhir(None, "GET", "/metadata").status_code == 200


@pytest.mark.parametrize("header", ["Bearer unknown", "Basic dXNlcjpzZWNyZXQ=", "Bearer", "Bearer \u00e9"])
def test_an_unknown_token_is_refused(app, header):
    answer = app.fhir(None, "GET", "/Patient/pat-adams", headers={"Authorization": header.encode("latin-1")})
    assert issue(answer) == (401, "login")


@pytest.mark.parametrize(("seconds", "status"), [(50, 200), (70, 401)])
def test_a_token_dies_when_its_time_is_up(start, clock, seconds, status):
    with start(token_seconds=60) as app:
        token = app.token()
        clock.passed += timedelta(seconds=seconds)
        assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == status


def test_a_token_for_one_patient_cannot_read_another(app):
    token = app.token("cms-ex1")
    assert app.fhir(token, "GET", "/Procedure/proc-cms-ex1-1").status_code == 200
    for path in ("/Patient/pat-brennan", "/Procedure/proc-cms-ex2-1", "/Encounter/enc-cms-ex2"):
        assert issue(app.fhir(token, "GET", path)) == (404, "not-found")


def test_another_patient_looks_exactly_like_no_patient(app):
    token = app.token("cms-ex1")
    there, nowhere = (
        app.fhir(token, "GET", f"/Patient/{each}").text for each in ("pat-brennan", "pat-nobody")
    )
    assert there.replace("pat-brennan", "pat-nobody") == nowhere


def test_a_search_for_another_patient_finds_nothing(app):
    token = app.token("cms-ex1")
    assert ids(app.fhir(token, "GET", "/Procedure?patient=pat-brennan")) == []
    assert ids(app.fhir(token, "GET", "/Patient")) == ["pat-adams"]


def test_staff_places_and_payers_belong_to_no_patient(app):
    token = app.token("cms-ex1")
    for path in ("/Practitioner/pr-reyes", "/Organization/payer-medicare", "/Location/loc-gym"):
        assert app.fhir(token, "GET", path).status_code == 200


def test_a_scope_must_name_the_type_and_the_action(app, charge):
    token = app.token("cms-ex1", "launch patient/Patient.r patient/ChargeItem.rs")
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 200
    assert issue(app.fhir(token, "GET", "/Patient?_id=pat-adams")) == (403, "forbidden")
    assert issue(app.fhir(token, "GET", "/Procedure?patient=pat-adams")) == (403, "forbidden")
    assert issue(app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr))) == (403, "forbidden")


def test_version_one_scopes_mean_read_and_write(app, charge):
    token = app.token("cms-ex1", "launch patient/Procedure.read user/ChargeItem.write")
    assert app.fhir(token, "GET", "/Procedure?patient=pat-adams").status_code == 200
    assert app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr)).status_code == 201
    assert issue(app.fhir(token, "GET", "/ChargeItem?patient=pat-adams")) == (403, "forbidden")


# Searches. The two visits of Agnes Larsen lie on 2026-11-18: 14:00 physical, 15:00 occupational therapy.


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Patient?_id=pat-larsen", ["pat-larsen"]),
        ("Patient?identifier=https://sandbox.quarterhour.example/mrn|100012", ["pat-larsen"]),
        ("Patient?identifier=100012", ["pat-larsen"]),
        ("Patient?identifier=https://other.example|100012", []),
        ("Patient?name=lars", ["pat-larsen"]),
        ("Encounter?patient=pat-larsen", ["enc-two-disciplines-pt", "enc-two-disciplines-ot"]),
        (
            "Encounter?patient=Patient/pat-larsen&_sort=-date",
            ["enc-two-disciplines-ot", "enc-two-disciplines-pt"],
        ),
        ("Encounter?subject:Patient=pat-larsen&_id=enc-two-disciplines-pt", ["enc-two-disciplines-pt"]),
        ("Encounter?_id=enc-two-disciplines-pt,enc-two-disciplines-ot&_count=1", ["enc-two-disciplines-pt"]),
        ("Encounter?date=2026-11-18", ["enc-two-disciplines-pt", "enc-two-disciplines-ot"]),
        ("Encounter?date=2026-11-17", []),
        ("Encounter?date=lt2026-11-18T14:30:00-05:00", ["enc-two-disciplines-pt"]),
        ("Encounter?date=gt2026-11-18T20:33:00Z", ["enc-two-disciplines-ot"]),
        ("Encounter?participant=Practitioner/pr-osei", ["enc-two-disciplines-ot"]),
        (
            "Procedure?encounter=enc-two-disciplines-ot",
            ["proc-two-disciplines-ot-1", "proc-two-disciplines-ot-2"],
        ),
        ("Procedure?encounter=Encounter/enc-two-disciplines-ot&code=97530", ["proc-two-disciplines-ot-2"]),
        ("Procedure?code=http://www.ama-assn.org/go/cpt|97116", ["proc-two-disciplines-pt-2"]),
        ("Procedure?code=97116,97535", ["proc-two-disciplines-pt-2", "proc-two-disciplines-ot-1"]),
        ("Procedure?status=in-progress", []),
        ("Procedure?patient=pat-larsen&date=ge2026-11-18&date=lt2026-11-19&status=completed&_count=2", 2),
        ("Coverage?patient=pat-larsen", ["cov-pat-larsen"]),
        ("Coverage?beneficiary=Patient/pat-larsen", ["cov-pat-larsen"]),
        ("PractitionerRole?practitioner=pr-osei", ["role-pr-osei"]),
        (
            "PractitionerRole?practitioner=Practitioner/pr-osei,Practitioner/pr-cole",
            ["role-pr-cole", "role-pr-osei"],
        ),
        ("PractitionerRole?specialty=225X00000X", ["role-pr-osei"]),
        ("Practitioner?_id=pr-osei", ["pr-osei"]),
        ("Organization?_id=payer-medicare,payer-optum", ["payer-medicare", "payer-optum"]),
        ("Location?name=treat", ["loc-gym"]),
        ("ChargeItem?patient=pat-larsen", []),
        ("Observation?patient=pat-larsen", []),
        ("Patient?_lastUpdated=ge2020-01-01", ["pat-larsen"]),
        ("Patient?_lastUpdated=lt2020", []),
    ],
)
def test_a_search_finds_what_it_asks_for(app, query, found):
    token = app.token("two-disciplines-pt")
    answer = ids(app.fhir(token, "GET", f"/{query}"))
    assert (len(answer) if isinstance(found, int) else answer) == found


@pytest.mark.parametrize(
    ("date", "found"),
    [
        # The exercise of cms-ex1 ran from 8:29:00 to 8:52:00 on 2026-11-19; an end includes its second.
        ("eq2026-11-19", True),
        ("2026-11-18", False),
        ("2026-11", True),
        ("2026", True),
        ("ge2026-11-19", True),
        ("ge2026-11-20", False),
        ("gt2026-11-18", True),
        ("gt2026-11-19", False),
        ("le2026-11-19", True),
        ("le2026-11-18", False),
        ("lt2026-11-20", True),
        ("lt2026-11-19", False),
        ("ge2026-11-19T08:52:00-05:00", False),
        ("ge2026-11-19T08:51:59-05:00", True),
        ("gt2026-11-19T13:51:00Z", True),
        ("lt2026-11-19T08:29:00-05:00", False),
        ("lt2026-11-19T08:29:01-05:00", True),
        ("sa2026-11-18", True),
        ("eb2026-11-20", True),
        ("ne2026-11-19", False),
    ],
)
def test_dates_are_compared_as_intervals_in_the_zone_of_the_clinic(app, date, found):
    token = app.token("cms-ex1")
    answer = app.fhir(token, "GET", "/Procedure", params={"code": "97110", "date": date})
    assert (ids(answer) == ["proc-cms-ex1-2"]) is found


@pytest.mark.parametrize(
    "query",
    [
        "Procedure?performer=pr-reyes",
        "Procedure?date=yesterday",
        "Procedure?date=2026-13-01",
        "Procedure?date=ap2026-11-19",
        "Procedure?date=9999-12-31",
        "Procedure?date=0001-01-01T00:00:00%2B14:00",
        "Procedure?code:not=97110",
        "Procedure?_include=Procedure:encounter",
        "Procedure?_count=many",
        "Procedure?_sort=nothing",
        "Encounter?patient:Group=pat-adams",
    ],
)
def test_what_the_server_does_not_know_is_refused_and_not_ignored(app, query):
    assert app.fhir(app.token(), "GET", f"/{query}").status_code == 400


def test_an_unknown_type_is_refused(app):
    assert issue(app.fhir(app.token(), "GET", "/Unicorn")) == (404, "not-supported")


def test_a_search_can_be_posted(app):
    answer = app.fhir(
        app.token(), "POST", "/Procedure/_search", data={"patient": "pat-adams", "code": "97110"}
    )
    assert ids(answer) == ["proc-cms-ex1-2"]


def test_some_ehrs_cannot_search_by_encounter(start):
    with start(no_encounter_search=True) as app:
        answer = app.fhir(app.token(), "GET", "/Procedure?encounter=enc-cms-ex1")
        assert issue(answer) == (400, "not-supported")
        assert len(ids(app.fhir(app.token(), "GET", "/Procedure?patient=pat-adams"))) == 2


def test_a_service_without_any_time_is_not_found_by_date(app):
    token = app.token("problem-no-time")
    by_date = ids(app.fhir(token, "GET", "/Procedure?patient=pat-quist&date=ge2026-01-01"))
    by_encounter = ids(app.fhir(token, "GET", "/Procedure?encounter=enc-problem-no-time"))
    assert by_date == ["proc-problem-no-time-1", "proc-problem-no-time-2"]
    assert by_encounter == [*by_date, "proc-problem-no-time-3"]


def test_a_misfiled_service_turns_up_in_the_chart_it_lies_in(app):
    answer = app.fhir(app.token("problem-other-patient"), "GET", "/Procedure?patient=pat-tremblay")
    subjects = [entry["resource"]["subject"]["reference"] for entry in answer.json()["entry"]]
    assert subjects == ["Patient/pat-tremblay", "Patient/pat-adams"]
    assert ids(app.fhir(app.token("cms-ex1"), "GET", "/Procedure?patient=pat-adams&code=97140")) == []


# Paging


def test_pages_are_linked_until_everything_was_given_once(start):
    with start(page_size=3) as app:
        token = app.token("cms-ex4")
        first = app.fhir(token, "GET", "/Procedure?patient=pat-duarte&_sort=date").json()
        (link,) = (each["url"] for each in first["link"] if each["relation"] == "next")
        assert link.startswith(f"{app.ehr.fhir_url}/Procedure?")
        second = app.http.get(link, headers={"Authorization": f"Bearer {token['access_token']}"}).json()
    assert first["total"] == second["total"] == 4
    found = [entry["resource"]["id"] for page in (first, second) for entry in page["entry"]]
    assert found == [f"proc-cms-ex4-{number}" for number in (1, 2, 3, 4)]
    assert [each["relation"] for each in second["link"]] == ["self"]


def test_a_page_is_never_larger_than_the_server_likes(start):
    with start(page_size=2) as app:
        answer = app.fhir(app.token("cms-ex4"), "GET", "/Procedure?patient=pat-duarte&_count=100")
    assert len(ids(answer)) == 2


def test_a_count_of_zero_asks_only_how_many(app):
    answer = app.fhir(app.token("cms-ex4"), "GET", "/Procedure?patient=pat-duarte&_count=0").json()
    assert answer["total"] == 4
    assert "entry" not in answer


def test_a_next_link_can_lead_astray_and_totals_can_be_missing(start):
    with start(page_size=1, foreign_next_link="https://evil.example", no_total=True) as app:
        page = app.fhir(app.token("cms-ex4"), "GET", "/Procedure?patient=pat-duarte").json()
    assert "total" not in page
    (link,) = (each["url"] for each in page["link"] if each["relation"] == "next")
    assert urlsplit(link)[:3] == ("https", "evil.example", "/fhir/Procedure")


# Create


def test_a_created_charge_can_be_read_and_found(app, charge):
    token = app.token()
    answer = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr))
    created = answer.json()
    assert answer.status_code == 201
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Location"] == f"{app.ehr.fhir_url}/ChargeItem/{created['id']}/_history/1"
    assert "Last-Modified" in answer.headers
    assert app.fhir(token, "GET", f"/ChargeItem/{created['id']}").json() == created
    for query in (
        "identifier=https://app.example/charge|charge-1",
        "context=Encounter/enc-cms-ex1",
        "subject=Patient/pat-adams&status=billable",
        "patient=pat-adams&occurrence=2026-11-19",
    ):
        assert ids(app.fhir(token, "GET", f"/ChargeItem?{query}")) == [created["id"]]
    assert app.ehr.charge_items("cms-ex1") == [created]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"status": "charged"}, (422, "code-invalid")),
        ({"status": None}, (422, "structure")),
        ({"code": None}, (422, "structure")),
        ({"code": {"text": "exercise"}}, (422, "required")),
        ({"subject": None}, (422, "structure")),
        ({"subject": {"reference": "Patient/pat-nobody"}}, (422, "business-rule")),
        ({"context": {"reference": "Encounter/enc-nowhere"}}, (422, "business-rule")),
        ({"context": {"reference": "Encounter/enc-cms-ex2"}}, (422, "business-rule")),
        ({"quantity": {"value": 0}}, (422, "business-rule")),
        ({"quantity": {"value": 1.5}}, (422, "business-rule")),
        ({"quantity": {"value": "two"}}, (422, "structure")),
        ({"modifier": [{"text": "GP"}]}, (422, "structure")),
        ({"occurrenceDateTime": "yesterday"}, (422, "structure")),
        ({"resourceType": "Procedure"}, (400, "invalid")),
        ({"subject": {"reference": "Patient/pat-brennan"}, "context": None}, (403, "forbidden")),
    ],
)
def test_a_charge_that_is_not_right_is_refused_and_not_filed(app, charge, changes, refusal):
    answer = app.fhir(app.token(), "POST", "/ChargeItem", json=charge(app.ehr, **changes))
    assert issue(answer) == refusal
    assert app.ehr.charge_items("cms-ex1") == []


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "<ChargeItem/>", '{"a": NaN}', "[" * 100_000])
def test_a_body_that_is_no_resource_is_refused(app, body):
    assert app.fhir(app.token(), "POST", "/ChargeItem", data=body).status_code == 400


def test_a_refused_element_is_named(app, charge):
    answer = app.fhir(app.token(), "POST", "/ChargeItem", json=charge(app.ehr, quantity={"value": "two"}))
    assert "quantity.value" in answer.json()["issue"][0]["diagnostics"]


def test_charts_are_read_only_but_for_charges(app):
    token = app.token("cms-ex1", "launch patient/*.cruds")
    procedure = app.fhir(token, "GET", "/Procedure/proc-cms-ex1-1").json()
    assert issue(app.fhir(token, "POST", "/Procedure", json=procedure)) == (405, "not-supported")
    assert app.fhir(token, "PUT", "/Procedure/proc-cms-ex1-1", json=procedure).status_code == 405


# Conditional create

ONCE = {"If-None-Exist": "identifier=https://app.example/charge|charge-1"}


def test_a_conditional_create_files_once_and_gives_back_what_is_there(app, charge):
    token = app.token()
    first = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), headers=ONCE)
    again = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr, quantity={"value": 3}), headers=ONCE)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert len(app.ehr.charge_items("cms-ex1")) == 1


def test_a_conditional_create_that_fits_several_is_refused(app, charge):
    token = app.token()
    for _ in range(2):
        app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr))
    answer = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), headers=ONCE)
    assert issue(answer) == (412, "multiple-matches")


def race(app, token, body, count=12) -> list[int]:
    """The same conditional create from many connections at once; the statuses, sorted."""
    ready, statuses = threading.Barrier(count), []

    def post():
        ready.wait()
        statuses.append(app.fhir(token, "POST", "/ChargeItem", json=body, headers=ONCE).status_code)

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(statuses)


def test_of_a_race_of_conditional_creates_one_wins(app, charge):
    assert race(app, app.token(), charge(app.ehr)) == [200] * 11 + [201]
    assert len(app.ehr.charge_items("cms-ex1")) == 1


def test_an_ehr_without_conditional_create_files_them_all(start, charge):
    with start(no_conditional_create=True) as app:
        assert race(app, app.token(), charge(app.ehr)) == [201] * 12
        assert len(app.ehr.charge_items("cms-ex1")) == 12


def test_with_a_search_lag_a_fresh_charge_is_not_found_and_is_doubled(start, clock, charge):
    with start(search_lag_ms=5000) as app:
        token = app.token()
        created = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), headers=ONCE).json()
        assert app.fhir(token, "GET", f"/ChargeItem/{created['id']}").status_code == 200
        assert ids(app.fhir(token, "GET", "/ChargeItem?patient=pat-adams")) == []
        assert app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), headers=ONCE).status_code == 201
        clock.passed += timedelta(seconds=6)
        assert len(ids(app.fhir(token, "GET", "/ChargeItem?patient=pat-adams"))) == 2


# Update


def test_an_update_of_the_current_version_makes_the_next(app, charge):
    token = app.token()
    created = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr)).json()
    path = f"/ChargeItem/{created['id']}"
    changed = created | {"status": "entered-in-error"}
    answer = app.fhir(token, "PUT", path, json=changed, headers={"If-Match": 'W/"1"'})
    assert answer.status_code == 200
    assert answer.headers["ETag"] == 'W/"2"'
    assert app.fhir(token, "GET", path).json()["status"] == "entered-in-error"


def test_an_update_of_an_old_version_is_refused(app, charge):
    token = app.token()
    created = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr)).json()
    path = f"/ChargeItem/{created['id']}"
    app.fhir(token, "PUT", path, json=created, headers={"If-Match": 'W/"1"'})
    answer = app.fhir(token, "PUT", path, json=created, headers={"If-Match": 'W/"1"'})
    assert issue(answer) == (412, "conflict")


def test_an_update_cannot_make_or_move_a_charge(app, charge):
    token = app.token()
    created = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr)).json()
    elsewhere = created | {"subject": {"reference": "Patient/pat-brennan"}, "context": None}
    elsewhere = {name: value for name, value in elsewhere.items() if value is not None}
    assert app.fhir(token, "PUT", "/ChargeItem/new", json=created | {"id": "new"}).status_code == 404
    assert (
        app.fhir(token, "PUT", f"/ChargeItem/{created['id']}", json=created | {"id": "x"}).status_code == 400
    )
    assert app.fhir(token, "PUT", f"/ChargeItem/{created['id']}", json=elsewhere).status_code == 403
    assert app.ehr.charge_items("cms-ex1") == [created]


def test_an_ehr_without_etags_overwrites(start, charge):
    with start(no_etag=True) as app:
        token = app.token()
        answer = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr))
        path = f"/ChargeItem/{answer.json()['id']}"
        changed = app.fhir(token, "PUT", path, json=answer.json(), headers={"If-Match": 'W/"99"'})
    assert "ETag" not in answer.headers
    assert changed.status_code == 200


# Bundles


def bundle(kind, *entries):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def post(resource, **request):
    return {
        "fullUrl": f"urn:uuid:{uuid.uuid4()}",
        "resource": resource,
        "request": {"method": "POST", "url": resource["resourceType"], **request},
    }


def provenance(target):
    return {
        "resourceType": "Provenance",
        "target": [{"reference": target}],
        "recorded": "2026-11-20T12:00:00-05:00",
        "agent": [{"who": {"reference": "Practitioner/pr-reyes"}}],
    }


def test_a_transaction_files_everything_and_resolves_references_between_entries(app, charge):
    token = app.token()
    entry = post(charge(app.ehr), ifNoneExist=ONCE["If-None-Exist"])
    about = post(provenance(entry["fullUrl"]))
    answer = app.fhir(token, "POST", "", json=bundle("transaction", about, entry)).json()
    assert answer["type"] == "transaction-response"
    statuses = [each["response"]["status"] for each in answer["entry"]]
    filed_provenance, filed_charge = (each["resource"] for each in answer["entry"])
    assert statuses == ["201", "201"]
    assert filed_provenance["target"] == [{"reference": f"ChargeItem/{filed_charge['id']}"}]
    assert answer["entry"][1]["response"]["etag"] == 'W/"1"'
    assert app.ehr.charge_items("cms-ex1") == [filed_charge]


def test_a_repeated_transaction_with_if_none_exist_files_nothing_twice(app, charge):
    token = app.token()
    body = bundle("transaction", post(charge(app.ehr), ifNoneExist=ONCE["If-None-Exist"]))
    statuses = [
        app.fhir(token, "POST", "", json=body).json()["entry"][0]["response"]["status"] for _ in range(2)
    ]
    assert statuses == ["201", "200"]
    assert len(app.ehr.charge_items("cms-ex1")) == 1


def test_a_transaction_with_one_bad_entry_files_nothing(app, charge):
    body = bundle("transaction", post(charge(app.ehr)), post(charge(app.ehr, status="charged")))
    assert issue(app.fhir(app.token(), "POST", "", json=body)) == (422, "code-invalid")
    assert app.ehr.charge_items("cms-ex1") == []


def test_a_batch_answers_each_entry_for_itself(app, charge):
    read = {"request": {"method": "GET", "url": "Procedure?patient=pat-adams"}}
    foreign = {"request": {"method": "GET", "url": "Patient/pat-brennan"}}
    body = bundle("batch", read, foreign, post(charge(app.ehr, status="charged")), post(charge(app.ehr)))
    answer = app.fhir(app.token(), "POST", "", json=body).json()
    assert [each["response"]["status"] for each in answer["entry"]] == ["200", "404", "422", "201"]
    assert answer["entry"][0]["resource"]["total"] == 2
    assert answer["entry"][1]["response"]["outcome"]["resourceType"] == "OperationOutcome"
    get_fhir_model_class("Bundle").model_validate(answer)


def test_a_bundle_can_update_with_if_match(app, charge):
    token = app.token()
    created = app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr)).json()
    path = f"ChargeItem/{created['id']}"

    def put(version):
        request = {"method": "PUT", "url": path, "ifMatch": version}
        return bundle("transaction", {"resource": created | {"status": "aborted"}, "request": request})

    assert app.fhir(token, "POST", "", json=put('W/"7"')).status_code == 412
    assert app.fhir(token, "POST", "", json=put('W/"1"')).status_code == 200
    assert app.ehr.charge_items("cms-ex1")[0]["status"] == "aborted"


@pytest.mark.parametrize("body", [{"resourceType": "Bundle", "type": "document"}, {"type": "batch"}, []])
def test_what_is_no_batch_or_transaction_is_refused(app, body):
    assert issue(app.fhir(app.token(), "POST", "", json=body)) == (400, "invalid")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"request": {"method": "DELETE", "url": "ChargeItem/1"}},
        {"request": {"method": "GET", "url": "http://["}},
    ],
)
def test_an_entry_that_cannot_be_done_is_answered_in_a_batch(app, entry):
    answer = app.fhir(app.token(), "POST", "", json=bundle("batch", entry)).json()
    assert answer["entry"][0]["response"]["status"] in ("400", "405")


def test_an_ehr_without_transactions_still_has_batches(start, charge):
    with start(no_transaction=True) as app:
        token = app.token()
        assert (
            app.fhir(token, "POST", "", json=bundle("transaction", post(charge(app.ehr)))).status_code == 400
        )
        assert app.fhir(token, "POST", "", json=bundle("batch", post(charge(app.ehr)))).status_code == 200


# Capabilities


def capabilities(app):
    statement = app.fhir(None, "GET", "/metadata").json()
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    return {each["type"]: each for each in statement["rest"][0]["resource"]}, statement["rest"][0][
        "interaction"
    ]


def test_the_capability_statement_says_what_is_there(app):
    types, system = capabilities(app)
    assert types["ChargeItem"]["conditionalCreate"] is True
    assert {"code": "create"} in types["ChargeItem"]["interaction"]
    assert {"code": "create"} not in types["Procedure"]["interaction"]
    assert {"code": "transaction"} in system


def test_the_capability_statement_says_what_is_not_there(start):
    with start(
        no_encounter_search=True, no_conditional_create=True, no_etag=True, no_transaction=True
    ) as app:
        types, system = capabilities(app)
    assert types["ChargeItem"]["conditionalCreate"] is False
    assert types["ChargeItem"]["versioning"] == "no-version"
    assert "encounter" not in [each["name"] for each in types["Procedure"]["searchParam"]]
    assert system == [{"code": "batch"}]


def test_an_ehr_without_charge_items_has_none_anywhere(start, charge):
    with start(no_charge_item=True) as app:
        token = app.token("cms-ex1", "launch patient/*.rs user/ChargeItem.cu user/*.c")
        types, _ = capabilities(app)
        assert "ChargeItem" not in types
        assert token["scope"] == "launch patient/*.rs user/*.c"
        assert issue(app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr))) == (404, "not-supported")


def test_every_served_resource_is_valid_fhir(start):
    with start(page_size=1000) as app:
        for scenario in app.ehr.scenarios:
            token = app.token(scenario.id, READ)
            for resource_type in ("Patient", "Encounter", "Procedure", "Coverage", "ChargeItem"):
                for entry in app.fhir(token, "GET", f"/{resource_type}").json().get("entry", []):
                    get_fhir_model_class(resource_type).model_validate(entry["resource"])


def test_the_client_finds_its_request_id_again(app):
    answer = app.fhir(app.token(), "GET", "/Patient/pat-adams", headers={"X-Request-Id": "abc-1"})
    assert answer.headers["X-Request-Id"] == "abc-1"
    assert app.ehr.requests("GET", "/fhir/Patient/*")[0].request_id == "abc-1"
