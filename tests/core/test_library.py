from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal

import pytest

from quarterhour.core.edit_store import StoreDamaged, file_name
from quarterhour.core.library import Library, MistakesFound, UnknownPolicy, check_folder
from quarterhour.core.policy import NotInForce
from quarterhour.core.visit import Setting

HEAD = """policy: ours
title: Our payer
sources:
  letter: {title: Letter, section: page 1, url: "https://payer.example/", read_on: 2025-03-01, verified: true}
terms:
"""


def written(folder, terms, *, name="ours", head=HEAD):
    (folder / f"{name}.yaml").write_text(head + terms, encoding="utf-8")
    return folder


def says(folder):
    return [f"{mistake.line}: {mistake.says}" for mistake in check_folder(folder)]


def test_the_shipped_library_has_the_five_policies_and_is_read_once():
    library = Library.load()
    assert library.ids == ("ama-midpoint", "cms-part-b", "hns", "optum-0048", "tufts-commercial-pt")
    assert Library.load() is library


def test_an_unknown_policy_is_refused_with_the_names_of_the_known():
    with pytest.raises(UnknownPolicy, match="No policy 'aetna'; known are ama-midpoint, cms-part-b"):
        Library.load().policy("aetna")


def test_an_old_date_still_gives_the_old_value(tmp_path):
    folder = written(
        tmp_path,
        "  minimum_minutes:\n"
        "    2020-01-01: {value: 8, source: letter}\n"
        "    2024-07-01: {value: 10, source: letter}\n",
    )
    policy = Library.load(folder).policy("ours")
    assert policy.term("minimum_minutes", date(2024, 6, 30)).value == 8
    assert policy.term("minimum_minutes", date(2024, 7, 1)).value == 10
    with pytest.raises(NotInForce, match="begins on 2020-01-01"):
        policy.term("minimum_minutes", date(2019, 12, 31))


def test_a_sites_policy_stands_beside_the_shipped_ones_and_is_marked(tmp_path):
    library = Library.load(
        written(tmp_path, "  unit_minutes:\n    2020-01-01: {value: 15, source: letter}\n")
    )
    assert library.policy("ours").site
    assert not library.policy("cms-part-b").site


def test_a_sites_policy_of_the_same_name_takes_the_place_of_the_shipped_one(tmp_path):
    own = HEAD.replace("policy: ours", "policy: hns")
    written(tmp_path, "  unit_minutes:\n    2020-01-01: {value: 15, source: letter}\n", name="hns", head=own)
    library = Library.load(tmp_path)
    assert library.policy("hns").site
    assert "therapies_in_initial_phase" not in library.policy("hns").terms
    assert "therapies_in_initial_phase" in Library.load().policy("hns").terms


def test_a_policy_that_is_like_another_gives_only_its_differences(tmp_path):
    own = HEAD.replace("\ntitle:", "\nlike: cms-part-b\ntitle:")
    written(tmp_path, "  minimum_minutes:\n    2024-01-01: {value: 10, source: letter}\n", head=own)
    policy = Library.load(tmp_path).policy("ours")
    assert policy.like == "cms-part-b"
    assert policy.term("unit_minutes", date(2025, 1, 1)).value == 15
    assert policy.term("minimum_minutes", date(2025, 1, 1)).value == 10
    with pytest.raises(NotInForce):  # its own line is the whole term: what held before is not assumed
        policy.term("minimum_minutes", date(2023, 12, 31))


def test_a_value_that_ended_is_kept_as_ended(tmp_path):
    folder = written(
        tmp_path,
        "  kx_amount:\n"
        "    2020-01-01: {value: 2080.00, source: letter}\n"
        "    2021-01-01: {value: null, source: letter}\n",
    )
    policy = Library.load(folder).policy("ours")
    assert policy.term("kx_amount", date(2020, 12, 31)).value == Decimal("2080.00")
    assert policy.term("kx_amount", date(2021, 1, 1)).value is None


