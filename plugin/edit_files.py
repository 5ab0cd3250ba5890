"""CMS's quarterly edit files, read row by row as they are published.

Procedure-to-procedure files are tab-separated text or Excel, in several parts a setting; medically
unlikely edits are comma-separated text or Excel; both come zipped, often with the same rows twice, as text
and as Excel. Rows of copyright stand before the header, and the header itself may take several rows.
https://www.cms.gov/medicare/coding-billing/national-correct-coding-initiative-ncci-edits
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import IO

import openpyxl

from ..core import edit_store
from ..core.edits import PairEdit, UnitEdit
from ..core.terms import CODE
from ..core.visit import Setting

_TEXT = {".txt": "\t", ".csv": ","}
_ROWS_BEFORE_HEADER = 60
_PAIR_COLUMNS = 6  # the seventh, the rationale, is not kept

_PART = re.compile(r"-f(\d+)\b")
_VERSION = re.compile(r"cci(pra|oph)-v(\d\d)([0-3])r\d")
_EFFECTIVE = re.compile(r"eff(?:ective)?[-_ ]*(\d\d)-(\d\d)-(\d{4})")
_YEAR_QUARTER = re.compile(r"(20\d\d)[-_ ]?q([1-4])")
_INDICATORS = {"0": 0, "1": 1, "9": 9}

Row = tuple[int, list[str]]  # the line it ends on, and its cells


class FileRefused(Exception):
    """A file that is not as CMS publishes it; nothing of the import was kept."""

    def __init__(self, name: str, line: int | None, says: str) -> None:
        where = name if line is None else f"{name}:{line}"
        super().__init__(f"{where}: {says} Nothing was imported.")


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table of rows: a file, or a file within a zip."""

    path: Path
    member: str | None  # its name within a zip

    @property
    def name(self) -> str:
        """How messages and the store call it."""
        return self.path.name if self.member is None else f"{self.path.name}/{self.member}"

    @property
    def suffix(self) -> str:
        """What kind of file it is."""
        return PurePosixPath(self.member or self.path.name).suffix.lower()


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows of a sheet belong."""

    kind: str  # "pairs" or "units"
    setting: Setting
    quarter: date
    part: int  # 0: a whole table


def import_files(
    paths: list[Path],
    into: Path,
    *,
    imported_on: date,
    quarter: date | None = None,
    setting: Setting | None = None,
) -> tuple[edit_store.Stored, ...]:
    """Puts files into the store, all or none, and gives what was stored.

    ``quarter`` and ``setting`` say what a file's name and header do not. A part of a table joins the parts
    already stored and takes the place of the same part; a whole table replaces the quarter.
    Raises ``FileRefused``.
    """
    sheets: dict[Path, list[tuple[Sheet, Target]]] = {}
    for path in paths:
        for sheet in _sheets(path):
            target = _target(sheet, quarter, setting)
            stored_at = into / edit_store.file_name(target.kind, target.setting, target.quarter)
            sheets.setdefault(stored_at, []).append((sheet, target))
    try:
        for stored_at, together in sheets.items():
            with edit_store.writing(stored_at) as store:
                for sheet, target in together:
                    if target.kind == "pairs":
                        edit_store.put_pairs(store, _pairs(sheet), target.part, sheet.name, imported_on)
                    else:
                        edit_store.put_units(store, _units(sheet), sheet.name, imported_on)
        for stored_at in sheets:
            edit_store.finish(stored_at)
    finally:
        for stored_at in sheets:
            edit_store.draft_of(stored_at).unlink(missing_ok=True)
    return tuple(stored for stored in edit_store.contents(into) if stored.path in sheets)


# ---- files and rows ------------------------------------------------------------------------------


def _sheets(path: Path) -> list[Sheet]:
    """The tables of a file. Of the same table as text and as Excel, the text."""
    if not path.is_file():
        raise FileRefused(path.name, None, "there is no such file.")
    if path.suffix.lower() in {*_TEXT, ".xlsx"}:
        return [Sheet(path, None)]
    if path.suffix.lower() != ".zip":
        raise FileRefused(path.name, None, "is neither .txt, .csv, .xlsx nor .zip.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    except zipfile.BadZipFile:
        raise FileRefused(path.name, None, "is not a zip file.") from None
    by_stem: dict[str, Sheet] = {}
    for name in names:
        sheet = Sheet(path, name)
        stem = str(PurePosixPath(name).with_suffix("")).lower()
        if sheet.suffix in _TEXT or (sheet.suffix == ".xlsx" and stem not in by_stem):
            by_stem[stem] = sheet
    if not by_stem:
        raise FileRefused(path.name, None, "holds no .txt, .csv or .xlsx.")
    return list(by_stem.values())


@contextmanager
def _opened(sheet: Sheet) -> Iterator[IO[bytes]]:
    if sheet.member is None:
        with sheet.path.open("rb") as content:
            yield content
        return
    # Excel files are zips themselves and want a file that can be read from any place.
    with zipfile.ZipFile(sheet.path) as archive, tempfile.TemporaryFile() as content:
        with archive.open(sheet.member) as packed:
            shutil.copyfileobj(packed, content)
        content.seek(0)
        yield content


def _rows(sheet: Sheet) -> Iterator[Row]:
    """Every row that is not empty, with its line. Raises ``FileRefused`` where the file cannot be read."""
    line = 0
    try:
        with _opened(sheet) as content:
            read = _excel_rows if sheet.suffix == ".xlsx" else _text_rows
            for line, cells in read(content, _TEXT.get(sheet.suffix, "")):
                if any(cells):
                    yield line, cells
    except (csv.Error, zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError, OSError) as error:
        raise FileRefused(sheet.name, line + 1, f"cannot be read ({error}).") from error


def _text_rows(content: IO[bytes], separator: str) -> Iterator[Row]:
    # What is not UTF-8 stands only in the notes; in a code or a date it would be refused.
    with io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="") as text:
        reader = csv.reader(text, delimiter=separator)
        for cells in reader:
            yield reader.line_num, [" ".join(cell.split()) for cell in cells]


def _excel_rows(content: IO[bytes], _separator: str) -> Iterator[Row]:
    book = openpyxl.load_workbook(content, read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what a file says of its size is not always so
        for line, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
            yield line, [_cell(value) for value in cells]
    finally:
        book.close()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y%m%d}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # Excel keeps every number as one
    return " ".join(str(value).split())


# ---- which table it is ---------------------------------------------------------------------------


def _target(sheet: Sheet, quarter: date | None, setting: Setting | None) -> Target:
    kind, header = _kind(sheet)
    name = sheet.name.lower()
    version, part = _VERSION.search(name), _PART.search(name)
    told = [found for found in (_setting_of(header if kind == "units" else name), setting) if found]
    when = [found for found in (_quarter_of(sheet), quarter) if found]
    if not told:
        raise FileRefused(sheet.name, None, "does not tell its setting; say --setting.")
    if not when:
        raise FileRefused(sheet.name, None, "does not tell its quarter; say --quarter, e.g. 2024-07-01.")
    if len(set(told)) > 1:
        raise FileRefused(sheet.name, None, f"is of {told[0].value}, not of {told[1].value}.")
    if len(set(when)) > 1:
        raise FileRefused(sheet.name, None, f"is of {when[0]}, not of {when[1]}.")
    if (when[0].month, when[0].day) not in {(1, 1), (4, 1), (7, 1), (10, 1)}:
        raise FileRefused(sheet.name, None, f"{when[0]} is not the first day of a quarter.")
    is_part = kind == "pairs" and part is not None and (version is not None or "ptp" in name)
    return Target(kind, told[0], when[0], int(part[1]) if is_part and part else 0)


def _kind(sheet: Sheet) -> tuple[str, str]:
    """Pairs or units, by the header row; and that row."""
    for number, (_, cells) in enumerate(_rows(sheet)):
        kind = _header_of(cells)
        if kind:
            return kind, " ".join(cells).lower()
        if number >= _ROWS_BEFORE_HEADER:
            break
    raise FileRefused(
        sheet.name, None, "has no header of CMS's edit files (Column 1 and Column 2, or HCPCS/CPT Code)."
    )


def _header_of(cells: list[str]) -> str:
    first, second = (cell.lower() for cell in (*cells[:2], "", "")[:2])
    if (first, second) == ("column 1", "column 2"):
        return "pairs"
    return "units" if first.startswith("hcpcs") and "mue value" in second else ""


def _setting_of(text: str) -> Setting | None:
    """The setting that a file's name or header tells. DME suppliers' values are nobody's here."""
    if "pra-v" in text or "practitioner" in text:
        return Setting.PRACTITIONER
    return Setting.OUTPATIENT_HOSPITAL if "oph-v" in text or "hospital" in text else None


