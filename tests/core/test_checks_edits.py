"""CMS's edits on a visit, both checks in their three outcomes."""

from __future__ import annotations

import dataclasses
import json
from datetime import date

import pytest

from quarterhour.core import edit_store
from quarterhour.core.edits import Edits, PairEdit, UnitEdit
from quarterhour.core.findings import Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.suggestion import suggest
from quarterhour.core.visit import Setting
from quarterhour.core.visit_json import read_visit

LIBRARY = Library.load()
FAIL, NOT_CHECKED = Status.FAIL, Status.NOT_CHECKED
TODAY = date(2026, 11, 21)


def suggested(minutes, *, on="2024-07-01", library=LIBRARY, policy="cms-part-b", **facts):
    services = [
        {"code": code} if given is None else {"code": code, "minutes": given}
        for code, given in minutes.items()
    ]
    document = {"policy": policy, "date_of_service": on, "discipline": "PT", "services": services, **facts}
    visit, policy_id = read_visit(json.dumps(document).encode())
    return suggest(visit, library.policy(policy_id), library)


def outcome(suggestion, check):
    found = [(finding.status, finding.message) for finding in suggestion.findings if finding.id == check]
    return found or ("passed" if check in suggestion.checks_passed else "not asked")


def statuses(suggestion, check):
    found = outcome(suggestion, check)
    return found if isinstance(found, str) else [status for status, _ in found]


def imported(folder, *pairs, units=(), quarter=date(2026, 10, 1), setting=Setting.PRACTITIONER, part=0):
    """A library with a quarter of its own."""
    path = folder / edit_store.file_name("pairs", setting, quarter)
    with edit_store.writing(path) as store:
        edit_store.put_pairs(store, pairs, part, "pairs.txt", TODAY)
    edit_store.finish(path)
    if units:
        path = folder / edit_store.file_name("units", setting, quarter)
        with edit_store.writing(path) as store:
            edit_store.put_units(store, units, "units.csv", TODAY)
        edit_store.finish(path)
    return Library.load(edits_folder=folder)


GROUP = {"97150": None, "97110": 15}


# ---- ncci-edit -----------------------------------------------------------------------------------


def test_a_pair_with_indicator_1_is_a_question_with_the_pair_and_the_rule():
    assert outcome(suggested(GROUP), "ncci-edit") == [
        (
            FAIL,
            (
                "97150 and 97110 are an NCCI pair: 97110 is not paid beside 97150 unless they were separate"
                " (for timed therapy, in distinct 15-minute blocks). Were they? Then 59, or XE, XS, XP or XU,"
                " goes on 97110 (indicator 1; table of 2024-07-01, the quarter of this date of service)."
            ),
        )
    ]


def test_no_modifier_is_put_on_by_itself():
    for line in suggested(GROUP).lines:
        assert not {modifier.code for modifier in line.modifiers} & {"59", "XE", "XS", "XP", "XU"}


@pytest.mark.parametrize("modifier", ["59", "XE", "XS", "XP", "XU"])
def test_a_modifier_that_the_clinician_put_on_answers_the_question(modifier):
    assert outcome(suggested(GROUP, modifiers={"97110": [modifier]}), "ncci-edit") == "passed"


def test_another_modifier_answers_nothing():
    assert statuses(suggested(GROUP, modifiers={"97110": ["GP"]}), "ncci-edit") == [FAIL]


def test_a_pair_with_indicator_0_is_critical_and_no_modifier_helps():
    suggestion = suggested({"97140": 15, "97124": 15}, modifiers={"97124": ["59"]})
    ((status, message),) = outcome(suggestion, "ncci-edit")
    assert status is FAIL
    assert "97124 is not paid beside 97140, and no modifier changes that (indicator 0" in message
    (finding,) = [f for f in suggestion.findings if f.id == "ncci-edit"]
    assert (finding.severity, finding.codes) == (Severity.CRITICAL, ("97140", "97124"))


def test_a_pair_of_which_the_second_column_is_not_known_names_both():
    ((_, message),) = outcome(suggested({"97164": None, "97124": 15}), "ncci-edit")
    assert "one of 97164 and 97124 is not paid" in message
    assert "goes on 97164 or 97124" in message


def test_codes_that_are_no_pair_pass_and_so_does_one_code():
    assert outcome(suggested({"97110": 15, "97140": 15}), "ncci-edit") == "passed"
    assert outcome(suggested({"97605": None}), "ncci-edit") == "passed"