def test_every_mistake_is_told_at_its_line(tmp_path):
    written(
        tmp_path,
        """  minumum_minutes:
    2025-01-01: {value: 8, source: letter}
  minimum_minutes:
    2025-01-01: {value: 8.5, source: letter}
    2024-01-01: {value: 8, source: phone}
    2024-02-30: {value: 8}
  unlisted_codes:
    2024-01-01: {value: [97039, "97139", "97139", "9"], source: letter}
  counting:
    2024-01-01: {value: by-the-hour, source: letter}
  unit_minutes: 15
  unit_minutes:
    2024-01-01: {value: true, source: letter}
""",
    )
    assert says(tmp_path) == [
        "6: 'minumum_minutes' is not a term; perhaps 'minimum_minutes'.",
        "9: '8.5' is not a whole number of 0 or more.",
        "10: the source 'phone' is not among the sources of this file.",
        "10: 2024-01-01 stands below 2025-01-01; dates ascend.",
        "11: '2024-02-30' is not a date such as 2025-04-01.",
        "11: 'source' is missing.",
        "13: '97139' stands twice in the list.",
        '13: the code 97039 needs quotes: "97039".',
        "13: '9' is not a code of five characters.",
        "15: 'by-the-hour' is none of total-timed-minutes, each-code-alone.",
        "16: 'unit_minutes' needs dated lines, each with a value and its source.",
        "17: 'unit_minutes' is given twice; first on line 16.",
    ]


def test_a_source_must_have_title_section_link_date_and_whether_it_was_verified(tmp_path):
    head = """policy: ours
title: Our payer
sources:
  letter: {title: Letter, url: page 1, read_on: lately}
terms:
"""
    written(tmp_path, "  unit_minutes:\n    2024-01-01: {value: 15, source: letter}\n", head=head)
    assert says(tmp_path) == [
        "4: 'section' is missing.",
        "4: 'verified' is missing.",
        "4: 'page 1' is not a link.",
        "4: 'lately' is not a date such as 2025-04-01.",
    ]


@pytest.mark.parametrize(
    ("like", "complaint"),
    [
        ("medicare", "like: there is no policy 'medicare'; known are ama-midpoint, cms-part-b"),
        ("optum-0048", "like: 'optum-0048' follows another policy itself; only one step is read."),
    ],
)
def test_a_policy_is_like_one_that_exists_and_follows_none(tmp_path, like, complaint):
    head = HEAD.replace("\ntitle:", f"\nlike: {like}\ntitle:")
    written(tmp_path, "  unit_minutes:\n    2024-01-01: {value: 15, source: letter}\n", head=head)
    (said,) = says(tmp_path)
    assert said.startswith(f"2: {complaint}")


def test_two_of_a_sites_policies_may_not_follow_each_other(tmp_path):
    line = "  unit_minutes:\n    2024-01-01: {value: 15, source: letter}\n"
    written(tmp_path, line, head=HEAD.replace("\ntitle:", "\nlike: theirs\ntitle:"))
    theirs = HEAD.replace("policy: ours", "policy: theirs").replace("\ntitle:", "\nlike: cms-part-b\ntitle:")
    written(tmp_path, line, name="theirs", head=theirs)
    assert says(tmp_path) == ["2: like: 'theirs' follows another policy itself; only one step is read."]


def test_a_file_that_is_not_yaml_is_told_where(tmp_path):
    (tmp_path / "ours.yaml").write_text("policy: ours\nterms: [1, 2\n", encoding="utf-8")
    (mistake,) = check_folder(tmp_path)
    assert (mistake.file, mistake.line) == (str(tmp_path / "ours.yaml"), 3)
    assert mistake.says.startswith("not YAML")


def test_an_empty_file_and_one_under_another_name_are_mistakes(tmp_path):
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    written(tmp_path, "  unit_minutes:\n    2024-01-01: {value: 15, source: letter}\n", name="other")
    assert says(tmp_path) == [
        "1: the file is empty.",
        "1: the policy 'ours' should stand in ours.yaml.",
    ]


