"""Every finding in full, as its example says: severity, codes, source and the whole sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from quarterhour.core.findings import Finding, Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.policy import InForce
from quarterhour.core.suggestion import CHECKS, suggest
from quarterhour.core.visit_json import read_visit

LIBRARY = Library.load()
EXAMPLES = YAML(typ="safe").load(Path(__file__).parent.parent / "examples" / "findings.yaml")
A_VISIT = {"policy": "cms-part-b", "date_of_service": "2026-03-02", "discipline": "PT"}


def visit_and_policy(example):
    facts = {name: value for name, value in example.items() if name not in {"check", "finds"}}
    visit, policy_id = read_visit(json.dumps({**A_VISIT, **facts}).encode())
    return visit, LIBRARY.policy(policy_id)


def citation(source, visit, policy):
    if source is None:
        return None
    ((kind, name),) = source.items()
    if kind == "term":
        return InForce(policy, visit.date_of_service)[name].citation
    if kind == "code":
        return LIBRARY.codes.get(name).citation
    table = LIBRARY.edits.pairs_on if name == "pairs" else LIBRARY.edits.units_on
    return table(visit.date_of_service, visit.setting).citation


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["check"] for example in EXAMPLES])
def test_a_finding_says_what_its_example_says(example):
    visit, policy = visit_and_policy(example)
    found = [one for one in suggest(visit, policy, LIBRARY).findings if one.id == example["check"]]
    assert found == [
        Finding(
            example["check"],
            Status(finding["status"]),
            Severity(finding["severity"]),
            finding["says"],
            tuple(finding["codes"]),
            citation(finding["source"], visit, policy),
        )
        for finding in example["finds"]
    ]


def test_every_check_has_an_example_of_what_it_finds():
    assert {example["check"] for example in EXAMPLES} == {name for name, _ in CHECKS}


ASKED_BY = {
    "therapies-in-initial-phase": {"hns"},
    "documentation-missing": {"hns"},
    "unlisted-code": {"hns"},
    "timed-unit-cap": {"optum-0048"},
    "outside-policy-scope": {"tufts-commercial-pt"},
    "evaluation-once-per-day": {"tufts-commercial-pt"},
    "evaluations-per-year": {"tufts-commercial-pt"},
    "authorization-needed": {"tufts-commercial-pt"},
    "referral-needed": {"tufts-commercial-pt"},
    "daily-payment-maximum": {"tufts-commercial-pt"},
}


@pytest.mark.parametrize("check", ASKED_BY)
def test_what_one_payer_asks_for_is_neither_passed_nor_found_under_another(check):
    asked = set()
    for policy in LIBRARY.ids:
        visit, _ = visit_and_policy({"date_of_service": "2025-05-01", "services": [{"code": "97161"}]})
        suggestion = suggest(visit, LIBRARY.policy(policy), LIBRARY)
        if check in suggestion.checks_passed or check in {one.id for one in suggestion.findings}:
            asked.add(policy)
    assert asked == ASKED_BY[check]
