"""Values in the words of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined

from ..core.findings import Finding, Severity, Status
from ..core.library import Library
from ..core.policy import Citation
from ..core.suggestion import settles
from ..core.visit import Discipline, PhaseOfCare, Service
from . import reasons
from .review import Answers, Review
from .timeline import WORDS, Picture, Scale, Span, picture, scale

Undefined = StrictUndefined  # a template that asks for what is not there fails in its test

DISCIPLINES = {
    Discipline.PT: "Physical therapy",
    Discipline.OT: "Occupational therapy",
    Discipline.SLP: "Speech-language pathology",
}
RULES = {"cms-8-minute": "CMS 8-minute rule", "ama-midpoint": "CPT midpoint rule"}
MARKS = {Severity.CRITICAL: "■", Severity.WARNING: "▲", Severity.INFO: "●"}


def long_date(value: date) -> str:
    """Monday 2 March 2026: unmistakable on both sides of the ocean."""
    return f"{value:%A} {value.day} {value:%B %Y}"


def short_date(value: date) -> str:
    """2 March 2026."""
    return f"{value.day} {value:%B %Y}"


def clock_time(value: datetime) -> str:
    """9:05, in the zone the value has."""
    return f"{value.hour}:{value:%M}"


def discipline_name(value: Discipline | str | None) -> str:
    """Physical therapy, or that it is not known."""
    return DISCIPLINES[Discipline(value)] if value else "Discipline not known"


def rule_name(value: str) -> str:
    """CMS 8-minute rule."""
    return RULES.get(value, value)


def units_by_code(value: Mapping[str, int]) -> str:
    """97112 × 2, 97110 × 1."""
    return ", ".join(f"{code} × {units}" for code, units in value.items())


def plural(count: int | None, word: str) -> str:
    """1 unit, 2 units."""
    return f"{'?' if count is None else count} {word}{'' if count == 1 else 's'}"


FILTERS: dict[str, Callable[..., Any]] = {
    "long_date": long_date,
    "short_date": short_date,
    "clock_time": clock_time,
    "discipline_name": discipline_name,
    "rule_name": rule_name,
    "units_by_code": units_by_code,
    "plural": plural,
}


# --- what is asked beside a finding -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """Something that the chart does not say and a person may know.

    ``kind`` is dollars, count, yes-no, phase or record; a record of which something is lacking has ``parts``:
    element, words, and whether it is lacking.
    """

    name: str
    label: str
    kind: str
    value: str  # as entered so far; "" is not known
    parts: tuple[tuple[str, str, bool], ...] = ()

    @property
    def says(self) -> str:
        """What was entered, in words."""
        lacking = [words.partition(",")[0].lower() for _, words, lacks in self.parts if lacks]
        if lacking:
            return f"{self.label}: not there: {', '.join(lacking)}"
        return f"{self.label}: {dict(CHOICES.get(self.kind, ())).get(self.value, self.value)}"


FIELDS: Mapping[str, tuple[str, str]] = {
    "therapy_amount": ("This year's amount so far, before this visit, in dollars", "dollars"),
    "total_treatment_minutes": ("Total treatment minutes, as documented", "count"),
    "evaluations": ("Evaluations this calendar year before this visit", "count"),
    "treatment_visits": ("Treatment visits here this calendar year, before this one", "count"),
    "treatment_visits_elsewhere": ("Treatment visits at other providers this calendar year", "count"),
    "referral_on_file": ("Is this year's referral on file?", "yes-no"),
    "phase_of_care": ("Phase of care", "phase"),
    "daily_maximum": ("The contract's daily payment maximum, in dollars", "dollars"),
    "successors_of_deleted_codes": (
        "Does the contract count the codes that replaced deleted ones?",
        "yes-no",
    ),
    "separate_conditions": ("Was each evaluation for a condition of its own?", "yes-no"),
}
ASKED: Mapping[str, tuple[str, ...]] = {
    "kx-threshold": ("therapy_amount",),
    "medical-review-threshold": ("therapy_amount",),
    "total-treatment-time": ("total_treatment_minutes",),
    "evaluations-per-year": ("evaluations",),
    "authorization-needed": ("treatment_visits", "treatment_visits_elsewhere"),
    "referral-needed": ("referral_on_file",),
    "therapies-in-initial-phase": ("phase_of_care",),
    "daily-payment-maximum": ("daily_maximum",),
    "timed-unit-cap": ("successors_of_deleted_codes",),
    "evaluation-once-per-day": ("separate_conditions",),
}
THRESHOLDS = frozenset({"kx-threshold", "medical-review-threshold"})
RECORD = {
    "type": "Type of service",
    "rationale": "Rationale",
    "area": "Area of application",
    "setting-frequency": "Setting and frequency, where they apply",
    "minutes": "Actual minutes, of a timed code",
}
CHOICES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "yes-no": (("", "Not known"), ("yes", "Yes"), ("no", "No")),
    "record": (("", "Not looked up"), ("all", "It is all there"), ("part", "Some of it is not there")),
    "phase": (("", "Not known"), (PhaseOfCare.INITIAL, "Initial phase"), (PhaseOfCare.LATER, "Later")),
}


OF_VISIT = frozenset({"total_treatment_minutes", "phase_of_care", "separate_conditions"})
OF_CONTRACT = frozenset({"daily_maximum", "successors_of_deleted_codes"})


def field_of(name: str, answers: Answers) -> Field:
    """A field with what was entered. ``amount:97110`` is the contract's amount for a unit of a code,
    ``record:97110`` whether the record holds what the payer wants documented of it.
    """
    if name.startswith("record:"):
        code = name.removeprefix("record:")
        lacks = answers.record.get(code, ())
        value = "" if code not in answers.record else "all" if lacks == () else "part"
        parts = tuple((element, words, element in (lacks or ())) for element, words in RECORD.items())
        label = f"What the payer wants documented of {code}"
        return Field(name, label, "record", value, parts if value == "part" else ())
    if name.startswith("amount:"):
        code = name.removeprefix("amount:")
        amount = answers.contract.amounts.get(code)
        label = f"The contract's amount for a unit of {code}, in dollars"
        return Field(name, label, "dollars", "" if amount is None else f"{amount}")
    label, kind = FIELDS[name]
    known: Any
    if name in OF_VISIT:
        known = getattr(answers, name)
    elif name in OF_CONTRACT:
        known = getattr(answers.contract, name)
    else:
        known = getattr(answers.history, name)
    shown = "" if known is None else ("yes" if known else "no") if kind == "yes-no" else str(known)
    return Field(name, label, kind, shown)


def every_field(answers: Answers) -> tuple[str, ...]:
    """The names of all fields that may be on the form."""
    of_codes = [f"amount:{code}" for code in answers.contract.amounts]
    return (*FIELDS, *of_codes, *(f"record:{code}" for code in answers.record))


def _asked(finding: Finding, reviewed: Review) -> tuple[str, ...]:
    """What would let this check be made, or what was entered that made it fail."""
    names = ASKED.get(finding.id, ())
    if finding.id == "daily-payment-maximum" and reviewed.answers.contract.daily_maximum is not None:
        codes = dict.fromkeys(line.code for line in reviewed.lines if line.units_of_day)
        names = (*names, *(f"amount:{code}" for code in codes))
    if finding.id in THRESHOLDS and reviewed.answers.history.therapy_amount is not None:
        names = (*names, *(f"amount:{code}" for code in finding.codes))
    if finding.id == "documentation-missing":
        names = tuple(f"record:{code}" for code in finding.codes)
    if finding.status is Status.NOT_CHECKED:
        return names
    return tuple(name for name in names if field_of(name, reviewed.answers).value)


# --- findings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutOn:
    """An offer to put a modifier on, which the clinician attests. ``options`` are value and words."""

    key: str
    asks: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """A finding with the reason that was given for it, ``""`` where none was; ``key`` is the finding's own."""

    key: str
    finding: Finding
    reason: str

    @property
    def anchor(self) -> str:
        """The key as a part of an element's id."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.key)

    @property
    def can_note(self) -> bool:
        """Whether a reason can be noted; minutes that are missing are entered instead."""
        return self.finding.id != "minutes-missing"

    @property
    def needs_answer(self) -> bool:
        """Whether it has to be answered with a reason before signing."""
        failed = self.finding.status is Status.FAIL and self.finding.severity is Severity.CRITICAL
        return self.can_note and failed


@dataclass(frozen=True, slots=True)
class Shown:
    """Findings of one kind or one cause as the page shows them: one row."""

    key: str
    noted: tuple[Noted, ...]
    tag: str
    kind: str  # the class of its colour, which never speaks alone
    title: str = ""  # the cause, where several findings have the same
    fields: tuple[Field, ...] = ()
    puts: tuple[PutOn, ...] = ()
    correct: tuple[tuple[str, str], ...] = ()  # where to correct it: link, words
    before: str = ""  # a former draft's one reason for all of them, which answers none

    @property
    def anchor(self) -> str:
        """Its element's id."""
        return f"find-{self.kind}-{re.sub(r'[^A-Za-z0-9]+', '-', self.key)}"

    @property
    def finding(self) -> Finding:
        """The first."""
        return self.noted[0].finding

    @property
    def source(self) -> Citation | None:
        """The one source of all of them, where they have one."""
        sources = {each.finding.source for each in self.noted}
        return self.finding.source if len(sources) == 1 else None


