"""A suggestion as a biller reads it in a terminal, and as rows for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from .calculate import Answer, Answered, Refused
from .findings import Finding, Status
from .policy import Citation
from .side_by_side import Other
from .suggestion import Suggestion

COLUMNS = (
    "id",
    "policy",
    "date_of_service",
    "discipline",
    "code",
    "units",
    "units_of_day",
    "minutes",
    "modifiers",
    "tied_units",
    "because",
    "findings",
    "error",
)


class _Sources:
    """The sources that a text names, numbered in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[Citation, int] = {}

    def mark(self, source: Citation | None) -> str:
        return "" if source is None else f" [{self._numbers.setdefault(source, len(self._numbers) + 1)}]"

    def listed(self) -> Iterator[str]:
        for source, number in self._numbers.items():
            verified = "" if source.verified else "; not verified"
            yield f"[{number}] {source.title}, {source.section}"
            yield f"    {source.url} (read {source.read_on}{verified})"


def text(answer: Answer) -> str:
    """The answer over several lines, with an empty one at the end."""
    if isinstance(answer, Refused):
        where = f" ({_printable(answer.path)})" if answer.path else ""
        name = "" if answer.id is None else f" {_printable(answer.id)}"
        return f"Visit{name}: not calculated. {_printable(answer.message)}{where}\n\n"
    return "\n".join(_lines(answer)) + "\n\n"


def _lines(answer: Answered) -> Iterator[str]:
    suggestion, sources = answer.suggestion, _Sources()
    discipline = "discipline not known" if suggestion.discipline is None else suggestion.discipline.value
    yield (
        f"Visit {_printable(suggestion.id)}, {discipline}, {suggestion.date_of_service}, "
        f"under {suggestion.policy} ({suggestion.rule})"
    )
    yield (
        f"Timed minutes {_known(suggestion.total_timed_minutes)}, "
        f"timed units {_known(suggestion.total_timed_units)}, "
        f"total treatment minutes {_known(suggestion.total_treatment_minutes)}"
    )
    yield ""
    yield from _table(suggestion)
    for tie in suggestion.ties:
        yield ""
        among = ", ".join(tie.codes)
        listed = ":" if suggestion.lines_if else f" {tie.units} of them."
        yield f"{tie.units} more to share among {among}, one each at most; the clinician chooses{listed}"
        for way in suggestion.lines_if:
            yield "  " + ", ".join(f"{_printable(code)} {units}" for code, units in way.items())
    yield ""
    yield from _why(suggestion, sources)
    if suggestion.findings:
        yield ""
        yield "To weigh"
        for finding in suggestion.findings:
            says = f"{_printable(finding.message)}{sources.mark(finding.source)}"
            yield f"  {_weight(finding)} {finding.id}: {says}"
    if suggestion.checks_passed:
        yield ""
        yield f"Checked, nothing found: {', '.join(suggestion.checks_passed)}"
    for other in answer.also or ():
        yield ""
        yield _beside(suggestion, other)
    yield ""
    yield "Sources"
    for source in sources.listed():
        yield f"  {source}"


def _why(suggestion: Suggestion, sources: _Sources) -> Iterator[str]:
    yield "Why"
    said: set[str] = set()
    for line in suggestion.lines:
        for reason in line.because:
            if reason.says not in said:
                said.add(reason.says)
                yield f"  {_printable(line.code):<7} {_printable(reason.says)}{sources.mark(reason.source)}"
        for modifier in line.modifiers:
            yield (
                f"  {_printable(line.code):<7} {modifier.code}: {_printable(modifier.reason)}"
                f"{sources.mark(modifier.source)}"
            )


def _table(suggestion: Suggestion) -> Iterator[str]:
    yield f"  {'code':<7} {'units':>5}  {'of day':>6}  {'minutes':>7}  modifiers"
    for line in suggestion.lines:
        modifiers = " ".join(modifier.code for modifier in line.modifiers)
        row = (
            f"  {_printable(line.code):<7} {line.units:>5}  {line.units_of_day:>6}  "
            f"{_known(line.minutes):>7}  {modifiers}"
        )
        yield row.rstrip()


def _weight(finding: Finding) -> str:
    return "not checked" if finding.status is Status.NOT_CHECKED else finding.severity.value


def _beside(here: Suggestion, other: Other) -> str:
    if other.suggestion is None:
        return f"Under {other.policy}: not calculated. {other.refused}"
    if other.difference:
        differs = ", ".join(f"{_printable(code)} {by:+d}" for code, by in other.difference.items())
    else:
        differs = "the same by code, tied units apart" if here.ties else "the same by code"
    ties = "".join(f"; {tie.units} to share among {', '.join(tie.codes)}" for tie in other.suggestion.ties)
    return (
        f"Under {other.policy} ({other.suggestion.rule}): "
        f"{_known(other.suggestion.total_timed_units)} timed units; {differs}{ties}"
    )


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _printable(words: str) -> str:
    """What came from outside, without what would move a terminal's cursor."""
    return (
        words
        if words.isprintable()
        else "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in words)
    )


def csv_head() -> str:
    """The names of the columns."""
    return _row(COLUMNS)


def csv_rows(answer: Answer) -> str:
    """One row a line of the suggestion; one with the error where there is none."""
    if isinstance(answer, Refused):
        where = f"{answer.path}: " if answer.path else ""
        return _row([answer.id or "", *[""] * (len(COLUMNS) - 2), f"{where}{answer.message}"])
    suggestion = answer.suggestion
    common = (
        suggestion.id,
        suggestion.policy,
        suggestion.date_of_service.isoformat(),
        "" if suggestion.discipline is None else suggestion.discipline.value,
    )
    tied = {code: tie.units for tie in suggestion.ties for code in tie.codes}
    rows = [
        _row(
            (
                *common,
                line.code,
                str(line.units),
                str(line.units_of_day),
                "" if line.minutes is None else str(line.minutes),
                " ".join(modifier.code for modifier in line.modifiers),
                str(tied.get(line.code, "")),
                " ".join(reason.says for reason in line.because),
                _named(finding for finding in suggestion.findings if line.code in finding.codes),
                "",
            )
        )
        for line in suggestion.lines
    ]
    # Also what is about codes without a line, as one that was charged and is not among the services.
    shown = {line.code for line in suggestion.lines}
    general = _named(finding for finding in suggestion.findings if shown.isdisjoint(finding.codes))
    if general or not rows:
        rows.append(_row((*common, *[""] * 7, general, "")))
    return "".join(rows)


def _named(findings: Iterable[Finding]) -> str:
    return "; ".join(f"{finding.id} ({_weight(finding)})" for finding in findings)


def _row(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
