"""`quarterhour calculate` and `quarterhour schema` as a person or a script calls them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from quarterhour.plugin.cli_calculate import calculate, schema

VISIT = {
    "id": "a",
    "policy": "cms-part-b",
    "date_of_service": "2026-03-02",
    "discipline": "PT",
    "services": [{"code": "97110", "minutes": 30}],
}
GOOD = json.dumps(VISIT) + "\n"
BAD = json.dumps({**VISIT, "id": "b", "colour": "red"}) + "\n"


def run(*args, given=GOOD):
    return CliRunner().invoke(calculate, args, input=given)


def test_standard_input_gives_one_suggestion_a_line_and_status_0():
    result = run(given=GOOD + GOOD)
    assert result.exit_code == 0
    first, second = map(json.loads, result.output.splitlines())
    assert first == second
    assert first["lines"][0]["units"] == 2


def test_a_file_may_be_given(tmp_path):
    file = tmp_path / "visits.ndjson"
    file.write_text(GOOD)
    result = run(str(file))
    assert (result.exit_code, json.loads(result.output)["id"]) == (0, "a")


def test_a_refused_line_stands_in_its_place_and_the_status_is_1():
    result = run(given=GOOD + BAD + GOOD)
    assert result.exit_code == 1
    ids = [(answer["id"], "error" in answer) for answer in map(json.loads, result.output.splitlines())]
    assert ids == [("a", False), ("b", True), ("a", False)]


def test_nothing_in_gives_nothing_out():
    result = run(given="")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    ("form", "first"),
    [("text", "Visit a, PT, 2026-03-02"), ("csv", "id,policy,date_of_service"), ("json", '{"id":"a"')],
)
def test_the_form_can_be_chosen(form, first):
    result = run("--format", form)
    assert result.exit_code == 0
    assert result.output.startswith(first)


def test_other_policies_may_be_shown_beside_it():
    result = run("--also", "ama-midpoint", "--also", "optum-0048")
    assert [other["policy"] for other in json.loads(result.output)["also"]] == ["ama-midpoint", "optum-0048"]


def test_an_unknown_other_policy_is_told_before_anything_is_calculated():
    result = run("--also", "nobody")
    assert result.exit_code == 1
    assert "No policy 'nobody'" in result.output


def test_a_sites_own_policies_are_read_and_their_mistakes_told(tmp_path):
    (tmp_path / "ours.yaml").write_text(
        "policy: ours\ntitle: Ours\nlike: ama-midpoint\n"
        "sources:\n  contract: {title: Contract, section: '1', url: 'https://example.org/contract',"
        " read_on: 2026-11-01, verified: true}\n"
        "terms:\n  minimum_minutes:\n    2000-04-01: {value: 10, source: contract}\n"
    )
    given = json.dumps({**VISIT, "policy": "ours", "services": [{"code": "97110", "minutes": 9}]})
    result = run("--policies", str(tmp_path), given=given)
    assert (result.exit_code, json.loads(result.output)["total_timed_units"]) == (0, 0)
    (tmp_path / "ours.yaml").write_text("policy: ours\n")
    result = run("--policies", str(tmp_path), given=given)
    assert result.exit_code == 1
    assert "ours.yaml:1" in result.output


@pytest.mark.parametrize("document", ["visit", "suggestion"])
def test_the_schemas_are_printed(document):
    result = CliRunner().invoke(schema, [document])
    assert result.exit_code == 0
    assert json.loads(result.output)["$schema"].endswith("2020-12/schema")
