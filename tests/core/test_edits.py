from __future__ import annotations

from datetime import date

import pytest

from quarterhour.core import edit_store
from quarterhour.core.edits import Edits, PairEdit, PairTable, UnitEdit, UnitTable, age_of
from quarterhour.core.library import Library
from quarterhour.core.policy import Citation
from quarterhour.core.visit import Setting

PRACTITIONER, HOSPITAL = Setting.PRACTITIONER, Setting.OUTPATIENT_HOSPITAL
READ = Citation("Table", "section", "https://example.org/", date(2026, 1, 1), verified=True)
TODAY = date(2026, 11, 21)


def pairs(quarter, *, setting=PRACTITIONER, imported=True):
    return PairTable(quarter=quarter, setting=setting, citation=READ, pairs={}, imported=imported)


def values(quarter, *, setting=PRACTITIONER, imported=True):
    return UnitTable(quarter=quarter, setting=setting, citation=READ, values={}, imported=imported)


@pytest.mark.parametrize(
    ("on", "applies"),
    [
        (date(2020, 9, 30), False),
        (date(2020, 10, 1), True),
        (date(2021, 12, 31), True),
        (date(2022, 1, 1), False),
    ],
)
def test_a_pair_applies_from_its_first_day_to_its_last(on, applies):
    pair = PairEdit("97530", "97535", 1, date(2020, 10, 1), date(2021, 12, 31))
    assert pair.applies_on(on) is applies


def test_a_pair_of_indicator_9_never_applied():
    pair = PairEdit("97530", "97116", 9, date(2020, 10, 1), date(2020, 10, 1))
    assert not pair.applies_on(date(2020, 10, 1))


def test_a_pair_without_dates_always_applied():
    assert PairEdit("97140", "97124", 0, None, None).applies_on(date(1996, 1, 1))


def test_a_pair_is_found_in_whichever_order_it_is_asked_for():
    table = Library.load().edits.pairs_on(date(2024, 7, 1), PRACTITIONER)
    on = date(2024, 7, 1)
    assert table.between("97140", "97124", on) == table.between("97124", "97140", on)
    assert table.between("97124", "97140", on).column_2 == "97124"


def test_the_latest_quarter_begun_by_the_date_decides():
    edits = Edits.of((pairs(date(2026, 7, 1)), pairs(date(2026, 10, 1))), (values(date(2026, 7, 1)),))
    assert edits.pairs_on(date(2026, 9, 30), PRACTITIONER).quarter == date(2026, 7, 1)
    assert edits.pairs_on(date(2026, 10, 1), PRACTITIONER).quarter == date(2026, 10, 1)


def test_before_the_first_quarter_pairs_have_their_history_and_values_have_none():
    edits = Edits.of((pairs(date(2026, 7, 1)),), (values(date(2026, 7, 1)),))
    assert edits.pairs_on(date(2026, 6, 30), PRACTITIONER).quarter == date(2026, 7, 1)
    assert edits.units_on(date(2026, 6, 30), PRACTITIONER) is None
    assert edits.units_on(date(2026, 7, 1), PRACTITIONER).quarter == date(2026, 7, 1)


def test_the_shipped_table_speaks_only_for_a_setting_without_an_imported_one():
    shipped, own = pairs(date(2024, 7, 1), imported=False), pairs(date(2026, 10, 1))
    hospital = pairs(date(2024, 7, 1), setting=HOSPITAL, imported=False)
    edits = Edits.of((shipped, own, hospital), ())
    assert edits.pairs_on(date(2025, 1, 1), PRACTITIONER) is own
    assert edits.pairs_on(date(2025, 1, 1), HOSPITAL) is hospital


def test_a_setting_without_a_table_has_none():
    assert Edits.of((), ()).pairs_on(date(2025, 1, 1), PRACTITIONER) is None
    assert Edits.of((), ()).mue_on("97110", date(2025, 1, 1), PRACTITIONER) is None


def test_the_shipped_values_differ_by_setting():
    edits = Library.load().edits
    assert edits.mue_on("97110", date(2024, 7, 1), PRACTITIONER) == UnitEdit("97110", 6, None)
    assert edits.mue_on("97110", date(2024, 7, 1), HOSPITAL) == UnitEdit("97110", 8, None)
    assert edits.mue_on("97605", date(2024, 7, 1), PRACTITIONER) is None