def test_a_code_without_a_unit_is_not_billed_and_makes_no_pair():
    assert outcome(suggested({"97140": 15, "97124": 5}), "ncci-edit") == "passed"


def test_a_code_that_may_get_the_tied_unit_does():
    suggestion = suggested({"97140": 7, "97124": 7})
    assert suggestion.ties
    assert statuses(suggestion, "ncci-edit") == [FAIL]


def test_pairs_cross_the_specialties_of_one_tax_id_and_no_further():
    provider = {"tin": "T1", "specialty": "PT"}
    charged = {"code": "97150", "units": 1, "specialty": "OT"}
    same = suggested({"97110": 15}, provider=provider, already_charged=[{**charged, "tin": "T1"}])
    assert statuses(same, "ncci-edit") == [FAIL]
    other = suggested({"97110": 15}, provider=provider, already_charged=[{**charged, "tin": "T2"}])
    assert outcome(other, "ncci-edit") == "passed"


def test_a_charge_under_a_tax_id_that_the_visit_cannot_compare_is_told_and_not_judged():
    charged = [{"code": "97150", "units": 1, "tin": "T1", "specialty": "OT"}]
    told = (
        "Whether 97150, charged that day under a tax id, is of this one is not known: the visit names none."
    )
    visit = suggested({"97110": 15}, provider={"specialty": "PT"}, already_charged=charged)
    assert outcome(visit, "ncci-edit") == [(NOT_CHECKED, told)]
    again = [*charged, {**charged[0], "tin": "T2"}]  # a code is named once, however often it was charged
    visit = suggested({"97110": 15}, provider={"specialty": "PT"}, already_charged=again)
    assert outcome(visit, "ncci-edit") == [(NOT_CHECKED, told)]
    known = suggested({"97110": 15}, provider={"tin": "T2", "specialty": "PT"}, already_charged=charged)
    assert outcome(known, "ncci-edit") == "passed"
    two = [*charged, {**charged[0], "code": "97535"}]
    alone = suggested({"97110": 3}, provider={"specialty": "PT"}, already_charged=two)
    assert outcome(alone, "ncci-edit") == "passed"  # nothing of this visit is billed beside them
    beside = suggested({"97110": 15}, provider={"specialty": "PT"}, already_charged=two)
    (finding,) = [finding for finding in beside.findings if finding.id == "ncci-edit"]
    assert finding.message == told.replace("97150", "97150, 97535")
    assert finding.codes == ("97150", "97535")
    assert finding.source is not None


def test_the_same_code_under_a_tax_id_to_compare_makes_no_pair_but_may_make_too_many_units():
    charged = [{"code": "97110", "units": 6, "tin": "T1", "specialty": "OT"}]
    visit = suggested({"97110": 15}, provider={"specialty": "PT"}, already_charged=charged)
    assert outcome(visit, "ncci-edit") == "passed"
    told = (
        "Whether 97110, charged that day under a tax id, is of this one is not known: the visit names none."
    )
    assert outcome(visit, "mue") == [(NOT_CHECKED, told)]
    unknown = suggested({"97110": None}, provider={"specialty": "PT"}, already_charged=charged)
    assert (NOT_CHECKED, told) in outcome(unknown, "mue")
    other = suggested(
        {"97110": 15}, provider={"specialty": "PT"}, already_charged=[{**charged[0], "code": "97112"}]
    )
    assert outcome(other, "mue") == "passed"
    none = suggested(
        {"97110": 15}, provider={"specialty": "PT"}, already_charged=[{**charged[0], "units": 0}]
    )
    assert outcome(none, "mue") == "passed"


def test_a_charge_of_no_units_makes_no_pair():
    charged = [{"code": "97150", "units": 0, "tin": "T1", "specialty": "OT"}]
    provider = {"tin": "T1", "specialty": "PT"}
    visit = suggested({"97110": 15}, provider=provider, already_charged=charged)
    assert outcome(visit, "ncci-edit") == "passed"


@pytest.mark.parametrize(
    ("setting", "says"), [("practitioner", "indicator 0"), ("outpatient-hospital", "indicator 1")]
)
def test_a_pair_may_differ_by_setting(setting, says):
    ((status, message),) = outcome(suggested({"97161": None, "97750": 15}, setting=setting), "ncci-edit")
    assert status is FAIL
    assert says in message