WEIGHTS = ("critical", "warning", "unchecked", "info")
WHEN_MINUTES_ARE_KNOWN = frozenset(
    {
        "no-timed-units",
        "total-treatment-time",
        "average-minutes-per-unit",
        "service-below-minimum",
        "minutes-counted-twice",
        "mue",
        "timed-unit-cap",
        "daily-payment-maximum",
    }
)
TABLES = frozenset({"ncci-edit", "mue"})


def shown(findings: tuple[Finding, ...]) -> tuple[Shown, ...]:
    """Findings in the order of weight: critical, warning, not checked, information."""
    found = (Noted(key, finding, "") for key, finding in reasons.keyed(findings).items())
    return tuple(sorted((_row(each.key, [each]) for each in found), key=_weight))


def rows(reviewed: Review, library: Library) -> tuple[Shown, ...]:
    """The findings of a review, those of one kind and those of one cause together, in the order of weight."""
    groups: dict[tuple[str, str, str], list[Noted]] = {}
    lacking = missing_codes(reviewed)
    notes = reviewed.answers.notes
    given = reasons.given(notes, reviewed.findings)
    of_all = reasons.of_all(notes, reviewed.findings)
    for own, finding in reasons.keyed(reviewed.findings).items():
        kind = _kind(finding)
        key, title = finding.id, ""
        if finding.status is Status.NOT_CHECKED:
            key, title = _cause(own, finding, reviewed, lacking)
        groups.setdefault((kind, key, title), []).append(Noted(own, finding, given.get(own, "")))
    asked: set[str] = set()  # a field stands once on the page, whoever asks for it
    found = []
    for (_, key, title), of_group in groups.items():
        findings = [each.finding for each in of_group]
        row = replace(
            _row(key, of_group),
            title=title if len(of_group) > 1 or key == "minutes" else "",
            puts=tuple(put for finding in findings for put in _puts(finding, reviewed, library)),
            correct=_where(findings, reviewed, waiting=key == "minutes"),
            before=of_all.get(findings[0].id, "") if findings[0].status is Status.FAIL else "",
        )
        found.append(row)
    found.sort(key=_weight)
    for place, row in enumerate(found):
        names = dict.fromkeys(name for each in row.noted for name in _asked(each.finding, reviewed))
        fields = tuple(field_of(name, reviewed.answers) for name in names if name not in asked)
        found[place] = replace(row, fields=fields)
        asked.update(names)
    return tuple(found)


