"""The store of imported edits: a folder with one SQLite file for each kind, setting and quarter.

A quarter's files hold over two million pairs. SQLite writes them in bounded memory, finds the few that
concern therapy without reading the rest, and a finished file takes the old one's place in one step.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from .edits import Pair, PairEdit, PairTable, UnitEdit, UnitTable
from .policy import Citation
from .visit import Setting

_NAME = re.compile(r"(pairs|units)-(practitioner|outpatient-hospital)-(\d{4}-\d{2}-\d{2})\.sqlite")
_NCCI = "https://www.cms.gov/medicare/coding-billing/national-correct-coding-initiative-ncci-edits"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS parts (part INTEGER, name TEXT, imported_on TEXT, first TEXT, last TEXT);
    CREATE TABLE IF NOT EXISTS pairs (
        column_1 TEXT, column_2 TEXT, effective TEXT, deleted TEXT, indicator INTEGER, part INTEGER,
        PRIMARY KEY (column_1, column_2, effective, deleted, indicator)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS units (code TEXT PRIMARY KEY, units INTEGER, mai INTEGER) WITHOUT ROWID;
"""


class StoreDamaged(Exception):
    """A file of the store cannot be read; import the quarter again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One quarter of one kind and setting in a store."""

    path: Path
    kind: str  # "pairs" or "units"
    setting: Setting
    quarter: date
    rows: int
    files: tuple[str, ...]  # as CMS named them
    imported_on: date  # the latest of its files


def file_name(kind: str, setting: Setting, quarter: date) -> str:
    """How the store names a quarter."""
    return f"{kind}-{setting.value}-{quarter.isoformat()}.sqlite"


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A draft beside ``path``, begun from what is there; the caller puts it in place with ``finish``.

    Journals are off: a draft that fails is thrown away whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    if path.exists():
        shutil.copyfile(path, draft)
    else:
        draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as store:
        store.execute("PRAGMA journal_mode = OFF")
        store.execute("PRAGMA synchronous = OFF")
        store.executescript(_SCHEMA)
        store.execute("BEGIN")
        yield store
        store.execute("COMMIT")


def draft_of(path: Path) -> Path:
    """Where the draft of a file stands until it is finished."""
    return path.with_name(f"{path.name}.draft")


def finish(path: Path) -> None:
    """The draft takes the place of the file in one step, and is on the disk before it does."""
    with draft_of(path).open("rb+") as draft:
        os.fsync(draft.fileno())
    draft_of(path).replace(path)


def put_pairs(
    store: sqlite3.Connection, rows: Iterable[PairEdit], part: int, name: str, imported_on: date
) -> None:
    """The rows of one file; they replace those of the same part. Part 0 is a whole table."""
    if part:
        store.execute("DELETE FROM pairs WHERE part IN (0, ?)", (part,))
        store.execute("DELETE FROM parts WHERE part IN (0, ?)", (part,))
    else:
        store.execute("DELETE FROM pairs")
        store.execute("DELETE FROM parts")
    store.executemany(
        "INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?, ?)",
        (
            (row.column_1, row.column_2, _stored(row.effective), _stored(row.deleted), row.indicator, part)
            for row in rows
        ),
    )
    first, last = store.execute(
        "SELECT min(column_1), max(column_1) FROM pairs WHERE part = ?", (part,)
    ).fetchone()
    store.execute(
        "INSERT INTO parts VALUES (?, ?, ?, ?, ?)", (part, name, imported_on.isoformat(), first, last)
    )


def put_units(store: sqlite3.Connection, rows: Iterable[UnitEdit], name: str, imported_on: date) -> None:
    """The rows of a file of medically unlikely edits; a file is the whole table."""
    store.execute("DELETE FROM units")
    store.execute("DELETE FROM parts")
    store.executemany("INSERT INTO units VALUES (?, ?, ?)", ((row.code, row.units, row.mai) for row in rows))
    store.execute("INSERT INTO parts VALUES (0, ?, ?, '', '~')", (name, imported_on.isoformat()))


