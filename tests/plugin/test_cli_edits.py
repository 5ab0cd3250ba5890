"""Importing CMS's quarterly files as CMS publishes them, and nothing of a file that is not so."""

from __future__ import annotations

import io
import zipfile
from datetime import date

import openpyxl
import pytest
from click.testing import CliRunner

from quarterhour.core import edit_store
from quarterhour.core.library import Library
from quarterhour.core.visit import Setting
from quarterhour.plugin.cli_edits import edits

NOTE = "CPT only copyright 2025 American Medical Association.  All rights reserved."
# The header as it is published: over several rows in text, its cells with line breaks in quotes elsewhere.
WRAPPED = (
    f"{NOTE}\t\t\t\t\t\t\n"
    "Column1/Column2 Edits\t\t\t\t\t\t\n"
    "Column 1\tColumn 2\t*=in existence\tEffective\tDeletion\tModifier\tPTP Edit Rationale\n"
    "\t\tprior to 1996\tDate\tDate\t0=not allowed\t\n"
    "\t\t\t\t*=no data\t1=allowed\t\n"
    "\t\t\t\t\t9=not applicable\t\n"
)
QUOTED = (
    f'"{NOTE}"\t\t\t\t\t\t\n'
    'Column 1\tColumn 2\t"*=in existence\nprior to 1996"\tEffective Date\t"Deletion Date\n*=no data"\t'
    '"Modifier\n0=not allowed\n1=allowed\n9=not applicable"\tPTP Edit Rationale\n'
)
PAIRS = (
    "97110\t97140\t\t20261001\t*\t1\tMisuse of Column Two code with Column One code\n"
    "97140\t97124\t*\t19960101\t*\t0\tMutually exclusive procedures\n"
    "97530\t97116\t\t20201001\t20201001\t9\tMisuse of Column Two code with Column One code\n"
)
VALUES = (
    f'"{NOTE}\r\n\r\nApplicable FARS/DFARS Restrictions Apply.",,,\r\n'
    '"HCPCS/\r\nCPT Code",{} Services MUE Values,MUE Adjudication Indicator,MUE Rationale\r\n'
    "97110,6,3 Date of Service Edit: Clinical,Clinical: Data\r\n"
    "97161,1,2 Date of Service Edit: Policy,CMS Policy\r\n"
)
PRACTITIONER, HOSPITAL = Setting.PRACTITIONER, Setting.OUTPATIENT_HOSPITAL
OCTOBER = date(2026, 10, 1)


def run(*arguments):
    return CliRunner().invoke(edits, [str(argument) for argument in arguments])


def import_(folder, *files, options=()):
    return run("import", *files, "--into", folder / "store", "--today", "2026-11-21", *options)


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode("latin-1"))
    return path


def pair_on(folder, one, other, on=OCTOBER, setting=PRACTITIONER):
    return Library.load(edits_folder=folder / "store").edits.pairs_on(on, setting).between(one, other, on)


def excel(rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


@pytest.mark.parametrize("header", [WRAPPED, QUOTED])
def test_pairs_are_read_from_text_with_either_form_of_header(tmp_path, header):
    result = import_(tmp_path, written(tmp_path, "ccipra-v323r0-f1.txt", header + PAIRS))
    assert result.exit_code == 0, result.output
    assert (
        result.output == "2026-10-01  practitioner  3 pairs  imported 2026-11-21 from ccipra-v323r0-f1.txt\n"
    )
    found = pair_on(tmp_path, "97110", "97140")
    assert (found.column_2, found.indicator, found.effective, found.deleted) == ("97140", 1, OCTOBER, None)
    assert pair_on(tmp_path, "97124", "97140").indicator == 0
    assert pair_on(tmp_path, "97530", "97116", on=date(2020, 10, 1)) is None


def test_pairs_are_read_from_excel_where_codes_and_dates_may_be_numbers(tmp_path):
    rows = [
        [NOTE, *[None] * 6],
        ["Column1/Column2 Edits", *[None] * 6],
        [
            "Column 1",
            "Column 2",
            "*=in existence prior to 1996",
            "Effective Date",
            "Deletion Date",
            "Modifier",
            "Why",
        ],
        [None, None, None, None, "*=no data", "0=not allowed", None],
        [97110, "97140", None, 20261001, "*", 1, "CPT Manual"],
        ["97140", 97124, "*", 19960101, "*", 0, "CPT Manual"],
    ]
    path = tmp_path / "ccioph-v323r0-f1.xlsx"
    path.write_bytes(excel(rows))
    result = import_(tmp_path, path)
    assert result.exit_code == 0, result.output
    assert pair_on(tmp_path, "97110", "97140", setting=HOSPITAL).indicator == 1
    assert pair_on(tmp_path, "97140", "97124", setting=HOSPITAL).effective == date(1996, 1, 1)


def test_a_zip_is_opened_and_of_text_and_excel_of_one_table_the_text_is_read(tmp_path):
    path = tmp_path / "medicare-ncci-2026q4-practitioner-ptp-edits-ccipra-v323r0-f1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ccipra-v323r0-f1.xlsx", b"not even Excel")
        archive.writestr("ccipra-v323r0-f1.TXT", WRAPPED + PAIRS)
        archive.writestr("readme.pdf", b"terms of use")
    result = import_(tmp_path, path)
    assert result.exit_code == 0, result.output
    assert f"from {path.name}/ccipra-v323r0-f1.TXT" in result.output