def unverified(reviewed: Review, library: Library) -> tuple[tuple[str, Citation], ...]:
    """What a suggestion rests on that nobody read at its source, in words, with the source."""
    if reviewed.suggestion is None:
        return ()
    on = reviewed.suggestion.date_of_service
    doubtful: dict[str, Citation] = {}
    for term in reviewed.suggestion.terms:
        if not term.citation.verified:
            doubtful[term.name.replace("_", " ").capitalize()] = term.citation
    for line in reviewed.suggestion.lines:
        entry = library.codes.on(line.code, on)
        if entry is not None and not entry.citation.verified:
            doubtful[f"What is known of {line.code}"] = entry.citation
    for finding in reviewed.suggestion.findings:
        source = finding.source
        if source is not None and not source.verified and source not in doubtful.values():
            doubtful[CHECKED.get(finding.id, finding.id)] = source
    return tuple(doubtful.items())


def kept_fields(reviewed: Review, shown_rows: Iterable[Shown]) -> tuple[Field, ...]:
    """What was entered and no finding asks for any more, so that it can still be changed."""
    there = {field.name for row in shown_rows for field in row.fields}
    every = (field_of(name, reviewed.answers) for name in every_field(reviewed.answers))
    return tuple(field for field in every if field.value and field.name not in there)


