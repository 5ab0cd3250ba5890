"""The codes of a visit, each check in its three outcomes where it can have them."""

from __future__ import annotations

import json

from quarterhour.core.findings import Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.suggestion import suggest
from quarterhour.core.visit_json import read_visit

LIBRARY = Library.load()
FAIL, NOT_CHECKED = Status.FAIL, Status.NOT_CHECKED


def suggested(policy, *codes, on="2025-05-01", library=LIBRARY, **facts):
    services = [{"code": code} for code in codes]
    document = {"policy": policy, "date_of_service": on, "discipline": "PT", "services": services, **facts}
    visit, policy_id = read_visit(json.dumps(document).encode())
    return suggest(visit, library.policy(policy_id), library)


def outcome(suggestion, check):
    found = [(finding.status, finding.message) for finding in suggestion.findings if finding.id == check]
    return found or ("passed" if check in suggestion.checks_passed else "not asked")


# code-unknown is never "not checked": the table is always at hand, and a code is in it or not.


def test_a_code_in_the_table_is_known_and_another_is_told():
    assert outcome(suggested("cms-part-b", "97161"), "code-unknown") == "passed"
    assert outcome(suggested("cms-part-b", "97161", "97620"), "code-unknown") == [
        (FAIL, "97620 is not in the table of codes, so nothing is known of its minutes or dates.")
    ]


def test_a_code_is_refused_after_its_last_day_with_its_successors():
    assert outcome(suggested("hns", "97002", on="2018-08-06"), "code-not-valid-on-date") == [
        (FAIL, "97002 ended on 2016-12-31 and cannot be billed for 2018-08-06. In its place: 97164.")
    ]


def test_two_successors_are_told_apart():
    ((_, message),) = outcome(suggested("cms-part-b", "97532", on="2018-06-01"), "code-not-valid-on-date")
    assert message.endswith("In its place: 97127 or G0515.")


def test_a_code_without_successors_is_refused_without():
    assert outcome(suggested("cms-part-b", "95831", on="2020-01-01"), "code-not-valid-on-date") == [
        (FAIL, "95831 ended on 2019-12-31 and cannot be billed for 2020-01-01.")
    ]


def test_a_code_is_refused_before_its_first_day():
    assert outcome(suggested("cms-part-b", "98985", on="2025-12-31"), "code-not-valid-on-date") == [
        (FAIL, "98985 begins on 2026-01-01 and cannot be billed for 2025-12-31.")
    ]
    assert outcome(suggested("cms-part-b", "98985", on="2026-01-01"), "code-not-valid-on-date") == "passed"


def test_a_code_that_is_not_valid_is_critical_and_cites_where_its_dates_were_read():
    (finding,) = [f for f in suggested("cms-part-b", "97001").findings if f.id == "code-not-valid-on-date"]
    assert finding.severity is Severity.CRITICAL
    assert finding.source.title == "PT Billing Services, The 8-Minute Rule"


def test_the_dates_of_an_unknown_code_are_not_checked():
    assert outcome(suggested("cms-part-b", "97620"), "code-not-valid-on-date") == [
        (NOT_CHECKED, "97620 is not in the table of codes, so its dates are not known.")
    ]


# code-not-accepted-by-payer is never "not checked": a code is in the payer's list or not, known or unknown.


def test_a_code_outside_the_payers_list_is_information():
    suggestion = suggested("tufts-commercial-pt", "97012", "G0283")
    assert outcome(suggestion, "code-not-accepted-by-payer") == [
        (
            FAIL,
            (
                "G0283 is not among the 37 codes that Tufts Health Plan commercial, physical therapy"
                " (last revised January 2009) lists."
            ),
        )
    ]
    (finding,) = [f for f in suggestion.findings if f.id == "code-not-accepted-by-payer"]
    assert finding.severity is Severity.INFO


def test_every_code_within_the_payers_list_passes():
    suggestion = suggested("tufts-commercial-pt", "97012", "97161")
    assert outcome(suggestion, "code-not-accepted-by-payer") == "passed"


def test_the_payers_list_is_that_of_the_date_of_service():
    old = suggested("tufts-commercial-pt", "97001", on="2016-12-31")
    assert outcome(old, "code-not-accepted-by-payer") == "passed"
    new = suggested("tufts-commercial-pt", "97001", on="2017-01-01")
    assert outcome(new, "code-not-accepted-by-payer")[0][0] is FAIL


def test_a_code_that_the_payer_refuses_is_told_with_what_to_report_instead():
    assert outcome(suggested("cms-part-b", "97014"), "code-not-accepted-by-payer") == [
        (FAIL, "97014 is not paid under Medicare Part B outpatient therapy. Report G0283 instead.")
    ]
    assert outcome(suggested("cms-part-b", "97010"), "code-not-accepted-by-payer") == [
        (FAIL, "97010 is not paid under Medicare Part B outpatient therapy.")
    ]
    assert outcome(suggested("cms-part-b", "G0283"), "code-not-accepted-by-payer") == "passed"


def test_a_payer_without_a_list_does_not_ask():
    assert outcome(suggested("hns", "97010"), "code-not-accepted-by-payer") == "not asked"


def test_unlisted_codes_fail_whether_named_or_not_and_others_pass():
    for code in ("97039", "97139", "97799", "20999"):
        assert outcome(suggested("hns", code), "unlisted-code")[0][0] is FAIL
    assert outcome(suggested("hns", "97012"), "unlisted-code") == "passed"


def test_a_payers_list_of_unlisted_codes_need_not_be_complete_nor_all_unlisted(tmp_path):
    (tmp_path / "ours.yaml").write_text(
        "policy: ours\ntitle: Ours\nlike: cms-part-b\nsources:\n"
        '  letter: {title: L, section: s, url: "https://a.example/", read_on: 2025-03-01, verified: true}\n'
        'terms:\n  unlisted_codes:\n    2020-01-01: {value: ["97012"], source: letter}\n',
        encoding="utf-8",
    )
    suggestion = suggested("ours", "97012", "97039", "97016", library=Library.load(tmp_path))
    found = [finding.codes for finding in suggestion.findings if finding.id == "unlisted-code"]
    assert found == [("97012",), ("97039",)]


def test_a_code_that_nobody_knows_may_be_unlisted():
    assert outcome(suggested("hns", "97620"), "unlisted-code") == [
        (NOT_CHECKED, "97620 is not in the table of codes, so it may be an unlisted one.")
    ]


def test_a_payer_that_does_not_speak_of_unlisted_codes_does_not_ask():
    assert outcome(suggested("cms-part-b", "97799"), "unlisted-code") == "not asked"


def test_a_policy_for_physical_therapy_in_offices_says_so_elsewhere():
    inside = suggested("tufts-commercial-pt", "97012")
    assert outcome(inside, "outside-policy-scope") == "passed"
    occupational = suggested("tufts-commercial-pt", "97012", discipline="OT")
    assert outcome(occupational, "outside-policy-scope")[0][0] is FAIL
    hospital = suggested("tufts-commercial-pt", "97012", setting="outpatient-hospital")
    ((status, message),) = outcome(hospital, "outside-policy-scope")
    assert status is FAIL
    assert "this visit is outpatient-hospital" in message


def test_a_policy_of_any_scope_does_not_ask():
    assert outcome(suggested("cms-part-b", "97012"), "outside-policy-scope") == "not asked"
