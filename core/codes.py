"""Therapy codes by date of service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from .policy import Citation

KINDS = (
    "timed",
    "timed-first",
    "timed-addon",
    "per-hour",
    "monthly-time",
    "monthly-device",
    "untimed",
    "evaluation",
    "supervised",
    "group",
    "unlisted",
)
TIMED_KINDS = frozenset({"timed", "timed-first", "timed-addon", "per-hour", "monthly-time"})


@dataclass(frozen=True, slots=True)
class Code:
    """One code of CPT or HCPCS, under a short name of our own.

    Minutes are whole. ``minimum_minutes`` are those of the whole service at which the first unit of
    this code is reached; ``None`` where nobody has read it. ``designation`` is Medicare's: ``always``
    or ``sometimes`` therapy, or ``None`` where it is neither or not known.
    """

    code: str
    system: str  # "CPT" or "HCPCS"
    name: str
    kind: str  # one of KINDS
    disciplines: tuple[str, ...]
    citation: Citation
    base_minutes: int | None = None
    addl_minutes: int | None = None
    minimum_minutes: int | None = None
    addon_code: str | None = None
    addon_of: str | None = None
    designation: str | None = None
    valid_from: date | None = None  # None: before any date we know of
    valid_to: date | None = None  # the last day; None: still valid
    replaced_by: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Billed by minutes rather than once a date."""
        return self.kind in TIMED_KINDS

    @property
    def pools(self) -> bool:
        """Its minutes count in the total of timed minutes of the 8-minute rule."""
        return self.kind == "timed"

    def valid_on(self, on: date) -> bool:
        """Whether the code could be reported for this date of service."""
        return (self.valid_from is None or self.valid_from <= on) and (
            self.valid_to is None or on <= self.valid_to
        )


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Every code that we know."""

    codes: Mapping[str, Code]

    def get(self, code: str) -> Code | None:
        """The code, whatever the date; ``None`` where it is not known at all."""
        return self.codes.get(code)

    def on(self, code: str, on: date) -> Code | None:  # noqa: ARG002  codes have not yet changed their kind
        """The code as it reads on a date of service; ``None`` where it is not known at all.

        A known code outside its dates is returned, and ``valid_on`` says so.
        """
        return self.codes.get(code)

    def successors(self, code: str, on: date) -> tuple[str, ...]:
        """The codes valid on the date that took the place of one that is not, through any in between."""
        known = self.codes.get(code)
        if known is None:
            return ()
        found: list[str] = []
        for successor in known.replaced_by:
            entry = self.codes.get(successor)
            if entry is None or entry.valid_on(on):
                found.append(successor)
            elif entry.valid_to is not None and entry.valid_to < on:
                found.extend(self.successors(successor, on))
        return tuple(dict.fromkeys(found))

    def __iter__(self) -> Iterator[Code]:
        return iter(self.codes.values())

    def __len__(self) -> int:
        return len(self.codes)
