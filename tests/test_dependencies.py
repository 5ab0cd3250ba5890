"""The bill of materials is whole, and the audit of dependencies never says more than it knows."""

import json
import re
import subprocess
import sys
from datetime import date
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def judged():
    spec = spec_from_file_location("audit_dependencies", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.judged


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