def missing_codes(reviewed: Review) -> tuple[str, ...]:
    """The timed codes whose minutes nobody knows yet."""
    if reviewed.suggestion is None:
        return ()
    return tuple(
        dict.fromkeys(
            code
            for finding in reviewed.suggestion.findings
            if finding.id == "minutes-missing" and finding.status is Status.FAIL
            for code in finding.codes
        )
    )


def _cause(own: str, finding: Finding, reviewed: Review, lacking: tuple[str, ...]) -> tuple[str, str]:
    """Why a check could not be made, as a key and in words; checks of one cause stand together."""
    if lacking and finding.id in WHEN_MINUTES_ARE_KNOWN and "minutes" in finding.message.lower():
        return "minutes", f"waiting for the minutes of {', '.join(lacking)}"
    names = _asked(finding, reviewed)
    if names:
        return names[0], f"waiting for {field_of(names[0], Answers()).label.partition(',')[0].lower()}"
    if finding.id in TABLES and "table" in finding.message:
        return "tables", "the edit tables that are installed here do not reach this far"
    return own, ""


def _where(findings: Iterable[Finding], reviewed: Review, *, waiting: bool) -> tuple[tuple[str, str], ...]:
    """Links to where these can be corrected."""
    places: dict[str, str] = {}
    for finding in findings:
        if finding.id == "minutes-missing" or waiting:
            places["#ask"] = "Enter the minutes"
        elif finding.id == "discipline-unknown":
            places["#ask"] = "Choose the discipline"
        elif finding.status is Status.FAIL and finding.id in CORRECTED_IN_CHART:
            for number, service in enumerate(reviewed.prepared.visit.services, start=1):
                if service.code in finding.codes:
                    places[f"#service-{number}"] = f"Correct {service.code}"
    return tuple(places.items())


CORRECTED_IN_CHART = frozenset(
    {
        "minutes-counted-twice",
        "outside-date-of-service",
        "service-below-minimum",
        "untimed-units",
        "group-with-individual",
        "assistant-method",
        "assistant-evaluation",
        "discipline-of-code",
        "code-unknown",
        "code-not-valid-on-date",
        "code-not-accepted-by-payer",
        "unlisted-code",
        "longer-than-encounter",
        "discipline-not-documented",
        "minutes-unreadable",
        "already-charged",
    }
)


def _puts(finding: Finding, reviewed: Review, library: Library) -> Iterator[PutOn]:
    """The modifiers that would answer a finding; none is put on by itself."""
    if finding.status is not Status.FAIL:
        return
    if finding.id == "kx-threshold":
        yield PutOn("KX", "Why are the services medically necessary?", ())
    if finding.id == "ncci-edit":
        first, second = finding.codes
        on = reviewed.visit.date_of_service
        table = library.edits.pairs_on(on, reviewed.visit.setting)
        pair = table.between(first, second, on) if table else None
        if pair is not None and pair.indicator == 1:
            codes = (pair.column_2,) if pair.ordered else (pair.column_1, pair.column_2)
            options = tuple(
                (f"{modifier}@{code}", f"{modifier} on {code}: {says}")
                for code in codes
                for modifier, says in SEPARATE.items()
            )
            yield PutOn(f"{first}-{second}", "How were they separate?", options)


# What each says, in our own words (CMS, MLN1783722, Proper Use of Modifiers 59, XE, XP, XS and XU).
SEPARATE = {
    "59": "a distinct service, where none of the others fits",
    "XE": "a separate encounter",
    "XS": "a separate structure of the body",
    "XP": "another practitioner",
    "XU": "an unusual service that does not overlap",
}


def _row(key: str, noted: list[Noted]) -> Shown:
    finding = noted[0].finding
    kind = _kind(finding)
    if kind == "unchecked":
        return Shown(key, tuple(noted), "○ Not checked", kind)
    word = {"critical": "Critical", "warning": "Warning", "info": "Note"}[kind]
    return Shown(key, tuple(noted), f"{MARKS[finding.severity]} {word}", kind)


def _kind(finding: Finding) -> str:
    return "unchecked" if finding.status is Status.NOT_CHECKED else str(finding.severity)


