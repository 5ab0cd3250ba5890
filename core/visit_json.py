"""The visit document: JSON in, suggestion out, as the public contract and its two schemas say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .findings import Finding
from .lines import Line, Modifier
from .policy import Citation, Term
from .side_by_side import Other
from .suggestion import Suggestion
from .visit import (
    AlreadyCharged,
    Contract,
    Discipline,
    History,
    PhaseOfCare,
    Provider,
    Service,
    Setting,
    Visit,
)

MINUTES_A_DAY = 24 * 60
EARLIEST_YEAR, LATEST_YEAR = 1900, 2999  # beyond, a date is a slip of the keyboard
LARGEST_AMOUNT, DECIMALS = Decimal(10_000_000), 6

Minutes = Annotated[int, Meta(ge=0, le=MINUTES_A_DAY, description="whole minutes")]
Number = Annotated[int, Meta(ge=0, le=10_000)]
Code = Annotated[str, Meta(min_length=1, max_length=20)]
Time = Annotated[
    str,
    Meta(
        description="ISO 8601 with offset, of the place of service", extra_json_schema={"format": "date-time"}
    ),
]
Amount = Annotated[
    Decimal,
    Meta(description="dollars, 0 or more, as string or number; never read through a float"),
]
ModifierCode = Annotated[str, Meta(pattern="^[0-9A-Z]{2}$")]


# ---- what comes in -------------------------------------------------------------------------------


class ServiceDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A service as documented. Without minutes or times, those of a timed code are unknown, never zero."""

    code: Code
    minutes: Minutes | None = None
    assistant_minutes: Minutes = 0
    concurrent_minutes: Minutes = 0
    units: Number | None = None
    start: Time | None = None
    end: Time | None = None
    performer: str | None = None
    condition: str | None = None
    documentation: tuple[Literal["type", "rationale", "area", "setting-frequency", "minutes"], ...] | None = (
        None
    )


class ChargedDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Units charged on the same date before now; without tin and specialty, by this group."""

    code: Code
    units: Number
    tin: str | None = None
    specialty: str | None = None


class ProviderDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The billing group."""

    tin: str | None = None
    specialty: str | None = None


class HistoryDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The calendar year so far, as far as it is known."""

    evaluations: Number | None = None
    treatment_visits: Number | None = None
    treatment_visits_elsewhere: Number | None = None
    referral_on_file: bool | None = None
    therapy_amount: Amount | None = None


class ContractDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What only the provider agreement says; amounts in dollars, as string or number."""

    daily_maximum: Amount | None = None
    amounts: Annotated[dict[Code, Amount], Meta(max_length=500)] | None = None
    successors_of_deleted_codes: bool | None = None


class VisitDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One patient, one date of service, one discipline, one billing group."""

    policy: str
    date_of_service: date
    services: Annotated[tuple[ServiceDocument, ...], Meta(max_length=500)]
    id: str = ""
    discipline: Literal["PT", "OT", "SLP"] | None = None
    setting: Literal["practitioner", "outpatient-hospital"] = "practitioner"
    provider: ProviderDocument | None = None
    already_charged: Annotated[tuple[ChargedDocument, ...], Meta(max_length=500)] = ()
    phase_of_care: Literal["initial", "later"] | None = None
    total_treatment_minutes: Minutes | None = None
    history: HistoryDocument | None = None
    contract: ContractDocument | None = None
    modifiers: Annotated[dict[Code, tuple[ModifierCode, ...]], Meta(max_length=500)] | None = None


class Unreadable(Exception):
    """A visit document that cannot be read: its id as far as it could be found, why, and where."""

    def __init__(self, visit_id: str | None, message: str, path: str) -> None:
        super().__init__(message)
        self.visit_id = visit_id
        self.message = message
        self.path = path


class _JustTheId(Struct):
    id: Any = None


_DISCIPLINES = {discipline.value: discipline for discipline in Discipline}
_SETTINGS = {setting.value: setting for setting in Setting}
_NO_PROVIDER, _NO_HISTORY, _NO_CONTRACT = Provider(), History(), Contract()

_visit_decoder = msgspec.json.Decoder(VisitDocument)
_id_decoder = msgspec.json.Decoder(_JustTheId)


def read_visit(line: bytes) -> tuple[Visit, str]:
    """The visit of one JSON document, and the id of the policy it names. Raises ``Unreadable``."""
    try:
        document = _visit_decoder.decode(line)
    except msgspec.ValidationError as error:
        raise Unreadable(_id_in(line), *_said(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(None, f"Not JSON: {str(error).removeprefix('JSON is malformed: ')}.", "") from None
    try:
        return _visit(document), document.policy
    except _Wrong as wrong:
        raise Unreadable(document.id, wrong.message, wrong.path) from None


class _Wrong(Exception):
    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _id_in(line: bytes) -> str | None:
    try:
        found = _id_decoder.decode(line).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _said(error: str) -> tuple[str, str]:
    """What msgspec says, and where, with an unknown field named in the path."""
    says, _, at = error.partition(" - at `$")
    path = at.rstrip("`").lstrip(".")
    if says.startswith("Object contains unknown field `"):
        name = says.removeprefix("Object contains unknown field `").rstrip("`")
        return f"Unknown field '{name}'.", f"{path}.{name}" if path else name
    if says.startswith("Object missing required field `"):
        name = says.removeprefix("Object missing required field `").rstrip("`")
        return f"The field '{name}' is missing.", f"{path}.{name}" if path else name
    for theirs, ours in _WORDS.items():
        says = says.replace(theirs, ours)
    return f"{says.replace('`', chr(39))}.", path


_WORDS = {
    "`int | null`": "a whole number",
    "`int`": "a whole number",
    "`float`": "a number with a fraction",
    "`str | null`": "a text",
    "`str`": "a text",
    "`array`": "a list",
    "RFC3339 encoded date": "date; it is written YYYY-MM-DD",
}


def _visit(document: VisitDocument) -> Visit:
    on = document.date_of_service
    if not EARLIEST_YEAR <= on.year <= LATEST_YEAR:
        raise _Wrong("date_of_service", f"{on} is not a date of service.")
    services = tuple([_service(place, service) for place, service in enumerate(document.services)])
    spent = sum(
        [
            (service.minutes or 0) + service.assistant_minutes + service.concurrent_minutes
            for service in document.services
        ]
    )
    if spent > MINUTES_A_DAY:
        raise _Wrong("services", f"{spent:,} minutes in all; a day has {MINUTES_A_DAY:,}.")
    provider, history = document.provider, document.history
    return Visit(
        date_of_service=on,
        discipline=None if document.discipline is None else _DISCIPLINES[document.discipline],
        services=services,
        id=document.id,
        setting=_SETTINGS[document.setting],
        provider=_NO_PROVIDER if provider is None else Provider(provider.tin, provider.specialty),
        already_charged=tuple(
            [
                AlreadyCharged(charge.code, charge.units, charge.tin, charge.specialty)
                for charge in document.already_charged
            ]
        ),
        phase_of_care=None if document.phase_of_care is None else PhaseOfCare(document.phase_of_care),
        total_treatment_minutes=document.total_treatment_minutes,
        history=_NO_HISTORY if history is None else _history(history),
        contract=_NO_CONTRACT if document.contract is None else _contract(document.contract),
        modifiers=document.modifiers or {},
    )


def _service(place: int, document: ServiceDocument) -> Service:
    start = None if document.start is None else _time(document.start, place, "start")
    end = None if document.end is None else _time(document.end, place, "end")
    if start is not None and end is not None:
        if end < start:
            raise _Wrong(f"services[{place}].end", f"The end, {document.end}, is before the start.")
        if end - start > timedelta(minutes=MINUTES_A_DAY):
            raise _Wrong(
                f"services[{place}].end", f"From start to end are more than {MINUTES_A_DAY:,} minutes."
            )
    return Service(
        document.code,
        document.minutes,
        document.assistant_minutes,
        document.concurrent_minutes,
        document.units,
        start,
        end,
        document.performer,
        document.condition,
        document.documentation,
    )


def _time(text: str, place: int, name: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _Wrong(f"services[{place}].{name}", f"'{text}' is not a time of ISO 8601.") from None
    if time.tzinfo is None:
        says = f"'{text}' has no offset from UTC, so its day and length are not certain."
        raise _Wrong(f"services[{place}].{name}", says)
    if not EARLIEST_YEAR <= time.year <= LATEST_YEAR:
        raise _Wrong(f"services[{place}].{name}", f"'{text}' is not on a date of service.")
    return time


def _history(document: HistoryDocument) -> History:
    return History(
        document.evaluations,
        document.treatment_visits,
        document.treatment_visits_elsewhere,
        document.referral_on_file,
        _amount(document.therapy_amount, "history.therapy_amount"),
    )


def _contract(document: ContractDocument) -> Contract:
    amounts: dict[str, Decimal] = {}
    for code, given in (document.amounts or {}).items():
        amount = _amount(given, f"contract.amounts.{code}")
        if amount is not None:
            amounts[code] = amount
    return Contract(
        _amount(document.daily_maximum, "contract.daily_maximum"),
        amounts,
        document.successors_of_deleted_codes,
    )


def _amount(given: Decimal | None, path: str) -> Decimal | None:
    if given is None:
        return None
    exponent = given.as_tuple().exponent
    if not given.is_finite() or not 0 <= given <= LARGEST_AMOUNT or not isinstance(exponent, int):
        raise _Wrong(path, "Not an amount in dollars.")
    if exponent < -DECIMALS:
        raise _Wrong(path, f"An amount in dollars has at most {DECIMALS} decimals here.")
    return given


# ---- what goes out -------------------------------------------------------------------------------


class SourceDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a value or rule was read, and the day someone last read it there."""

    title: str
    section: str
    url: str
    read_on: date


class ReasonDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """One step of the arithmetic."""

    says: str
    source: SourceDocument | None


class ModifierDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """A modifier, and why it stands on the line."""

    code: str
    reason: str
    source: SourceDocument | None


class LineDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """One code and set of modifiers; units to charge now, and those of the day."""

    code: str
    units: int
    units_of_day: int
    minutes: int | None
    modifiers: tuple[ModifierDocument, ...]
    because: tuple[ReasonDocument, ...]


class TieDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """Units to be shared among codes, at most one each; not yet in the lines."""

    codes: tuple[str, ...]
    units: int


class FindingDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """Something a reviewer should weigh."""

    id: str
    status: Literal["fail", "not-checked"]
    severity: Literal["info", "warning", "critical"]
    message: str
    codes: tuple[str, ...]
    source: SourceDocument | None


class TermDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """A value of the policy that was used."""

    name: str
    value: Any
    since: date
    source: SourceDocument


class OtherDocument(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The same visit under another policy; ``difference`` is its day's units less this one's, by code."""

    policy: str
    rule: str | None = None
    total_timed_units: int | None = None
    units: dict[str, int] | None = None
    ties: tuple[TieDocument, ...] = ()
    difference: dict[str, int] | None = None
    error: str | None = None


class SuggestionDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """What we suggest for a visit under a policy.

    ``lines_if`` gives the day's units by code for each way to settle the ties; it is left empty where there
    are more than a thousand, as the finding ``ways-not-listed`` then says. ``also`` is there where other
    policies were asked for.
    """

    id: str
    policy: str
    date_of_service: date
    discipline: Literal["PT", "OT", "SLP"] | None
    rule: Literal["cms-8-minute", "ama-midpoint"]
    total_timed_minutes: int | None
    total_treatment_minutes: int | None
    total_timed_units: int | None
    lines: tuple[LineDocument, ...]
    ties: tuple[TieDocument, ...]
    lines_if: tuple[dict[str, int], ...]
    findings: tuple[FindingDocument, ...]
    checks_passed: tuple[str, ...]
    terms: tuple[TermDocument, ...]
    engine: dict[str, str]
    also: tuple[OtherDocument, ...] | UnsetType = UNSET


class ErrorDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a visit could not be calculated, and where in its document."""

    message: str
    path: str


class RefusalDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in the place of a suggestion that could not be made."""

    id: str | None
    error: ErrorDocument


_encoder = msgspec.json.Encoder()

# A library has some dozens of sources and terms; each is written a million times, so each is encoded once.
# Kept with what it was made from, so that the id() stays its own.
_ENCODED: dict[int, tuple[Citation | Term, Any]] = {}
_ENCODED_KEPT = 10_000


def suggestion_json(suggestion: Suggestion, also: Sequence[Other] | None = None) -> bytes:
    """The suggestion document, on one line. The same suggestion gives the same bytes."""
    return _encoder.encode(_document(suggestion, also))


def refusal_json(visit_id: str | None, message: str, path: str) -> bytes:
    """What stands in the place of a suggestion that could not be made, on one line."""
    return _encoder.encode(RefusalDocument(visit_id, ErrorDocument(message, path)))


def _document(suggestion: Suggestion, also: Sequence[Other] | None) -> SuggestionDocument:
    return SuggestionDocument(
        suggestion.id,
        suggestion.policy,
        suggestion.date_of_service,
        suggestion.discipline,  # type: ignore[arg-type]  # Discipline is these words
        suggestion.rule,  # type: ignore[arg-type]  # RULES holds the two words and no other
        suggestion.total_timed_minutes,
        suggestion.total_treatment_minutes,
        suggestion.total_timed_units,
        tuple([_line(line) for line in suggestion.lines]),
        tuple([TieDocument(tie.codes, tie.units) for tie in suggestion.ties]),
        suggestion.lines_if,  # type: ignore[arg-type]  # written as they are
        tuple([_finding(finding) for finding in suggestion.findings]),
        suggestion.checks_passed,
        tuple([_term(term) for term in suggestion.terms]),
        suggestion.engine,  # type: ignore[arg-type]
        UNSET if also is None else tuple(_other(other) for other in also),
    )


def _line(line: Line) -> LineDocument:
    return LineDocument(
        line.code,
        line.units,
        line.units_of_day,
        line.minutes,
        tuple([_modifier(modifier) for modifier in line.modifiers]),
        tuple([ReasonDocument(reason.says, _source(reason.source)) for reason in line.because]),
    )


def _modifier(modifier: Modifier) -> ModifierDocument:
    return ModifierDocument(modifier.code, modifier.reason, _source(modifier.source))


def _finding(finding: Finding) -> FindingDocument:
    return FindingDocument(
        finding.id,
        finding.status,  # type: ignore[arg-type]  # Status and Severity are these words
        finding.severity,  # type: ignore[arg-type]
        finding.message,
        finding.codes,
        _source(finding.source),
    )


def _other(other: Other) -> OtherDocument:
    suggestion = other.suggestion
    if suggestion is None:
        return OtherDocument(other.policy, error=other.refused)
    return OtherDocument(
        other.policy,
        suggestion.rule,
        suggestion.total_timed_units,
        dict(other.units),
        tuple(TieDocument(tie.codes, tie.units) for tie in suggestion.ties),
        dict(other.difference),
    )


def _source(citation: Citation | None) -> Any:
    if citation is None:
        return None
    kept = _ENCODED.get(id(citation))
    return kept[1] if kept is not None else _encoded(citation, _source_document(citation))


def _term(term: Term) -> Any:
    kept = _ENCODED.get(id(term))
    if kept is not None:
        return kept[1]
    document = TermDocument(term.name, term.value, term.since, _source_document(term.citation))
    return _encoded(term, document)


def _source_document(citation: Citation) -> SourceDocument:
    return SourceDocument(citation.title, citation.section, citation.url, citation.read_on)


def _encoded(made_from: Citation | Term, document: SourceDocument | TermDocument) -> msgspec.Raw:
    if len(_ENCODED) >= _ENCODED_KEPT:
        _ENCODED.clear()
    raw = msgspec.Raw(_encoder.encode(document))
    _ENCODED[id(made_from)] = (made_from, raw)
    return raw


# ---- their schemas -------------------------------------------------------------------------------

SCHEMAS = ("visit", "suggestion")


def schema(name: str) -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of the ``visit`` or the ``suggestion`` document."""
    documents: dict[str, list[Any]] = {
        "visit": [VisitDocument],
        "suggestion": [SuggestionDocument, RefusalDocument],
    }
    roots, parts = msgspec.json.schema_components(documents[name], ref_template="#/$defs/{name}")
    root = roots[0] if len(roots) == 1 else {"oneOf": list(roots)}
    written = {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": parts}
    return _mended(written)  # type: ignore[no-any-return]


def _mended(node: Any) -> Any:
    """The schema with amounts as strings or numbers (msgspec names only one), and its texts flush."""
    if isinstance(node, list | tuple):
        return [_mended(item) for item in node]
    if not isinstance(node, dict):
        return node
    mended = {key: _mended(value) for key, value in node.items()}
    if mended.get("format") == "decimal":
        mended["type"] = ["string", "number"]
    if isinstance(mended.get("description"), str):
        mended["description"] = inspect.cleandoc(mended["description"]).replace("``", "")
    return mended
