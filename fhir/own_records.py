"""What in the EHR carries identifiers of ours, to compare it with what was ever given out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from .claim import charges_in
from .errors import BadAnswer, Refused
from .server import Server
from .systems import CHARGE_IDENTIFIER, CLAIM_IDENTIFIER
from .views import ChargeItem, resources


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """A record with an identifier that only we give out; a Claim has one record an item."""

    reference: str  # "ChargeItem/123", "Claim/7#2"
    identifier: str
    status: str | None


def own_records(
    server: Server, where: Mapping[str, str], kind: Literal["ChargeItem", "Claim"]
) -> tuple[OwnRecord, ...]:
    """All of one kind, in a patient's or a visit's chart (``where``, a search) or everywhere (none).

    Raises ``EhrError``. An EHR that cannot search for a system of identifiers alone is asked for everything
    in that chart, where it is one.
    """
    system = CHARGE_IDENTIFIER if kind == "ChargeItem" else CLAIM_IDENTIFIER
    try:
        # https://hl7.org/fhir/R4/search.html#token: a system and nothing behind the bar
        entries = server.search(kind, {**where, "identifier": f"{system}|"})
    except Refused:
        if not where:
            raise
        entries = server.search(kind, where)
    return _of_charge_items(entries) if kind == "ChargeItem" else _of_claims(entries)


def _of_charge_items(entries: list[msgspec.Raw]) -> tuple[OwnRecord, ...]:
    items, unread = resources(entries, ChargeItem)
    if unread:
        raise BadAnswer(f"{len(unread)} of the EHR's charges cannot be read, so ours are not all known.")
    return tuple(
        OwnRecord(f"ChargeItem/{item.id}", identifier, item.status)
        for item in items
        for identifier in sorted(item.values_under(CHARGE_IDENTIFIER))
    )


def _of_claims(entries: list[msgspec.Raw]) -> tuple[OwnRecord, ...]:
    return tuple(
        OwnRecord(reference, identifier, status)
        for entry in entries
        for reference, identifier, status in charges_in(entry)
    )