def test_a_pair_read_for_practitioners_alone_is_not_judged_for_a_hospital():
    assert outcome(suggested(GROUP, setting="outpatient-hospital"), "ncci-edit") == [
        (
            NOT_CHECKED,
            "97150 with 97110 is a pair for practitioners; the outpatient-hospital file was not read.",
        )
    ]


def test_a_code_outside_the_small_table_is_not_judged():
    assert outcome(suggested({"97110": 15, "97605": None}), "ncci-edit") == [
        (NOT_CHECKED, "The pairs of 97605 are not in the small table that ships of 2024-07-01.")
    ]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("2019-12-31", [FAIL, NOT_CHECKED]),  # the pair was in force; others of that day are not known
        ("2020-01-01", [NOT_CHECKED]),  # most therapy pairs were suspended
        ("2020-09-30", [NOT_CHECKED]),
        ("2020-10-01", "passed"),  # put back and taken back from that very day (indicator 9)
        ("2025-05-01", "passed"),
    ],
)
def test_activities_and_gait_through_the_years(on, expected):
    assert statuses(suggested({"97530": 15, "97116": 15}, on=on), "ncci-edit") == expected


@pytest.mark.parametrize(("on", "expected"), [("2021-12-31", [FAIL]), ("2022-01-01", "passed")])
def test_activities_and_self_care_were_a_pair_until_the_end_of_2021(on, expected):
    assert statuses(suggested({"97530": 15, "97535": 15}, on=on), "ncci-edit") == expected


@pytest.mark.parametrize(
    ("on", "age"),
    [
        ("2024-09-30", "the quarter of this date of service"),
        ("2024-10-01", "3 months before this date of service"),
        ("2026-11-21", "28 months before this date of service"),
    ],
)
def test_a_finding_says_how_old_the_table_is(on, age):
    ((_, message),) = outcome(suggested(GROUP, on=on), "ncci-edit")
    assert f"table of 2024-07-01, {age}" in message


def test_an_imported_quarter_decides_where_there_is_one(tmp_path):
    pair = PairEdit("97110", "97140", 1, date(2026, 10, 1), None)
    library = imported(tmp_path, pair)
    new = suggested({"97110": 15, "97140": 15}, on="2026-10-01", library=library)
    assert statuses(new, "ncci-edit") == [FAIL]
    # The pair of the small table is not in CMS's file, so it is no pair.
    assert outcome(suggested(GROUP, on="2026-10-01", library=library), "ncci-edit") == "passed"
    # The file keeps the dates of its pairs, so it speaks for the day before as well.
    old = suggested({"97110": 15, "97140": 15}, on="2026-09-30", library=library)
    assert outcome(old, "ncci-edit") == "passed"


def test_an_imported_quarter_of_one_setting_says_nothing_of_the_other(tmp_path):
    library = imported(tmp_path, PairEdit("97110", "97140", 1, date(2026, 10, 1), None))
    hospital = suggested(
        {"97110": 15, "97140": 15}, on="2026-10-01", library=library, setting="outpatient-hospital"
    )
    assert outcome(hospital, "ncci-edit") == "passed"


def test_a_part_that_was_not_imported_leaves_its_codes_open(tmp_path):
    library = imported(tmp_path, PairEdit("97110", "97140", 1, date(2026, 10, 1), None), part=2)
    assert outcome(
        suggested({"97150": None, "97110": 15}, on="2026-10-01", library=library), "ncci-edit"
    ) == [(NOT_CHECKED, "The pairs of 97150 are not in the imported table of 2026-10-01.")]


def test_a_policy_that_does_not_follow_ncci_does_not_ask():
    assert outcome(suggested(GROUP, policy="hns"), "ncci-edit") == "not asked"
    assert outcome(suggested(GROUP, policy="hns"), "mue") == "not asked"


def without_edits():
    return dataclasses.replace(LIBRARY, edits=Edits({}, {}))


def test_without_any_table_no_pair_is_judged():
    suggestion = suggested(GROUP, library=without_edits())
    (finding,) = [f for f in suggestion.findings if f.id == "ncci-edit"]
    assert (finding.status, finding.message) == (
        NOT_CHECKED,
        "There is no table of pairs for practitioner.",
    )
    assert (finding.codes, finding.source) == (("97150", "97110"), None)


