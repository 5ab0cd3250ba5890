"""From the patient's coverage to a policy, by the site's ordered rules; never by a guess."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date
from zoneinfo import ZoneInfo

from .chart import Chart
from .moments import UNREADABLE_PERIOD, outside
from .site import ChartSettings, PolicyRule
from .views import Coverage, Organization, Unread, bare, resource_from


@dataclass(frozen=True, slots=True)
class PolicyMatch:
    """The policy of a visit, or None where it has to be asked; ``because`` says why either way."""

    policy_id: str | None
    because: str
    coverage: str | None = None  # reference of the one that decided
    others: tuple[str, ...] = ()  # policies of the coverages after it, in their order


def policy_for(chart: Chart, on: date, settings: ChartSettings) -> PolicyMatch:
    """The policy of the primary coverage in force on a date of service.

    Primary is the lowest ``order`` (https://hl7.org/fhir/R4/coverage-definitions.html#Coverage.order). Where
    several could be primary and they follow different policies, the reviewer decides.
    """
    missing = next((gap for gap in chart.not_looked if gap.what == "coverage"), None)
    if missing:
        return PolicyMatch(None, f"The coverage could not be read: {missing.reason}")
    if any(unread.reference and unread.reference.startswith("Coverage/") for unread in chart.unread):
        return PolicyMatch(None, "A coverage in the chart cannot be read, and it may be the primary one.")
    return policy_among(chart.coverages, on, settings, chart.base_url, chart.organizations)


def policy_among(
    coverages: Collection[Coverage],
    on: date,
    settings: ChartSettings,
    base_url: str,
    organizations: Iterable[Organization] = (),
) -> PolicyMatch:
    """As ``policy_for``, of all the coverages that a patient has; ``organizations`` are payers that were read."""
    why_not = {coverage.reference: _outside(coverage, on, settings.time_zone) for coverage in coverages}
    # One whose period cannot be read may be in force: it is taken in, and asked about where it is primary.
    in_force = [
        coverage
        for coverage in coverages
        if _counts(coverage) and why_not[coverage.reference] in {None, UNREADABLE_PERIOD}
    ]
    if not in_force:
        return PolicyMatch(None, f"The chart shows no active coverage on {on}.")

    def match(coverage: Coverage) -> PolicyMatch:
        return _match(coverage, _payers(coverage, base_url, organizations), settings.policies)

    ranks = [coverage.order for coverage in in_force if coverage.order is not None]
    primary = [coverage for coverage in in_force if not ranks or coverage.order in {min(ranks), None}]
    unreadable = [coverage.reference for coverage in primary if why_not[coverage.reference]]
    if unreadable:
        return PolicyMatch(
            None, f"{', '.join(unreadable)} {UNREADABLE_PERIOD}, so the chart does not say who pays on {on}."
        )
    matches = [match(coverage) for coverage in primary]
    if len({match.policy_id for match in matches}) > 1:
        named = ", ".join(coverage.reference for coverage in primary)
        return PolicyMatch(None, f"The chart does not say which coverage is primary: {named}.")
    rest = [coverage for coverage in in_force if coverage not in primary]
    later = [match(coverage).policy_id for coverage in sorted(rest, key=_order)]
    others = dict.fromkeys(policy for policy in later if policy and policy != matches[0].policy_id)
    return replace(matches[0], others=tuple(others))


def _order(coverage: Coverage) -> int:
    return coverage.order or 0


def _match(coverage: Coverage, payers: set[str], rules: Iterable[PolicyRule]) -> PolicyMatch:
    types = {coding.code for coding in (coverage.type.codings if coverage.type else ())}
    plans = {
        part.value
        for part in coverage.class_ or ()
        if part.type and any(coding.code == "plan" for coding in part.type.codings)
    }
    for rule in rules:
        asked = {
            f"payer {rule.payer}": rule.payer is None or rule.payer in payers,
            f"type {rule.type}": rule.type is None or rule.type in types,
            f"plan {rule.plan}": rule.plan is None or rule.plan in plans,
        }
        if all(asked.values()):
            fits = ", ".join(words for words in asked if not words.endswith(" None"))
            return PolicyMatch(
                rule.policy,
                f"It is set up here for {fits}, which {coverage.reference} names.",
                coverage.reference,
            )
    shown = next((payor.display for payor in coverage.payor or () if payor.display), coverage.reference)
    return PolicyMatch(None, f"No policy is set up here for the payer of this coverage ({shown}).")


def _payers(coverage: Coverage, base_url: str, organizations: Iterable[Organization]) -> set[str]:
    """All that names the payer: its reference, and identifier values given here, contained, or read."""
    contained = [resource_from(raw, Organization) for raw in coverage.contained or ()]
    known = {
        f"#{organization.id}": organization
        for organization in contained
        if organization and not isinstance(organization, Unread)
    } | {organization.reference: organization for organization in organizations}
    payers: set[str] = set()
    for payor in coverage.payor or ():
        reference = bare(payor, base_url)
        if reference:
            payers.add(reference)
        identifiers = [payor.identifier] if payor.identifier else []
        if reference in known:
            identifiers += known[reference].identifier or ()
        payers |= {identifier.value for identifier in identifiers if identifier.value}
    return payers


def _counts(coverage: Coverage) -> bool:
    """Active, and nothing in it that may mean otherwise."""
    return coverage.status == "active" and not coverage.may_mean_otherwise


def _outside(coverage: Coverage, on: date, zone: ZoneInfo) -> str | None:
    """Why a coverage is not in force on a date, or that it cannot be told; open at an end that is not given."""
    return outside(coverage.period.start, coverage.period.end, on, zone) if coverage.period else None
