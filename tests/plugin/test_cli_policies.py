from __future__ import annotations

from datetime import date

import pytest
from click.testing import CliRunner

from quarterhour.plugin.cli_policies import ago, policies

OURS = """policy: ours
title: Our payer
like: cms-part-b
sources:
  letter: {title: Letter, section: page 1, url: "https://a.example/", read_on: 2025-12-21, verified: false}
terms:
  minimum_minutes:
    2024-01-01: {value: 10, source: letter}
"""


def run(*arguments):
    return CliRunner().invoke(policies, [str(argument) for argument in arguments])


def test_every_policy_is_listed_with_its_title():
    lines = run("list").output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "ama-midpoint",
        "cms-part-b",
        "hns",
        "optum-0048",
        "tufts-commercial-pt",
    ]
    assert "Optum 0048, Timed Therapeutic Intervention" in lines[3]


def test_a_sites_own_policy_is_listed_as_such(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS, encoding="utf-8")
    assert "ours                    Our payer  (the site's own)" in run("list", "--site", tmp_path).output


def test_a_term_is_shown_with_value_date_source_and_how_long_ago_it_was_read(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS, encoding="utf-8")
    shown = run("show", "ours", "--on", "2025-05-01", "--site", tmp_path, "--today", "2026-11-21").output
    assert shown.startswith(
        "ours: Our payer (the site's own), like cms-part-b where it says nothing else\nOn 2025-05-01:\n"
    )
    assert (
        "  minimum_minutes: 10\n"
        "    since 2024-01-01; Letter, page 1; read 11 months ago; NOT VERIFIED\n"
        "    https://a.example/\n"
    ) in shown


def test_what_is_not_in_force_on_the_date_is_named_with_when_it_begins_or_ended():
    before = run("show", "optum-0048", "--on", "2018-03-31").output
    assert "timed_unit_cap (begins 2018-04-01)" in before
    after = run("show", "optum-0048", "--on", "2018-04-01").output
    assert "timed_unit_cap: units 4; counted_per tin, specialty, date_of_service; codes 97032, 97033" in after
    assert "kx_amount (ended 2018-04-01)" in after


def test_without_a_date_today_is_shown():
    assert "On 2026-11-21:" in run("show", "hns", "--today", "2026-11-21").output


def test_an_unknown_policy_is_refused_with_the_known_ones():
    result = run("show", "aetna", "--on", "2025-05-01")
    assert result.exit_code == 1
    assert "No policy 'aetna'; known are ama-midpoint" in result.output


def test_checking_a_folder_without_mistakes_says_so(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS, encoding="utf-8")
    result = run("check", tmp_path)
    assert (result.exit_code, result.output) == (0, "1 policy file without a mistake.\n")


def test_checking_tells_every_mistake_of_every_file_at_its_line(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS.replace("value: 10", "value: ten"), encoding="utf-8")
    (tmp_path / "theirs.yaml").write_text(
        OURS.replace("policy: ours", "policy: theirs").replace("letter}", "phone}")
    )
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{tmp_path / 'ours.yaml'}:8: 'ten' is not a whole number of 0 or more.",
        f"{tmp_path / 'theirs.yaml'}:8: the source 'phone' is not among the sources of this file.",
    ]


def test_a_library_with_mistakes_is_not_shown_and_the_mistakes_are(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS.replace("value: 10", "value: ten"), encoding="utf-8")
    result = run("list", "--site", tmp_path)
    assert result.exit_code == 1
    assert "ours.yaml:8: 'ten' is not a whole number" in result.output


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (date(2026, 11, 21), "today"),
        (date(2026, 11, 20), "1 day ago"),
        (date(2026, 10, 22), "30 days ago"),
        (date(2026, 10, 21), "1 month ago"),
        (date(2025, 11, 22), "11 months ago"),
        (date(2025, 11, 21), "1 year ago"),
        (date(2024, 10, 1), "2 years ago"),
        (date(2026, 11, 22), "on 2026-11-22, which is yet to come"),
    ],
)
def test_how_long_ago_is_told_in_the_largest_whole_unit(then, words):
    assert ago(then, date(2026, 11, 21)) == words