def test_every_code_and_every_pair_that_is_not_known_is_named():
    assert outcome(suggested({"97605": None, "97606": None}), "ncci-edit") == [
        (NOT_CHECKED, "The pairs of 97605, 97606 are not in the small table that ships of 2024-07-01.")
    ]
    services = {"97150": None, "97110": 15, "97530": 15}
    ((_, message),) = outcome(suggested(services, setting="outpatient-hospital"), "ncci-edit")
    assert message.startswith("97150 with 97110, 97150 with 97530 is a pair for practitioners;")


def test_a_tie_of_a_pair_is_one_question():
    suggestion = suggested({"97140": 22, "97124": 22})
    assert suggestion.ties
    assert statuses(suggestion, "ncci-edit") == [FAIL]


# ---- mue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "minutes", "expected"),
    [
        ("practitioner", 97, "passed"),  # 6 units of 6
        ("practitioner", 98, [FAIL]),
        ("outpatient-hospital", 127, "passed"),  # 8 units of 8
        ("outpatient-hospital", 128, [FAIL]),
    ],
)
def test_units_up_to_the_value_of_the_setting_pass(setting, minutes, expected):
    assert statuses(suggested({"97110": minutes}, setting=setting), "mue") == expected


def test_what_is_above_is_named_and_kept():
    suggestion = suggested({"97112": 75})
    assert outcome(suggestion, "mue") == [
        (
            FAIL,
            (
                "5 units of 97112 on 2024-07-01; more than 4 are medically unlikely for practitioner (table"
                " of 2024-07-01, the quarter of this date of service). More can be paid if the record shows"
                " why (indicator 3)."
            ),
        )
    ]
    assert [line.units for line in suggestion.lines] == [5]


def test_a_limit_by_day_has_no_exception():
    suggestion = suggested({"97161": None}, already_charged=[{"code": "97161", "units": 2}])
    ((status, message),) = outcome(suggestion, "mue")
    assert status is FAIL
    assert "has no exception (indicator 2)" in message


def test_the_lines_of_therapist_and_assistant_are_summed():
    document = {"code": "97112", "minutes": 45, "assistant_minutes": 30}
    visit, policy = read_visit(
        json.dumps(
            {
                "policy": "cms-part-b",
                "date_of_service": "2024-07-01",
                "discipline": "PT",
                "services": [document],
            }
        ).encode()
    )
    suggestion = suggest(visit, LIBRARY.policy(policy), LIBRARY)
    assert len(suggestion.lines) == 2
    ((_, message),) = outcome(suggestion, "mue")
    assert message.startswith("5 units of 97112")


def test_units_of_another_specialty_of_the_tax_id_are_summed():
    facts = {
        "provider": {"tin": "T1", "specialty": "PT"},
        "already_charged": [{"code": "97110", "units": 3, "tin": "T1", "specialty": "OT"}],
    }
    assert outcome(suggested({"97110": 45}, **facts), "mue") == "passed"
    assert statuses(suggested({"97110": 60}, **facts), "mue") == [FAIL]


@pytest.mark.parametrize(
    "charge",
    [
        {"specialty": "OT"},  # no tax id told: the visit's own
        {"tin": "T1", "specialty": "OT"},
    ],
)
def test_units_of_another_specialty_are_added_to_those_of_the_day(charge):
    facts = {
        "provider": {"tin": "T1", "specialty": "PT"},
        "already_charged": [{"code": "97110", "units": 3, **charge}],
    }
    assert statuses(suggested({"97110": 60}, **facts), "mue") == [FAIL]


@pytest.mark.parametrize(
    "charge",
    [
        {},
        {"tin": "T1"},
        {"specialty": "PT"},
        {"tin": "T1", "specialty": "PT"},  # this group's own are among those of the day
        {"tin": "T2", "specialty": "OT"},  # another tax id's are none of this one's
    ],
)
def test_all_other_charges_are_not_added_to_those_of_the_day(charge):
    facts = {
        "provider": {"tin": "T1", "specialty": "PT"},
        "already_charged": [{"code": "97110", "units": 3, **charge}],
    }
    assert outcome(suggested({"97110": 60}, **facts), "mue") == "passed"


def test_a_visit_without_a_specialty_of_its_own_knows_no_other():
    facts = {
        "provider": {"tin": "T1"},
        "already_charged": [{"code": "97110", "units": 3, "tin": "T1", "specialty": "OT"}],
    }
    assert outcome(suggested({"97110": 60}, **facts), "mue") == "passed"


