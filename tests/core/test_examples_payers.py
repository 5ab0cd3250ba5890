"""The payers' worked examples, from their documents through the engine's own door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from quarterhour.core.findings import Status
from quarterhour.core.library import Library
from quarterhour.core.suggestion import suggest
from quarterhour.core.visit_json import read_visit

LIBRARY = Library.load()
EXAMPLES = YAML(typ="safe").load(Path(__file__).parent.parent / "examples" / "payers.yaml")
KNOWN = {
    *("id", "source", "visit", "lines", "modifiers", "fails", "not_checked", "passed", "says"),
    *("total_timed_minutes", "total_treatment_minutes"),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["id"] for example in EXAMPLES])
def test_the_engine_agrees_with_the_example(example):
    assert not set(example) - KNOWN
    visit, policy = read_visit(json.dumps(example["visit"], default=str).encode())
    suggestion = suggest(visit, LIBRARY.policy(policy), LIBRARY)
    failed = {finding.id for finding in suggestion.findings if finding.status is Status.FAIL}
    not_checked = {finding.id for finding in suggestion.findings if finding.status is Status.NOT_CHECKED}
    assert set(example.get("fails", ())) <= failed
    assert set(example.get("not_checked", ())) <= not_checked
    assert set(example.get("passed", ())) <= set(suggestion.checks_passed)
    if "lines" in example:
        assert {line.code: line.units for line in suggestion.lines} == example["lines"]
    for code, modifiers in example.get("modifiers", {}).items():
        (line,) = [line for line in suggestion.lines if line.code == code]
        assert [modifier.code for modifier in line.modifiers] == modifiers
    if "says" in example:
        told = {*example.get("fails", ()), *example.get("not_checked", ())}
        assert any(
            example["says"] in finding.message for finding in suggestion.findings if finding.id in told
        )
    for name in ("total_timed_minutes", "total_treatment_minutes"):
        if name in example:
            assert getattr(suggestion, name) == example[name]