def test_an_excel_file_within_a_zip_is_read(tmp_path):
    rows = [
        ["HCPCS/CPT Code", "Practitioner Services MUE Values", "MUE Adjudication Indicator", "MUE Rationale"]
    ]
    rows.append([97110, 6, "3 Date of Service Edit: Clinical", "Clinical: Data"])
    path = tmp_path / "values.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MCR_MUE_PractitionerServices_Eff_10-01-2026.xlsx", excel(rows))
    result = import_(tmp_path, path)
    assert result.exit_code == 0, result.output
    loaded = Library.load(edits_folder=tmp_path / "store").edits
    assert loaded.mue_on("97110", OCTOBER, PRACTITIONER).units == 6


@pytest.mark.parametrize(
    ("who", "name", "setting"),
    [
        ("Practitioner", "MCR_MUE_PractitionerServices_Eff_10-01-2026.csv", PRACTITIONER),
        ("Outpatient Hospital", "MCR_MUE_OutpatientHospitalServices_Eff_10-01-2026.csv", HOSPITAL),
    ],
)
def test_values_are_read_and_the_header_tells_the_setting(tmp_path, who, name, setting):
    result = import_(tmp_path, written(tmp_path, name, VALUES.format(who)))
    assert result.output == f"2026-10-01  {setting.value}  2 unit limits  imported 2026-11-21 from {name}\n"
    loaded = Library.load(edits_folder=tmp_path / "store").edits
    assert loaded.mue_on("97161", OCTOBER, setting).mai == 2


def test_the_values_of_suppliers_are_of_no_setting_of_ours(tmp_path):
    path = written(tmp_path, "MCR_MUE_DMESupplierServices_Eff_10-01-2026.csv", VALUES.format("DME Supplier"))
    assert "does not tell its setting" in import_(tmp_path, path).output


@pytest.mark.parametrize(
    ("name", "quarter"),
    [
        ("ccipra-v302r0-f1.txt", "2024-07-01"),
        ("ccipra-v320r1-f1.txt", "2026-01-01"),
        ("practitioner-2025q2.txt", "2025-04-01"),
    ],
)
def test_the_name_tells_the_quarter(tmp_path, name, quarter):
    result = import_(tmp_path, written(tmp_path, name, WRAPPED + PAIRS))
    assert result.output.startswith(quarter)


def test_what_the_name_does_not_tell_is_asked_for_and_taken_from_the_command(tmp_path):
    path = written(tmp_path, "pairs.txt", WRAPPED + PAIRS)
    assert "does not tell its setting; say --setting" in import_(tmp_path, path).output
    told = ("--setting", "practitioner")
    assert "does not tell its quarter; say --quarter" in import_(tmp_path, path, options=told).output
    result = import_(tmp_path, path, options=(*told, "--quarter", "2026-10-01"))
    assert result.exit_code == 0
    assert not (tmp_path / "store" / "pairs.txt").exists()


def test_a_command_that_contradicts_the_file_is_refused(tmp_path):
    path = written(tmp_path, "ccipra-v323r0-f1.txt", WRAPPED + PAIRS)
    assert (
        "is of 2026-10-01, not of 2026-07-01"
        in import_(tmp_path, path, options=("--quarter", "2026-07-01")).output
    )
    setting = ("--setting", "outpatient-hospital")
    assert "is of practitioner, not of outpatient-hospital" in import_(tmp_path, path, options=setting).output


def test_a_day_within_a_quarter_is_refused(tmp_path):
    path = written(tmp_path, "practitioner.txt", WRAPPED + PAIRS)
    result = import_(tmp_path, path, options=("--quarter", "2026-10-02"))
    assert "2026-10-02 is not the first day of a quarter" in result.output


def test_the_parts_of_a_table_join_whether_imported_together_or_one_by_one(tmp_path):
    first = written(tmp_path, "ccipra-v323r0-f1.txt", WRAPPED + "97110\t97140\t\t20261001\t*\t1\twhy\n")
    second = written(tmp_path, "ccipra-v323r0-f2.txt", WRAPPED + "97140\t97124\t*\t19960101\t*\t0\twhy\n")
    assert "2 pairs" in import_(tmp_path, first, second).output
    assert "2 pairs" in import_(tmp_path, first).output
    assert pair_on(tmp_path, "97140", "97124").indicator == 0