def test_an_own_charge_of_no_units_makes_no_pair_and_gives_no_other_code_a_unit():
    none = suggested({"97110": 15}, already_charged=[{"code": "97150", "units": 0}])
    assert outcome(none, "ncci-edit") == "passed"
    # 97124 has 5 minutes and no unit; that 97140 was charged gives it none.
    short = suggested({"97140": 15, "97124": 5}, already_charged=[{"code": "97140", "units": 1}])
    assert outcome(short, "ncci-edit") == "passed"


def test_another_specialtys_code_is_held_to_its_own_value():
    provider = {"tin": "T1", "specialty": "PT"}
    charged = [{"code": "97150", "units": 1, "tin": "T1", "specialty": "OT"}]
    assert outcome(suggested({"97140": 15}, provider=provider, already_charged=charged), "mue") == "passed"


def test_a_bundled_code_has_a_value_of_none():
    ((_, message),) = outcome(suggested({"97010": None}), "mue")
    assert "1 unit of 97010" in message
    assert "more than 0" in message


def test_a_tied_unit_that_reaches_the_value_passes():
    # 97034 has 2: 22 and 22 minutes are a unit each, and a third to either.
    suggestion = suggested({"97034": 22, "97110": 22})
    assert suggestion.ties
    assert outcome(suggestion, "mue") == "passed"


def test_a_tied_unit_that_would_exceed_is_not_judged():
    # 97034 has 2: 37 minutes are 2 units and 7 over, which tie with the 7 of 97110.
    suggestion = suggested({"97034": 37, "97110": 7})
    assert suggestion.ties
    assert outcome(suggestion, "mue") == [
        (NOT_CHECKED, "97034 would have 3 units of 2 if the tie gives it one.")
    ]


def test_unknown_minutes_are_not_judged():
    assert outcome(suggested({"97110": None}), "mue") == [
        (NOT_CHECKED, "The minutes of 97110 are not known.")
    ]


def test_a_code_outside_the_small_table_has_no_known_value():
    assert outcome(suggested({"97605": None}), "mue") == [
        (NOT_CHECKED, "97605 is not in the small table of 2024-07-01.")
    ]


def test_a_value_read_for_practitioners_alone_is_not_judged_for_a_hospital():
    assert outcome(suggested({"92507": None}, discipline="SLP"), "mue") == "passed"
    hospital = suggested({"92507": None}, discipline="SLP", setting="outpatient-hospital")
    assert statuses(hospital, "mue") == [NOT_CHECKED]


def test_values_keep_no_history_so_an_earlier_date_is_not_judged():
    assert outcome(suggested({"97110": 15}, on="2024-06-30"), "mue") == [
        (NOT_CHECKED, "There is no table of medically unlikely edits for practitioner on 2024-06-30.")
    ]


def test_an_imported_table_is_complete_a_code_without_a_value_has_none(tmp_path):
    pair = PairEdit("97110", "97140", 1, date(2026, 10, 1), None)
    library = imported(tmp_path, pair, units=[UnitEdit("97110", 2, 3)])
    assert outcome(suggested({"97605": None}, on="2026-10-01", library=library), "mue") == "passed"
    assert statuses(suggested({"97110": 45}, on="2026-10-01", library=library), "mue") == [FAIL]


def test_a_visit_with_nothing_billed_passes():
    assert outcome(suggested({"97110": 5}), "mue") == "passed"
    assert outcome(suggested({"97110": 5}), "ncci-edit") == "passed"


def test_a_visit_with_nothing_billed_passes_though_there_is_no_table():
    assert outcome(suggested({"97110": 5}, on="2024-06-30"), "mue") == "passed"


def test_a_code_whose_minutes_are_not_known_and_that_was_charged_is_asked_about_once():
    charged = [{"code": "97110", "units": 2}]
    assert outcome(suggested({"97110": None}, already_charged=charged), "mue") == [
        (NOT_CHECKED, "The minutes of 97110 are not known.")
    ]


def test_a_code_that_only_another_specialty_charged_has_its_units():
    facts = {
        "provider": {"tin": "T1", "specialty": "PT"},
        "already_charged": [{"code": "97110", "units": 7, "tin": "T1", "specialty": "OT"}],
    }
    ((status, message),) = outcome(suggested({"97140": 15}, **facts), "mue")
    assert (status, message.startswith("7 units of 97110")) == (FAIL, True)
