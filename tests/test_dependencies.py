"""The bill of materials is whole, and the audit of dependencies never says more than it knows."""

import json
import re
import subprocess
import sys
import tomllib
from datetime import date
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import requests
import responses

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "audit_dependencies.py"
TODAY = date(2026, 11, 22)
PINNED = {
    name.lower(): version
    for name, version in re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s\\;]+)",
        (ROOT / "requirements.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def script(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def judged():
    return script(SCRIPT).judged


def checked(name="flask", *findings):
    return {"name": name, "version": "1.0", "vulns": list(findings)}


FINDING = {"id": "PYSEC-1", "aliases": ["GHSA-1"], "fix_versions": ["1.1"], "description": "..."}
SKIPPED = {"name": "alembic", "skip_reason": "Dependency not found on PyPI"}


def answer(**changes):
    return {"id": "GHSA-1", "package": "flask", "because": "Not used.", "until": TODAY} | changes


@pytest.mark.parametrize(
    ("dependencies", "answers", "status", "says"),
    [
        ([checked()], [], 0, "1 of 1 packages were checked."),
        ([checked("flask", FINDING)], [], 1, "FOUND: PYSEC-1 of flask 1.0 (mended in 1.1). Upgrade"),
        ([checked("flask", FINDING)], [answer()], 0, "answered until 2026-11-22: PYSEC-1 of flask 1.0"),
        (
            [checked("flask", FINDING)],
            [answer(until=date(2026, 11, 21))],
            1,
            "Its answer held until 2026-11-21",
        ),
        ([checked("flask", FINDING)], [answer(package="jinja2")], 1, "FOUND: PYSEC-1 of flask"),
        ([checked()], [answer()], 0, "The answer to GHSA-1 of flask is no longer needed"),
        ([checked(), SKIPPED], [], 2, "NOT CHECKED: 1 packages, of which nothing is known: alembic."),
        ([SKIPPED], [], 2, "0 of 1 packages were checked."),
        ([checked("flask", FINDING), SKIPPED], [], 1, "NOT CHECKED: 1 packages"),
        ([], [], 2, "NOT CHECKED: pip-audit gave no report"),
    ],
)
def test_the_audit_says_what_it_knows_and_what_it_could_not_learn(
    judged, dependencies, answers, status, says
):
    lines, given = judged({"dependencies": dependencies}, answers, TODAY)
    assert given == status
    assert says in "\n".join(lines)


def looked_up(**changes):
    known = {"package": "alembic", "version": "1.0", "on": TODAY, "until": TODAY, "because": "No entry."}
    return known | changes


@pytest.mark.parametrize(
    ("by_hand", "status", "says"),
    [
        ([looked_up()], 0, "looked up by hand on 2026-11-22, holds until 2026-11-22: alembic 1.0. No entry."),
        ([looked_up(until=date(2026, 11, 21))], 2, "NOT CHECKED: 1 packages"),
        ([looked_up(version="1.0.1")], 2, "NOT CHECKED: 1 packages"),
        ([looked_up(package="flask")], 2, "NOT CHECKED: 1 packages"),
    ],
)
def test_what_a_person_looked_up_holds_for_its_version_and_until_its_day(judged, by_hand, status, says):
    skipped = {"name": "alembic", "skip_reason": "Dependency not found on PyPI: alembic (1.0)"}
    lines, given = judged({"dependencies": [checked(), skipped]}, [], TODAY, by_hand)
    assert given == status
    assert says in "\n".join(lines)


def test_what_was_looked_up_by_hand_is_what_is_pinned():
    kept = tomllib.loads((ROOT / "docs" / "audit-answers.toml").read_text(encoding="utf-8"))
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for one in kept["looked_up"]:
        assert re.search(rf"^{one['package']}=={re.escape(one['version'])} ", pinned, re.MULTILINE), one


INDEX = "https://index.example/pypi"


@responses.activate
@pytest.mark.parametrize(("newest", "status"), [("2.0", 200), ("2.1", 404)])
def test_a_project_answers_for_its_newest_version_and_for_no_other(newest, status):
    responses.get(f"{INDEX}/flask/2.0/json", status=404)
    responses.get(f"{INDEX}/flask/json", json={"info": {"version": newest}, "vulnerabilities": []})
    session = script(ROOT / "docs" / "pip_audit_latest.py").with_newest(requests.Session())
    assert session.get(f"{INDEX}/flask/2.0/json").status_code == status


@responses.activate
def test_a_project_that_is_not_there_is_asked_for_once():
    responses.get(f"{INDEX}/flask/2.0/json", status=404)
    responses.get(f"{INDEX}/flask/json", status=404)
    session = script(ROOT / "docs" / "pip_audit_latest.py").with_newest(requests.Session())
    assert session.get(f"{INDEX}/flask/2.0/json").status_code == 404
    assert len(responses.calls) == 2


@pytest.mark.parametrize(
    ("report", "status", "says"),
    [
        (json.dumps({"dependencies": [SKIPPED]}), 2, "NOT CHECKED"),
        ("Traceback (most recent call last):", 2, "pip-audit gave no report"),
        ("", 2, "pip-audit gave no report"),
        (json.dumps({"dependencies": [checked("no-such-package")]}), 0, "1 of 1"),
    ],
)
def test_the_command_ends_as_it_judged_with_the_answers_that_are_kept(report, status, says):
    run = subprocess.run([sys.executable, SCRIPT], input=report, capture_output=True, text=True, check=False)
    assert (run.returncode, says in run.stdout) == (status, True), run.stdout + run.stderr


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    """The bill of materials, made by the very command of the Makefile."""
    made = tmp_path_factory.mktemp("sbom") / "sbom.json"
    recipe = re.search(r"cyclonedx-py (.+?) -o ", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), *recipe.split(), "-o", str(made)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads(made.read_text(encoding="utf-8"))


def test_the_bill_of_materials_names_everything_that_is_pinned_and_nothing_else(bill):
    named = {part["name"].lower(): part["version"] for part in bill["components"]}
    assert named == PINNED
    assert len(named) > 20


def test_the_bill_of_materials_can_be_looked_up_by_others(bill):
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "quarterhour"
    for part in bill["components"]:
        assert part["purl"].startswith(f"pkg:pypi/{part['name'].lower()}@{part['version']}"), part["name"]


def test_the_same_tree_gives_the_same_bill(bill):
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]