MALFORMED = [
    ("9711\t97140\t\t20261001\t*\t1\twhy", "'9711' is no code of five characters"),
    ("97110\t97140\tx\t20261001\t*\t1\twhy", "'x' stands where * or nothing should"),
    ("97110\t97140\t\t20261301\t*\t1\twhy", "'20261301' is no date such as 20240701"),
    ("97110\t97140\t\t2026-10-01\t*\t1\twhy", "'2026-10-01' is no date such as 20240701"),
    ("97110\t97140\t\t20261001\t0\t1\twhy", "'0' is no date such as 20240701"),
    ("97110\t97140\t\t\t*\t1\twhy", "a pair without the date from which it applies"),
    ("97110\t97140\t\t20261001\t*\t2\twhy", "'2' is no modifier indicator (0, 1 or 9)"),
    ("97110\t97140", "2 columns; a pair has 6"),
]


@pytest.mark.parametrize(("row", "complaint"), MALFORMED)
def test_a_malformed_row_refuses_the_whole_import_with_its_line(tmp_path, row, complaint):
    good = written(tmp_path, "ccioph-v323r0-f1.txt", WRAPPED + PAIRS)
    bad = written(tmp_path, "ccipra-v323r0-f1.txt", WRAPPED + PAIRS + row + "\n")
    result = import_(tmp_path, good, bad)
    assert result.exit_code == 1
    assert f"ccipra-v323r0-f1.txt:10: {complaint}. Nothing was imported." in result.output
    assert list((tmp_path / "store").iterdir()) == []


def test_a_refused_import_leaves_what_was_there(tmp_path):
    path = written(tmp_path, "ccipra-v323r0-f1.txt", WRAPPED + PAIRS)
    import_(tmp_path, path)
    written(tmp_path, path.name, WRAPPED + PAIRS + "junk\n")
    assert import_(tmp_path, path).exit_code == 1
    assert pair_on(tmp_path, "97110", "97140").indicator == 1
    assert [file.suffix for file in (tmp_path / "store").iterdir()] == [".sqlite"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("97110,6,3 Clinical,x", "97110 stands twice"),
        ("97112,many,3 Clinical,x", "'many' is no number of units"),
        ("97112,-1,3 Clinical,x", "'-1' is no number of units"),
        ("97112,4,4 Clinical,x", "'4 Clinical' is no adjudication indicator (1, 2 or 3)"),
        ("971,4,3 Clinical,x", "'971' is no code of five characters"),
    ],
)
def test_a_malformed_value_refuses_the_file_with_its_line(tmp_path, row, complaint):
    name = "MCR_MUE_PractitionerServices_Eff_10-01-2026.csv"
    path = written(tmp_path, name, VALUES.format("Practitioner") + row + "\r\n")
    assert f"{name}:8: {complaint}. Nothing was imported." in import_(tmp_path, path).output


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("notes.txt", "97110\t97140\n", "has no header of CMS's edit files"),
        ("ccipra-v323r0-f1.txt", WRAPPED, "has a header and no rows"),
        ("pairs.pdf", "x", "is neither .txt, .csv, .xlsx nor .zip"),
        ("pairs.zip", "x", "is not a zip file"),
        ("ccipra-v323r0-f1.xlsx", "x", "cannot be read"),
        (
            "MCR_MUE_PractitionerServices_Eff_13-01-2026.csv",
            VALUES.format("Practitioner"),
            "names a date that does not exist",
        ),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_by_name(tmp_path, name, content, complaint):
    result = import_(tmp_path, written(tmp_path, name, content))
    assert result.exit_code == 1
    assert name in result.output
    assert complaint in result.output


def test_a_file_that_is_not_there_and_a_zip_without_tables_are_refused(tmp_path):
    assert "there is no such file" in import_(tmp_path, tmp_path / "away.txt").output
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.pdf", b"x")
    assert "holds no .txt, .csv or .xlsx" in import_(tmp_path, tmp_path / "empty.zip").output


def test_the_list_shows_every_quarter_that_is_kept(tmp_path):
    for name in ("ccipra-v322r0-f1.txt", "ccipra-v323r0-f1.txt"):
        import_(tmp_path, written(tmp_path, name, WRAPPED + PAIRS))
    result = run("list", "--into", tmp_path / "store")
    assert [line[:10] for line in result.output.splitlines()] == ["2026-07-01", "2026-10-01"]


def test_an_empty_store_says_that_the_small_table_is_used(tmp_path):
    assert "the small table of 2024-07-01 that ships is used" in run("list", "--into", tmp_path).output
    assert "`quarterhour edits import` makes it" in run("list", "--into", tmp_path / "none").output


def test_a_damaged_quarter_is_told(tmp_path):
    name = edit_store.file_name("pairs", PRACTITIONER, OCTOBER)
    (tmp_path / name).write_bytes(b"no database, though long enough to be taken for one" * 20)
    result = run("list", "--into", tmp_path)
    assert result.exit_code == 1
    assert "import this quarter again" in result.output
