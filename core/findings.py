"""A finding: something a reviewer should weigh."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .policy import Citation


class Status(StrEnum):
    """A check that passed is no finding; its id stands in ``Suggestion.checks_passed``."""

    FAIL = "fail"
    NOT_CHECKED = "not-checked"


class Severity(StrEnum):
    """The words of CDS Hooks (https://cds-hooks.hl7.org/2.0/#card-attributes)."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence with the numbers in it, and the clause it rests on.

    For ``not-checked`` the message says what was missing. Findings change no units.
    """

    id: str
    status: Status
    severity: Severity
    message: str
    codes: tuple[str, ...] = ()
    source: Citation | None = None