def _weight(item: Shown) -> tuple[int, int]:
    return WEIGHTS.index(item.kind), -max(tuple(Severity).index(each.finding.severity) for each in item.noted)


def missing_minutes(reviewed: Review) -> tuple[Service, ...]:
    """The services whose minutes the person has to enter; they stay on the page once entered."""
    answers = reviewed.answers
    codes = missing_codes(reviewed)
    return tuple(
        service
        for service in reviewed.prepared.visit.services
        if service.reference not in answers.left_out
        and (
            (service.reference or "") in answers.minutes
            or (service.code in codes and not service.start and service.minutes is None)
        )
        and _without_minutes(service)
    )


def _without_minutes(service: Service) -> bool:
    spent = service.minutes or service.assistant_minutes or service.concurrent_minutes
    return not spent and not (service.start and service.end and service.end >= service.start)


def chart_minutes(service: Service, times: Span | None = None) -> str:
    """What the chart says of a service's time."""
    parts = []
    if times is not None:
        parts.append(f"{clock_time(times.start)} to {clock_time(times.end)}")
    elif service.start and service.end:
        parts.append(f"{clock_time(service.start)} to {clock_time(service.end)}")
    elif service.minutes is not None and (service.minutes or not service.assistant_minutes):
        parts.append(f"{service.minutes} min")
    if service.assistant_minutes:
        parts.append(f"{service.assistant_minutes} min by the assistant")
    if service.concurrent_minutes:
        parts.append(f"{service.concurrent_minutes} min together")
    return ", ".join(parts) or "no time"


class Sources:
    """The sources that a page names, numbered in order of appearance; the full titles stand at its end."""

    def __init__(self) -> None:
        self._numbers: dict[Citation, int] = {}

    def number(self, source: Citation) -> int:
        """The source's number on this page."""
        return self._numbers.setdefault(source, len(self._numbers) + 1)

    def __iter__(self) -> Iterator[tuple[int, Citation]]:
        return ((number, source) for source, number in self._numbers.items())


MOST_OF_A_SECTION = 60


def section(citation: Citation) -> str:
    """The section as far as it can be read at a glance; the whole stands among the sources."""
    words = " ".join(citation.section.split())
    for end in (";", " - ", ","):
        head = words.partition(end)[0]
        if len(words) > MOST_OF_A_SECTION and len(head) >= len("§20.2"):
            words = head
    return words if len(words) <= MOST_OF_A_SECTION else f"{words[:MOST_OF_A_SECTION].rsplit(' ', 1)[0]} …"


FILTERS |= {
    "chart_minutes": chart_minutes,
    "section": section,
    "first_lower": lambda words: words[:1].lower() + words[1:] if words[1:2].islower() else words,
    "severity_mark": lambda severity: f"{MARKS[severity]} {severity.capitalize()}.",
    "check_words": lambda check: CHECKED.get(check, check.replace("-", " ")),
    "kind_words": lambda kind: WORDS[kind],
    "dollars": lambda amount: f"${amount:,.2f}",
}


CHECKED: Mapping[str, str] = {
    "code-unknown": "Every code is in the table",
    "code-not-valid-on-date": "Every code is valid on the date of service",
    "code-not-accepted-by-payer": "The payer takes every code",
    "unlisted-code": "No unlisted code",
    "outside-policy-scope": "The policy is written for this discipline and setting",
    "minutes-missing": "Every timed code has its minutes",
    "minutes-counted-twice": "No minutes counted twice",
    "outside-date-of-service": "All times lie on the date of service",
    "service-below-minimum": "Every code reaches the minutes of a unit",
    "no-timed-units": "The timed minutes make a unit",
    "ways-not-listed": "Every way to share the tied units can be listed",
    "total-treatment-time": "Total treatment time holds all services",
    "untimed-units": "Untimed codes stand once",
    "units-not-counted": "No documented units that were passed over",
    "average-minutes-per-unit": "Average minutes a unit",
    "group-with-individual": "Group and one-on-one minutes are apart",
    "assistant-method": "The ways to decide about the assistant's modifier agree",
    "assistant-evaluation": "No evaluation by an assistant",
    "already-charged": "Not more was charged than the day allows",
    "kx-threshold": "KX threshold",
    "medical-review-threshold": "Medical review threshold",
    "discipline-unknown": "The discipline is known",
    "discipline-of-code": "Every code belongs to the discipline",
    "modifier-conflict": "The modifiers agree with the visit",
    "modifier-slots": "The modifiers fit on a claim line",
    "timed-unit-cap": "The payer's most timed units a day",
    "therapies-in-initial-phase": "Therapies in the initial phase of care",
    "documentation-missing": "What the payer wants documented",
    "evaluation-once-per-day": "One evaluation a day and condition",
    "evaluations-per-year": "Evaluations this year",
    "authorization-needed": "Visits before an authorization",
    "referral-needed": "This year's referral",
    "daily-payment-maximum": "The contract's daily maximum",
    "ncci-edit": "NCCI pairs of codes",
    "mue": "Units that are medically unlikely",
    "policy-unverified": "Every source was read",
}


