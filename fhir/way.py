"""A way by which charges reach billing: what each one can do, and how a site chooses among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Protocol

import msgspec

from .charge_item import Charge, Written
from .errors import EhrError
from .server import Server

WayName = Literal["charge-item", "transaction", "oracle", "claim", "dft", "dft-file", "csv", "ticket"]


# Ways by which a charge is found again under our identifier, and by nothing else.
BY_IDENTIFIER: tuple[WayName, ...] = ("charge-item", "transaction", "claim")
# Ways that can change a charge in place, as suggestions written before review need it.
UPDATES: tuple[WayName, ...] = ("charge-item", "transaction")


_NEEDS: dict[str, tuple[str, ...]] = {
    "oracle": ("bill_code_source", "bill_code_schedules"),
    "dft": ("host", "port"),
    "dft-file": ("folder",),
    "csv": ("folder",),
}


class Way(Protocol):
    """One way out. Every method may raise ``EhrError``; which one tells whether anything was written."""

    @property
    def name(self) -> WayName:
        """As it is kept with the decision, so that no charge leaves by two ways."""

    @property
    def finds(self) -> bool:
        """Whether the other side can be asked for a charge; if not, a doubt stays for a person."""

    @property
    def by_identifier(self) -> bool:
        """Whether it is found under our identifier, and not by likeness."""

    @property
    def wait(self) -> timedelta:
        """How long after a try "not found" says nothing."""

    @property
    def together(self) -> bool:
        """Whether one request carries all charges, wholly or not at all."""

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """Done before the first try and kept with it: what tells ours from what was there before."""

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:
        """The charge where it now is; None where it is not (yet: a search may lag)."""

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:
        """One try; what became of each charge, in their order."""


class WritingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``[issuers.NAME.writing]`` table: how charges leave. All seconds are whole."""

    # "auto" asks the EHR's CapabilityStatement: ChargeItems if it creates them, else a ticket to print.
    way: WayName | Literal["auto"] = "auto"
    # How long a write stays invisible to searches, and the longest time that a request may be under way.
    # Only after both is "not found" an answer.
    search_lag_seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 5
    in_flight_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    # "planned" where a coder releases each charge; it then carries a tag.
    status: Literal["billable", "planned"] = "billable"
    modifiers: Literal["own", "medplum"] = "own"
    provenance: bool = True
    # Suggestions stand in the EHR before anybody reviewed them, as "planned" charges with a tag.
    suggest: bool = False
    withdrawn_status: Literal["aborted", "entered-in-error"] = "aborted"
    # Oracle Health: "https://fhir.cerner.com/<EHR source id>", and the bill code schedule (a code of its
    # code set 14002) of each type of bill code: CPT, HCPCS, MODIFIER.
    bill_code_source: str | None = None
    bill_code_schedules: dict[Literal["CPT", "HCPCS", "MODIFIER"], str] = {}
    # HL7 v2 and files.
    host: str | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    folder: str | None = None
    sending_application: str = "QUARTERHOUR"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing: Literal["P", "T", "D"] = "P"

    @property
    def wait(self) -> timedelta:
        """After which a search that finds nothing says that nothing is there."""
        return timedelta(seconds=self.search_lag_seconds + self.in_flight_seconds)

    def lacks_for(self, way: str) -> tuple[str, ...]:
        """What would have to be set for charges to leave by this way."""
        return tuple(name for name in _NEEDS.get(way, ()) if not getattr(self, name))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> WritingSettings:
        """Read the issuer's table. Raises ``ValueError`` naming what is unknown, or lacks for its way."""
        try:
            settings = msgspec.convert(table, type=cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"The issuer's writing table does not fit: {error}.") from error
        if lacks := settings.lacks_for(settings.way):
            raise ValueError(f"writing: the way '{settings.way}' needs {' and '.join(lacks)}.")
        if settings.suggest and settings.way not in {"auto", *UPDATES}:
            raise ValueError(
                f"writing: suggest needs a way that can update a charge ({' or '.join(UPDATES)}), "
                f"and '{settings.way}' cannot."
            )
        return settings


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an EHR says that it offers for charges (https://hl7.org/fhir/R4/capabilitystatement.html)."""

    creates_charges: bool = False
    updates_charges: bool = False
    transactions: bool = False
    provenance: bool = False
    unread: str | None = None  # why the statement could not be read; then nothing is taken for granted


class _Interaction(msgspec.Struct):
    code: str | None = None


class _Resource(msgspec.Struct):
    type: str | None = None
    interaction: list[_Interaction] | None = None


class _Rest(msgspec.Struct):
    resource: list[_Resource] | None = None
    interaction: list[_Interaction] | None = None


class _Statement(msgspec.Struct):
    rest: list[_Rest] | None = None


def capabilities_of(server: Server) -> Capabilities:
    """One request for ``/metadata``. Never raises for the EHR's sake: see ``unread``."""
    try:
        statement = msgspec.json.decode(server.request_data("metadata"), type=_Statement)
    except (EhrError, msgspec.MsgspecError) as error:
        return Capabilities(unread=str(error))
    offered = {
        (resource.type, interaction.code)
        for rest in statement.rest or ()
        for resource in rest.resource or ()
        for interaction in resource.interaction or ()
    }
    system = {interaction.code for rest in statement.rest or () for interaction in rest.interaction or ()}
    return Capabilities(
        creates_charges=("ChargeItem", "create") in offered,
        updates_charges=("ChargeItem", "update") in offered,
        transactions="transaction" in system,
        provenance=("Provenance", "create") in offered,
    )


def way_for(settings: WritingSettings, can: Capabilities) -> WayName:
    """The site's word; else by what the EHR offers. An unread statement means plain creates, refused if need be."""
    if settings.way != "auto":
        return settings.way
    if can.unread:
        return "charge-item"
    if not can.creates_charges:
        return "ticket"
    return "transaction" if can.transactions else "charge-item"
