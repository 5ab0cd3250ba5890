"""Whole minutes of a code's services: the floor of all its seconds, and whose each minute is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from ..core.findings import Finding, Severity
from ..core.visit import Service
from .minutes import shown
from .procedures import MINUTE, NO_TIME, Counted, finding_of


def in_whole_minutes(
    services: Iterable[Service],
    lasted: Mapping[str, timedelta],
    *,
    assistant: Collection[str],
    together: Collection[str],
) -> tuple[Service, ...]:
    """The services with their whole minutes, so that a code's are those of the sum of its seconds.

    ``lasted`` is the time of each on the day, by reference; a service that is not in it stays as it is.
    ``assistant`` are those by an assistant alone, ``together`` those by therapist and assistant. Start and
    end of a therapist alone stay: ``core`` adds them up itself.
    """
    services = tuple(services)
    sums: dict[str, timedelta] = {}
    shares: dict[str, int] = {}
    # The therapist's first, then the assistant's: so a minute that is made of seconds of both is the
    # assistant's. Nobody documented whose it is, and as the therapist's it could take CQ or CO off a unit,
    # which then pays more (42 CFR 410.59(a)(4), 410.60(a)(4)). ``odd_minutes`` tells of it.
    for service in sorted(services, key=lambda one: _turn(one, assistant, together)):
        reference = service.reference or ""
        if reference not in lasted:
            continue
        before = sums.get(service.code, NO_TIME)
        sums[service.code] = before + lasted[reference]
        shares[reference] = sums[service.code] // MINUTE - before // MINUTE
    return tuple(_with_share(service, shares, assistant, together) for service in services)


def _turn(service: Service, assistant: Collection[str], together: Collection[str]) -> int:
    """What ``core`` counts by the clock comes first: it makes whole minutes of that alone."""
    if service.reference in assistant:
        return 3
    if service.reference in together:
        return 2
    return 0 if service.start and service.end else 1


def _with_share(
    service: Service, shares: Mapping[str, int], assistant: Collection[str], together: Collection[str]
) -> Service:
    share = shares.get(service.reference or "")
    if share is None:
        return service
    if service.reference in assistant:
        return replace(service, minutes=0, assistant_minutes=share)
    if service.reference in together:
        return replace(service, minutes=0, concurrent_minutes=share)
    return service if service.start and service.end else replace(service, minutes=share)


def odd_minutes(mine: Collection[Counted]) -> list[Finding]:
    """Each code with a minute that is made of seconds of the therapist and of the assistant."""
    findings = []
    for code in dict.fromkeys(one.code for one in mine):
        times = [(one.assistant_only, one.time) for one in mine if one.code == code and one.time]
        assistant = sum((time for alone, time in times if alone), NO_TIME)
        therapist = sum((time for alone, time in times if not alone), NO_TIME)
        if (therapist + assistant) // MINUTE > therapist // MINUTE + assistant // MINUTE:
            message = (
                f"{code} lasted {shown(therapist)} by the therapist and {shown(assistant)} by the assistant "
                "alone; the minute that is made of the seconds of both is counted as the assistant's, "
                "which may decide about the assistant's modifier."
            )
            findings.append(finding_of("odd-minute", Severity.WARNING, message, (code,)))
    return findings