@pytest.mark.parametrize(
    ("on", "words"),
    [
        (date(2024, 6, 30), "of 2024-07-01, later than this date of service"),
        (date(2024, 7, 1), "of 2024-07-01, the quarter of this date of service"),
        (date(2024, 9, 30), "of 2024-07-01, the quarter of this date of service"),
        (date(2024, 10, 1), "of 2024-07-01, 3 months before this date of service"),
    ],
)
def test_the_age_of_a_table_is_told_from_the_date_of_service(on, words):
    assert age_of(date(2024, 7, 1), on) == words


def test_a_suggestion_can_say_which_tables_were_used_and_how_old_they_are():
    assert Library.load().edits.described(date(2025, 5, 1), PRACTITIONER) == (
        "NCCI pairs: NCCI procedure-to-procedure edits, small table of therapy pairs of 2024-07-01, 10 months"
        " before this date of service; medically unlikely edits: NCCI medically unlikely edits, small table"
        " of therapy codes of 2024-07-01, 10 months before this date of service (practitioner)"
    )
    assert "medically unlikely edits: no table for this date" in Library.load().edits.described(
        date(2019, 5, 1), PRACTITIONER
    )


# ---- the store -----------------------------------------------------------------------------------


def stored(folder, *parts, quarter=date(2026, 10, 1)):
    """A store in which each part holds a pair that begins with its code."""
    path = folder / edit_store.file_name("pairs", PRACTITIONER, quarter)
    for number, codes in parts:
        with edit_store.writing(path) as store:
            rows = [PairEdit(code, "97140", 1, date(2026, 1, 1), None) for code in codes]
            edit_store.put_pairs(store, rows, number, f"f{number}.txt", TODAY)
        edit_store.finish(path)
    return folder


def table_of(folder):
    (table,), _ = edit_store.tables(folder, ["97110", "97112", "97140", "97150", "97530"])
    return table


def test_a_store_gives_the_pairs_of_the_codes_that_are_asked_for_and_no_others(tmp_path):
    table = table_of(stored(tmp_path, (0, ["97110", "27447"])))
    assert set(table.pairs) == {frozenset({"97110", "97140"})}
    assert (table.quarter, table.setting, table.citation.read_on) == (date(2026, 10, 1), PRACTITIONER, TODAY)


def test_a_whole_table_knows_every_code_that_was_asked_for(tmp_path):
    table = table_of(stored(tmp_path, (0, ["97112"])))
    assert table.knows("97110")
    assert table.knows("97530")
    assert not table.knows("27447")


def test_parts_in_a_row_know_the_codes_between_them(tmp_path):
    table = table_of(stored(tmp_path, (1, ["97110"]), (2, ["97150"])))
    assert table.knows("97110")
    assert table.knows("97112")
    assert table.knows("97150")
    assert not table.knows("97530")  # beyond the last part that is here


def test_a_missing_part_leaves_its_codes_unknown(tmp_path):
    table = table_of(stored(tmp_path, (1, ["97110"]), (3, ["97150", "97530"])))
    assert table.knows("97110")
    assert not table.knows("97112")
    assert table.knows("97150")
    assert table.knows("97530")


def test_a_part_imported_again_replaces_itself_and_a_whole_table_everything(tmp_path):
    folder = stored(tmp_path, (1, ["97110"]), (2, ["97150"]), (2, ["97530"]))
    (held,) = edit_store.contents(folder)
    assert (held.rows, held.files) == (2, ("f1.txt", "f2.txt"))
    (held,) = edit_store.contents(stored(tmp_path, (0, ["97112"])))
    assert (held.rows, held.files, held.imported_on) == (1, ("f0.txt",), TODAY)


def test_a_draft_that_was_not_finished_changes_nothing(tmp_path):
    folder = stored(tmp_path, (0, ["97110"]))
    path = folder / edit_store.file_name("pairs", PRACTITIONER, date(2026, 10, 1))
    with edit_store.writing(path) as store:
        edit_store.put_pairs(store, [], 0, "none.txt", TODAY)
    assert edit_store.contents(folder)[0].rows == 1


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("not ours", encoding="utf-8")
    assert edit_store.contents(stored(tmp_path, (0, ["97110"])))[0].rows == 1
