"""Edits: which codes a payer does not pay side by side, and how many units of one it finds unlikely.

NCCI publishes both every quarter, for practitioners and for outpatient hospitals apart. A quarter that
was imported decides; where none was, a small table of therapy pairs and values of 2024-07-01 speaks,
and says where it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from .policy import Citation
from .visit import Setting

Pair = frozenset[str]


@dataclass(frozen=True, slots=True)
class PairEdit:
    """Two codes of which the second is not paid beside the first, unless a modifier says why."""

    column_1: str
    column_2: str
    indicator: int  # 0: no modifier helps, 1: a modifier may, 9: taken back, never applied
    effective: date | None  # None: before any date we know of
    deleted: date | None  # the last day; None: still in force
    ordered: bool = True  # False: which of the two stands in column 2 is not known

    def applies_on(self, on: date) -> bool:
        """Whether the pair was in force; a pair of indicator 9 never was."""
        return (
            self.indicator != 9  # noqa: PLR2004  CMS's own word
            and (self.effective is None or self.effective <= on)
            and (self.deleted is None or on <= self.deleted)
        )


@dataclass(frozen=True, slots=True)
class UnitEdit:
    """The units of a code a day above which CMS finds a claim medically unlikely.

    ``mai``, the adjudication indicator: 1 by claim line, 2 by day without exception, 3 by day and
    open to appeal. ``None`` where it was not read.
    """

    code: str
    units: int
    mai: int | None


@dataclass(frozen=True, slots=True)
class PairTable:
    """The pairs of one quarter and setting, and how far they can be trusted."""

    quarter: date
    setting: Setting
    citation: Citation
    pairs: Mapping[Pair, tuple[PairEdit, ...]]
    ranges: tuple[tuple[str, str], ...] = (("", "~"),)  # the codes of column 1 that were in the files
    covers: frozenset[str] | None = None  # None: every code; else the codes whose pairs were looked up
    covers_from: date | None = None  # before it, a pair that is not in the table may still have existed
    unread: frozenset[Pair] = frozenset()  # known to be pairs in the other setting; not looked up in this
    imported: bool = True  # False: the small table that ships

    def between(self, one: str, other: str, on: date) -> PairEdit | None:
        """The edit between two codes in force on a date of service."""
        for pair in self.pairs.get(frozenset((one, other)), ()):
            if pair.applies_on(on):
                return pair
        return None

    def knows(self, code: str) -> bool:
        """Whether a pair of this code would be in the table."""
        if self.covers is not None and code not in self.covers:
            return False
        return any(first <= code <= last for first, last in self.ranges)

    def knows_date(self, on: date) -> bool:
        """Whether every pair in force on the date would be in the table."""
        return self.covers_from is None or self.covers_from <= on


@dataclass(frozen=True, slots=True)
class UnitTable:
    """The medically unlikely edits of one quarter and setting."""

    quarter: date
    setting: Setting
    citation: Citation
    values: Mapping[str, UnitEdit]
    imported: bool = True  # a code without a value has none published; False: it was not looked up


_Table = TypeVar("_Table", PairTable, UnitTable)


@dataclass(frozen=True, slots=True)
class Edits:
    """Every table at hand by setting, oldest quarter first."""

    pair_tables: Mapping[Setting, tuple[PairTable, ...]]
    unit_tables: Mapping[Setting, tuple[UnitTable, ...]]

    @staticmethod
    def of(pair_tables: Iterable[PairTable], unit_tables: Iterable[UnitTable]) -> Edits:
        """These tables; a shipped one speaks only for a setting of which none was imported."""
        return Edits(_by_setting(pair_tables), _by_setting(unit_tables))

    def pairs_on(self, on: date, setting: Setting) -> PairTable | None:
        """The table of pairs for a date of service: that of the latest quarter begun by then.

        Before the first, the first: a quarter's file keeps the pairs of earlier years with their dates.
        """
        tables = self.pair_tables.get(setting, ())
        return _begun(tables, on) or (tables[0] if tables else None)

    def units_on(self, on: date, setting: Setting) -> UnitTable | None:
        """The table of unlikely units for a date of service: that of the latest quarter begun by then.

        ``None`` before the first: these files keep no history.
        """
        return _begun(self.unit_tables.get(setting, ()), on)

    def mue_on(self, code: str, on: date, setting: Setting) -> UnitEdit | None:
        """The value of one code; ``None`` where no table has one."""
        table = self.units_on(on, setting)
        return None if table is None else table.values.get(code)

    def described(self, on: date, setting: Setting) -> str:
        """Which tables speak for a date of service, and how old they were on it."""
        pairs, units = self.pairs_on(on, setting), self.units_on(on, setting)
        return (
            f"NCCI pairs: {_named(pairs, on)}; medically unlikely edits: {_named(units, on)}"
            f" ({setting.value})"
        )


def _by_setting(tables: Iterable[_Table]) -> dict[Setting, tuple[_Table, ...]]:
    found: dict[Setting, tuple[_Table, ...]] = {}
    every = sorted(tables, key=lambda table: table.quarter)
    for setting in Setting:
        own = [table for table in every if table.setting is setting]
        found[setting] = tuple([table for table in own if table.imported] or own)
    return found


def _begun(tables: tuple[_Table, ...], on: date) -> _Table | None:
    for table in reversed(tables):
        if table.quarter <= on:
            return table
    return None


def age_of(quarter: date, on: date) -> str:
    """How far a table's quarter lies from a date of service, in a reader's words."""
    months = (on.year - quarter.year) * 12 + on.month - quarter.month
    if on < quarter:
        return f"of {quarter}, later than this date of service"
    if months < 3:  # noqa: PLR2004  a quarter
        return f"of {quarter}, the quarter of this date of service"
    return f"of {quarter}, {months} months before this date of service"


def _named(table: PairTable | UnitTable | None, on: date) -> str:
    if table is None:
        return "no table for this date"
    return f"{table.citation.title} {age_of(table.quarter, on)}"