def settled(reviewed: Review) -> tuple[str, ...]:
    """What the person settled, a sentence each, as far as it bears on these charges."""
    answers, services = reviewed.answers, reviewed.prepared.visit.services
    code = {service.reference or "": service.code for service in services}
    said = []
    if answers.discipline not in {None, reviewed.prepared.visit.discipline}:
        said.append(f"Discipline chosen: {discipline_name(answers.discipline)}")
    if answers.tie and reviewed.unsettled and settles(reviewed.unsettled, answers.tie):
        said.append(f"The choice between codes: {units_by_code(answers.tie)}")
    # A draft may speak of services that are no longer in the chart: they bear on nothing.
    minutes = {of: correction for of, correction in answers.minutes.items() if of in code}
    for reference, correction in minutes.items():
        share = correction.assistant_minutes
        part = "" if share is None else f", {share} of them by an assistant"
        said.append(f"{correction.minutes} minutes entered for {code[reference]}{part}: {correction.reason}")
    left_out = {of: reason for of, reason in answers.left_out.items() if of in code}
    said += [f"{code[reference]} left out: {reason}" for reference, reason in left_out.items()]
    said += [f"{', '.join(off)} taken off {taken}" for taken, off in answers.modifiers_off.items()]
    put = {(modifier, why) for on in answers.modifiers_on.values() for modifier, why in on.items()}
    for modifier, why in sorted(put):
        codes = [each for each, on in answers.modifiers_on.items() if on.get(modifier) == why]
        said.append(f"{modifier} put on {', '.join(codes)}: {why}")
    said += [
        f"{one.message} Reason: {one.reason}" for one in reasons.reasoned(answers.notes, reviewed.findings)
    ]
    fields = (field_of(name, answers) for name in every_field(answers))
    said += [field.says for field in fields if field.value]
    return tuple(said)


# --- the picture of the minutes ---------------------------------------------------------------------------


def minutes_picture(reviewed: Review, library: Library, zone: ZoneInfo) -> Picture:
    """The chart's minutes with the answers in them, in the zone of the place of service."""
    prepared, answers = reviewed.prepared, reviewed.answers
    services = prepared.visit.services
    on = prepared.visit.date_of_service
    known = {service.code: library.codes.on(service.code, on) for service in services}
    return picture(
        services,
        timed={code: entry.timed for code, entry in known.items() if entry is not None},
        times=prepared.times,
        zone=zone,
        entered={
            reference: (correction.minutes, correction.assistant_minutes)
            for reference, correction in answers.minutes.items()
        },
        left_out=answers.left_out,
        assistants=prepared.assistant_services,
        people=prepared.people,
        scales=_scales(reviewed, library),
    )


def _scales(reviewed: Review, library: Library) -> list[Scale]:
    """The total against the steps of the rule; where each code counts alone, one scale a code."""
    suggestion = reviewed.suggestion
    if suggestion is None:
        return []
    terms = {term.name: term.value for term in suggestion.terms}
    rule = {"unit_minutes": terms["unit_minutes"], "minimum_minutes": terms["minimum_minutes"]}
    on = suggestion.date_of_service
    entries = {line.code: library.codes.on(line.code, on) for line in suggestion.lines}
    pooled = [code for code, entry in entries.items() if entry is not None and entry.pools]
    if not pooled:
        return []
    if terms["counting"] == "total-timed-minutes":
        return [scale("Total", suggestion.pooled_minutes, **rule)]
    found = []
    for code in pooled:
        spent = [line.minutes for line in suggestion.lines if line.code == code]
        known = [minutes for minutes in spent if minutes is not None]
        found.append(scale(code, sum(known) if len(known) == len(spent) else None, **rule))
    return found
