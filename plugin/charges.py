"""A review's lines as charges: what is signed, or suggested before anybody reviewed it."""

from __future__ import annotations

from datetime import datetime

from ..core.suggestion import Line
from ..fhir.charge_item import Charge, identifier_for
from ..fhir.systems import APP
from ..launch.issuers import Issuer
from .installation import Installation
from .review import Review


def charges_from(
    here: Installation,
    issuer: Issuer,
    reviewed: Review,
    now: datetime,
    *,
    enterer: str,
    sequence: int = 1,
) -> tuple[Charge, ...]:
    """The lines that are charged, each as the EHR is to hear of it. ``enterer`` is APP where nobody signed."""
    prepared = reviewed.prepared
    charges = []
    for line in reviewed.charged:
        # The review's services, not the chart's: of what was left out nothing goes into a charge.
        services = tuple(
            service.reference
            for service in reviewed.visit.services
            if service.code == line.code and service.reference
        )
        times = [prepared.times[service] for service in services if service in prepared.times]
        people = [one.reference for service in services for one in prepared.people.get(service, ())]
        modifiers = tuple(modifier.code for modifier in line.modifiers)
        charges.append(
            Charge(
                identifier=identifier_for(
                    issuer.iss,
                    patient=prepared.patient,
                    encounter=prepared.encounter,
                    date_of_service=reviewed.visit.date_of_service,
                    code=line.code,
                    modifiers=modifiers,
                    discipline=reviewed.visit.discipline,
                    sequence=sequence,
                ),
                patient=prepared.patient,
                encounter=prepared.encounter,
                date_of_service=reviewed.visit.date_of_service,
                start=min((time.start for time in times), default=None),
                end=max((time.end for time in times), default=None),
                code=line.code,
                units=line.units,
                modifiers=modifiers,
                services=services,
                performers=tuple(dict.fromkeys(filter(None, people))),
                enterer=enterer,
                entered_at=now,
                rationale=_rationale(reviewed, line, enterer),
                organization=prepared.organization,
                account=prepared.account,
                coverage=prepared.coverage,
                person=prepared.person,
                status=here.writing[issuer.id].status,
            )
        )
    return tuple(charges)


def _rationale(reviewed: Review, line: Line, enterer: str) -> str:
    """One line that says why, for whoever reads the charge without us."""
    steps = " ".join(reason.says for reason in line.because)
    assert reviewed.suggestion is not None  # noqa: S101 - only a suggestion has lines
    end = "suggested by Quarterhour, not reviewed" if enterer == APP else "signed off in Quarterhour"
    return f"{steps} Policy {reviewed.suggestion.policy}, {reviewed.suggestion.rule}, {end}."