def contents(folder: Path) -> tuple[Stored, ...]:
    """What a store holds, by kind, setting and quarter. Raises ``StoreDamaged``."""
    found: list[Stored] = []
    for path, kind, setting, quarter in _files(folder):
        with _reading(path) as store:
            table = "pairs" if kind == "pairs" else "units"
            rows = store.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608  two fixed words
            parts = store.execute("SELECT name, imported_on FROM parts ORDER BY part").fetchall()
        found.append(
            Stored(
                path=path,
                kind=kind,
                setting=setting,
                quarter=quarter,
                rows=rows,
                files=tuple(name for name, _ in parts),
                imported_on=max(date.fromisoformat(day) for _, day in parts),
            )
        )
    return tuple(found)


def tables(folder: Path, codes: Iterable[str]) -> tuple[tuple[PairTable, ...], tuple[UnitTable, ...]]:
    """The pairs and values of these codes, of every quarter in a store. Raises ``StoreDamaged``."""
    wanted = tuple(sorted(codes))
    pair_tables: list[PairTable] = []
    unit_tables: list[UnitTable] = []
    for path, kind, setting, quarter in _files(folder):
        with _reading(path) as store:
            read_on = max(
                date.fromisoformat(day) for (day,) in store.execute("SELECT imported_on FROM parts")
            )
            if kind == "pairs":
                pair_tables.append(
                    PairTable(
                        quarter=quarter,
                        setting=setting,
                        citation=_citation("NCCI procedure-to-procedure edits", setting, quarter, read_on),
                        pairs=_pairs(store, wanted),
                        ranges=_ranges(store),
                        covers=frozenset(wanted),
                    )
                )
            else:
                unit_tables.append(
                    UnitTable(
                        quarter=quarter,
                        setting=setting,
                        citation=_citation("NCCI medically unlikely edits", setting, quarter, read_on),
                        values=_units(store, wanted),
                    )
                )
    return tuple(pair_tables), tuple(unit_tables)


def _pairs(store: sqlite3.Connection, codes: tuple[str, ...]) -> dict[Pair, tuple[PairEdit, ...]]:
    marks = ", ".join("?" * len(codes))
    rows = store.execute(
        "SELECT column_1, column_2, indicator, effective, deleted FROM pairs"  # noqa: S608  marks only
        f" WHERE column_1 IN ({marks}) AND column_2 IN ({marks}) ORDER BY effective",
        (*codes, *codes),
    )
    found: dict[Pair, tuple[PairEdit, ...]] = {}
    for column_1, column_2, indicator, effective, deleted in rows:
        pair = frozenset((column_1, column_2))
        edit = PairEdit(column_1, column_2, indicator, _read(effective), _read(deleted))
        found[pair] = (*found.get(pair, ()), edit)
    return found


def _units(store: sqlite3.Connection, codes: tuple[str, ...]) -> dict[str, UnitEdit]:
    marks = ", ".join("?" * len(codes))
    rows = store.execute(f"SELECT code, units, mai FROM units WHERE code IN ({marks})", codes)  # noqa: S608
    return {code: UnitEdit(code, units, mai) for code, units, mai in rows}


def _ranges(store: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    """The stretches of column 1 that the parts hold.

    CMS cuts a table into parts by column 1. A part reaches up to where the next begins if that is here;
    the first reaches down to the beginning. A whole table (part 0) reaches everywhere.
    """
    parts = store.execute("SELECT part, first, last FROM parts WHERE first IS NOT NULL ORDER BY part")
    rows = parts.fetchall()
    if any(part == 0 for part, _, _ in rows):
        return (("", "~"),)
    reach = {part: last for part, _, last in rows}
    for (part, _, _), (following, first, _) in pairwise(rows):
        if following == part + 1:
            reach[part] = first
    return tuple(("" if part == 1 else first, reach[part]) for part, first, _ in rows)


def _citation(title: str, setting: Setting, quarter: date, read_on: date) -> Citation:
    return Citation(
        title=title,
        section=f"{setting.value} file effective {quarter.isoformat()}",
        url=_NCCI,
        read_on=read_on,
        verified=True,
    )


def _files(folder: Path) -> Iterator[tuple[Path, str, Setting, date]]:
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name:
            yield path, name[1], Setting(name[2]), date.fromisoformat(name[3])


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as store:
            yield store
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}; import this quarter again.") from error


def _stored(day: date | None) -> str:
    return "" if day is None else day.isoformat()


def _read(day: str) -> date | None:
    return date.fromisoformat(day) if day else None