def _quarter_of(sheet: Sheet) -> date | None:
    """The first day of the quarter that a file's name tells; CMS's version 30.2 is the third of 2024."""
    name = sheet.name.lower()
    try:
        if found := _VERSION.search(name):
            return date(1994 + int(found[2]), 1 + 3 * int(found[3]), 1)
        if found := _EFFECTIVE.search(name):
            return date(int(found[3]), int(found[1]), int(found[2]))
        if found := _YEAR_QUARTER.search(name):
            return date(int(found[1]), 3 * int(found[2]) - 2, 1)
    except ValueError:
        raise FileRefused(sheet.name, None, "names a date that does not exist.") from None
    return None


# ---- rows of data --------------------------------------------------------------------------------


def _data(sheet: Sheet) -> Iterator[Row]:
    """The rows below the header, whose own further rows leave the first two cells empty."""
    rows = _rows(sheet)
    for _, cells in rows:
        if _header_of(cells):
            break
    begun = False
    for line, cells in rows:
        if begun or any(cells[:2]):
            begun = True
            yield line, cells
    if not begun:
        raise FileRefused(sheet.name, None, "has a header and no rows.")


def _pairs(sheet: Sheet) -> Iterator[PairEdit]:
    for line, cells in _data(sheet):
        if len(cells) < _PAIR_COLUMNS:
            raise FileRefused(sheet.name, line, f"{len(cells)} columns; a pair has {_PAIR_COLUMNS}.")
        column_1, column_2, before_1996, effective, deleted, indicator = cells[:_PAIR_COLUMNS]
        if before_1996 not in {"", "*"}:
            raise FileRefused(sheet.name, line, f"'{before_1996}' stands where * or nothing should.")
        if indicator not in _INDICATORS:
            raise FileRefused(sheet.name, line, f"'{indicator}' is no modifier indicator (0, 1 or 9).")
        if not effective and not before_1996:
            raise FileRefused(sheet.name, line, "a pair without the date from which it applies.")
        yield PairEdit(
            column_1=_code(sheet, line, column_1),
            column_2=_code(sheet, line, column_2),
            indicator=_INDICATORS[indicator],
            effective=_date(sheet, line, effective),
            deleted=_date(sheet, line, "" if deleted == "*" else deleted),
        )


def _units(sheet: Sheet) -> Iterator[UnitEdit]:
    seen: set[str] = set()
    for line, cells in _data(sheet):
        code, units, indicator = (*cells, "", "")[:3]
        if not re.fullmatch(r"\d{1,9}", units):
            raise FileRefused(sheet.name, line, f"'{units}' is no number of units.")
        if not re.match(r"[123]\b", indicator):
            raise FileRefused(sheet.name, line, f"'{indicator}' is no adjudication indicator (1, 2 or 3).")
        if code in seen:
            raise FileRefused(sheet.name, line, f"{code} stands twice.")
        seen.add(code)
        yield UnitEdit(_code(sheet, line, code), int(units), int(indicator[0]))


def _code(sheet: Sheet, line: int, cell: str) -> str:
    if not CODE.fullmatch(cell):
        raise FileRefused(sheet.name, line, f"'{cell}' is no code of five characters.")
    return cell


def _date(sheet: Sheet, line: int, cell: str) -> date | None:
    if not cell:
        return None
    if re.fullmatch(r"\d{8}", cell):
        with suppress(ValueError):
            return date.fromisoformat(cell)
    raise FileRefused(sheet.name, line, f"'{cell}' is no date such as 20240701.")
