"""Checks of the codes themselves: known, valid on the date of service, taken by the payer."""

from __future__ import annotations

from .checks import Check, Day
from .findings import Finding, Severity, Status
from .policy import Citation


def code_unknown(day: Day) -> tuple[Finding, ...]:
    """A code that is not in the table cannot be counted as timed or untimed."""
    return tuple(
        _failed(
            "code-unknown",
            f"{code} is not in the table of codes, so nothing is known of its minutes or dates.",
            code,
        )
        for code, known in day.known.items()
        if known is None
    )


def code_not_valid_on_date(day: Day) -> tuple[Finding, ...]:
    """A code must be valid on the date of service, whatever the date of billing."""
    on = day.visit.date_of_service
    found: list[Finding] = []
    for code, known in day.known.items():
        if known is None:
            found.append(
                Finding(
                    id="code-not-valid-on-date",
                    status=Status.NOT_CHECKED,
                    severity=Severity.INFO,
                    message=f"{code} is not in the table of codes, so its dates are not known.",
                    codes=(code,),
                )
            )
        elif known.valid_to is not None and known.valid_to < on:
            successors = day.codes.successors(code, on)
            instead = f" In its place: {_listed(successors)}." if successors else ""
            found.append(
                _failed(
                    "code-not-valid-on-date",
                    f"{code} ended on {known.valid_to} and cannot be billed for {on}.{instead}",
                    code,
                    known.citation,
                    Severity.CRITICAL,
                )
            )
        elif known.valid_from is not None and on < known.valid_from:
            found.append(
                _failed(
                    "code-not-valid-on-date",
                    f"{code} begins on {known.valid_from} and cannot be billed for {on}.",
                    code,
                    known.citation,
                    Severity.CRITICAL,
                )
            )
    return tuple(found)


def code_not_accepted_by_payer(day: Day) -> tuple[Finding, ...] | None:
    """A payer may list the codes that it takes, or those that it does not."""
    accepted = day.terms.get("accepted_codes")
    refused = day.terms.get("not_accepted_codes")
    if accepted is None and refused is None:
        return None
    title = day.terms.policy.title
    found: list[Finding] = []
    for code in day.known:
        if refused is not None and code in refused.value:
            successors = day.codes.successors(code, day.visit.date_of_service)
            instead = f" Report {_listed(successors)} instead." if successors else ""
            found.append(
                _failed(
                    "code-not-accepted-by-payer",
                    f"{code} is not paid under {title}.{instead}",
                    code,
                    refused.citation,
                )
            )
        elif accepted is not None and code not in accepted.value:
            found.append(
                _failed(
                    "code-not-accepted-by-payer",
                    f"{code} is not among the {len(accepted.value)} codes that {title} lists.",
                    code,
                    accepted.citation,
                    Severity.INFO,
                )
            )
    return tuple(found)


def unlisted_code(day: Day) -> tuple[Finding, ...] | None:
    """A payer may not want codes for what has no code; its list need not be complete."""
    named = day.terms.get("unlisted_codes")
    if named is None:
        return None
    title = day.terms.policy.title
    found: list[Finding] = []
    for code, known in day.known.items():
        if code in named.value or (known is not None and known.kind == "unlisted"):
            found.append(
                _failed(
                    "unlisted-code",
                    f"{code} is an unlisted code, which as a rule is not billed to {title};"
                    " ask the payer which code describes the service.",
                    code,
                    named.citation,
                )
            )
        elif known is None:
            found.append(
                Finding(
                    id="unlisted-code",
                    status=Status.NOT_CHECKED,
                    severity=Severity.INFO,
                    message=f"{code} is not in the table of codes, so it may be an unlisted one.",
                    codes=(code,),
                    source=named.citation,
                )
            )
    return tuple(found)


def outside_policy_scope(day: Day) -> tuple[Finding, ...] | None:
    """A policy may be written for some disciplines and settings only."""
    scope = day.terms.get("scope")
    if scope is None:
        return None
    title = day.terms.policy.title
    discipline, setting = day.visit.discipline, day.visit.setting
    found: list[Finding] = []
    if setting not in scope.value["settings"]:
        found.append(
            _failed(
                "outside-policy-scope",
                f"{title} is written for the setting {_listed(scope.value['settings'])};"
                f" this visit is {setting.value}.",
                None,
                scope.citation,
            )
        )
    if discipline is None:
        found.append(
            Finding(
                id="outside-policy-scope",
                status=Status.NOT_CHECKED,
                severity=Severity.INFO,
                message=f"The discipline is not known, so neither is whether {title} applies.",
                source=scope.citation,
            )
        )
    elif discipline not in scope.value["disciplines"]:
        found.append(
            _failed(
                "outside-policy-scope",
                f"{title} is written for {_listed(scope.value['disciplines'])};"
                f" this visit is {discipline.value}.",
                None,
                scope.citation,
            )
        )
    return tuple(found)


CHECKS: tuple[tuple[str, Check], ...] = (
    ("code-unknown", code_unknown),
    ("code-not-valid-on-date", code_not_valid_on_date),
    ("code-not-accepted-by-payer", code_not_accepted_by_payer),
    ("unlisted-code", unlisted_code),
    ("outside-policy-scope", outside_policy_scope),
)


def _failed(
    check: str,
    message: str,
    code: str | None,
    source: Citation | None = None,
    severity: Severity = Severity.WARNING,
) -> Finding:
    return Finding(check, Status.FAIL, severity, message, (code,) if code else (), source)


def _listed(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)
