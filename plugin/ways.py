"""The way by which an issuer's charges leave, put together from its settings."""

from __future__ import annotations

from collections.abc import Collection

from ..fhir.charge_item import Charge
from ..fhir.charge_items import InOneTransaction, OneByOne
from ..fhir.claim import DraftClaim
from ..fhir.oracle_charge import OracleCharges
from ..fhir.server import Server
from ..fhir.way import Way, WayName, WritingSettings
from .charge_files import Ticket, csv_files, dft_files
from .dft import DftOverMllp
from .outbox import State
from .presenters import plural

# Ways that need no access to the EHR, so that they go on when nobody is signed in.
WITHOUT_EHR = frozenset({"dft", "dft-file", "csv", "ticket"})

# Where what is signed goes, for the review page; what will happen, for the page before signing; and what did,
# for the receipt.
GOES = {
    "charge-item": "written to {ehr} as FHIR ChargeItems",
    "transaction": "written to {ehr} as FHIR ChargeItems",
    "oracle": "sent to {ehr} by its own operation for charges",
    "claim": "written to {ehr} as a draft Claim",
    "dft": "sent to billing's interface as an HL7 message",
    "dft-file": "handed to billing's interface as a file",
    "csv": "handed to billing as a file",
    "ticket": "put on a charge ticket to print for billing",
}
BEFORE = {
    "charge-item": "Each charge will be written to {ehr} as a FHIR ChargeItem.",
    "transaction": "The charges will be written to {ehr} together, each as a FHIR ChargeItem.",
    "oracle": "Each charge will be sent to {ehr}, which takes it at once and shows it a little later.",
    "claim": "The charges will be written to {ehr} as one draft Claim, which billing completes.",
    "dft": "The charges will be sent to billing's interface as an HL7 message.",
    "dft-file": "The charges will be handed to billing's interface as a file.",
    "csv": "The charges will be handed to billing as a file.",
    "ticket": "{ehr} takes no charges from applications: print the charge ticket and give it to billing.",
}
_EHR = "the EHR"
_OTHER_SIDE = {
    "dft": "billing's interface",
    "dft-file": "the folder for charges",
    "csv": "the folder for charges",
    "ticket": "the charge ticket",
}
# What sending again does, for a receipt on which not all is done.
AGAIN = {
    _EHR: "Sending again looks first whether the EHR has the charge, so nothing is written twice.",
    "billing's interface": "A message whose acknowledgement was lost is not sent again before somebody has looked on "
    "billing's side, so nothing is charged twice.",
    "the folder for charges": "Sending again looks first whether the file was handed over, so nothing is charged twice.",
    "the charge ticket": "",
}


def other_side(way: str) -> str:
    """Whoever takes the charges."""
    return _OTHER_SIDE.get(way, _EHR)


def state_says(state: State, way: str) -> str:
    """Where a charge is, in words that name the side it goes to."""
    side = other_side(way)
    return {
        State.CONFIRMED: "Written" if side == _EHR else "Handed over",
        State.INTENDED: "Not yet sent",
        State.SENDING: "Being sent",
        State.REFUSED: f"Refused by {side}",
        State.UNKNOWN: f"Not known: {side} did not answer",
    }[state]


def all_done(charges: Collection[Charge], way: str, ehr: str) -> tuple[str, str]:
    """For a receipt on which nothing is left to do: a word, and how many were charged and how many taken back."""
    charged = sum(not each.takes_back for each in charges)
    credited = sum(each.withdraws is not None for each in charges)
    suggested = len(charges) - charged - credited
    into_ehr = other_side(way) == _EHR
    said = []
    if charged:
        how_many = plural(charged, "charge")
        if charged == len(charges):
            how_many = "The charge" if charged == 1 else f"All {how_many}"
        is_in = (
            f"{'is' if charged == 1 else 'are'} in {ehr}"
            if into_ehr
            else "went to billing, not into the chart"
        )
        said.append(f"{how_many} {is_in}")
    said += [
        f"{plural(count, what)} {'was' if count == 1 else 'were'} taken back"
        for count, what in ((credited, "earlier charge"), (suggested, "suggestion"))
        if count
    ]
    if not charged:
        said.append("nothing new was charged" if charges else "Nothing had to be changed")
        return ("Taken back." if charges else "Done."), f"{'; '.join(said)}."
    return ("Written." if into_ehr else "Handed over."), f"{'; '.join(said)}."


AFTER = {
    "created": "Written as {reference}",
    "updated": "Written as {reference} (the suggestion that stood there is charged now)",
    "already-there": "Written as {reference} (it was found there, not written again)",
    "withdrawn": "Taken back: {reference}",
    "not-there": "Taken back before it was written",
    "accepted": "Sent and taken; not shown by the EHR yet",
    "acknowledged": "Sent and acknowledged: {reference}",
    "by-hand": "Settled by hand: a person looked, and found it there",
    "file": "Handed over as the file {reference}",
    "ticket": "Not sent: on the charge ticket, to be printed for billing",
}


def way_by(  # noqa: PLR0911 - one way after another
    name: WayName, settings: WritingSettings, server: Server, *, provenance: bool, timeout: float
) -> Way:
    """The way of that name. ``timeout`` is in seconds, for a connection that is not the EHR's."""
    match name:
        case "charge-item":
            return OneByOne(server, settings.wait, settings.modifiers, settings.withdrawn_status)
        case "transaction":
            return InOneTransaction(
                server,
                settings.wait,
                settings.modifiers,
                settings.withdrawn_status,
                provenance=settings.provenance and provenance,
            )
        case "oracle":
            source, schedules = settings.bill_code_source or "", settings.bill_code_schedules
            return OracleCharges(server, settings.wait, source, schedules)
        case "claim":
            return DraftClaim(server, settings.wait)
        case "dft":
            return DftOverMllp(settings, timeout)
        case "dft-file":
            return dft_files(settings)
        case "csv":
            return csv_files(settings)
        case "ticket":
            return Ticket()