def test_a_library_with_mistakes_is_refused_with_all_of_them(tmp_path):
    written(tmp_path, "  unit_minutes:\n    2024-01-01: {value: x, source: y}\n")
    with pytest.raises(MistakesFound) as refused:
        Library.load(tmp_path)
    assert len(refused.value.mistakes) == 2
    assert str(tmp_path / "ours.yaml:7") in str(refused.value)


def test_the_hash_changes_with_a_value_and_only_then(tmp_path):
    line = "  unit_minutes:\n    2024-01-01: {{value: {}, source: letter}}\n"
    first = Library.load(written(tmp_path, line.format(15))).hash_of("ours")
    assert Library.load(written(tmp_path, line.format(15))).hash_of("ours") == first
    assert Library.load(written(tmp_path, line.format(30))).hash_of("ours") != first
    assert Library.load(tmp_path).hash_of("hns") == Library.load().hash_of("hns")


def test_the_hash_is_the_same_in_another_process():
    # Sets come in another order where strings hash otherwise.
    program = "from quarterhour.core.library import Library; print(Library.load().hash_of('hns'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {Library.load().hash_of("hns")}


def test_a_store_of_edits_that_cannot_be_read_is_refused_by_name(tmp_path):
    name = file_name("pairs", Setting.PRACTITIONER, date(2024, 7, 1))
    (tmp_path / name).write_bytes(b"this is no database, but it is long enough to look at" * 20)
    with pytest.raises(StoreDamaged, match=name):
        Library.load(edits_folder=tmp_path)


def test_a_file_that_is_not_utf_8_is_told_where(tmp_path):
    (tmp_path / "ours.yaml").write_bytes(b"policy: ours\ntitle: Caf\xe9\n")
    assert says(tmp_path) == ["2: not UTF-8."]


def test_one_policy_in_two_files_is_a_mistake_of_the_second(tmp_path):
    written(tmp_path, "  unit_minutes:\n    2024-01-01: {value: 15, source: letter}\n")
    (tmp_path / "ours.yml").write_bytes((tmp_path / "ours.yaml").read_bytes())
    assert says(tmp_path) == [f"1: the policy 'ours' stands in {tmp_path / 'ours.yaml'} too."]


@pytest.mark.parametrize("amount", ["2330.001", "-1", "1e999", ".inf", '"2330.00"', "true"])
def test_what_is_no_amount_in_dollars_is_refused(tmp_path, amount):
    written(tmp_path, f"  kx_amount:\n    2024-01-01: {{value: {amount}, source: letter}}\n")
    (said,) = says(tmp_path)
    assert said.endswith("is not an amount in dollars.")


@pytest.mark.parametrize("amount", ["2330", "2330.5", "2330.00"])
def test_an_amount_is_exact(tmp_path, amount):
    written(tmp_path, f"  kx_amount:\n    2024-01-01: {{value: {amount}, source: letter}}\n")
    assert Library.load(tmp_path).policy("ours").term("kx_amount", date(2024, 1, 1)).value == Decimal(amount)


def test_a_record_lacks_nothing_and_has_nothing_more(tmp_path):
    written(
        tmp_path,
        """  timed_unit_cap:
    2024-01-01:
      value: {units: 4, counted_per: [tin, day], list: ["97110"]}
      source: letter
  documentation_elements:
    2024-01-01: {value: [type], source: letter}
  scope:
    2024-01-01: {value: {disciplines: PT, settings: [practitioner, beach]}, source: letter}
""",
    )
    assert says(tmp_path) == [
        "8: 'codes' is missing.",
        "8: 'list' is not a field here; known are units, codes, counted_per.",
        "8: 'day' is none of tin, specialty, date_of_service.",
        "11: a list should have the fields always, timed.",
        "13: 'PT' is not a list.",
        "13: 'beach' is none of practitioner, outpatient-hospital.",
    ]


def test_a_term_without_value_and_source_is_told(tmp_path):
    written(tmp_path, "  unit_minutes:\n    2024-01-01: 15\n  minimum_minutes:\n")
    assert says(tmp_path) == [
        "7: 'unit_minutes' needs a value and its source.",
        "8: 'minimum_minutes' needs dated lines, each with a value and its source.",
    ]
