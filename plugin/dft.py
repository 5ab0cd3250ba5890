"""Charges as an HL7 v2.5.1 DFT^P03 message, and the MLLP connection it goes over.

Segments as HL7 v2.5.1 chapter 6 lists them (https://www.hl7.eu/HL7v2x/v251/std251/ch06.html); which of the
optional fields a receiver wants is agreed at each site.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import hl7

from ..fhir.charge_item import Charge, Written
from ..fhir.errors import BadAnswer, Dropped, Refused, TimedOut, Unknown, Unreachable
from ..fhir.person import Person
from ..fhir.way import WritingSettings

START, END = b"\x0b", b"\x1c\x0d"
LONGEST_ACK = 1_000_000
ACCEPTED, REFUSED = {"AA", "CA"}, {"AE", "AR", "CE", "CR"}
_NAMESPACE = uuid.UUID("a1d4b6f0-52f1-4a53-9a53-3c8f0d7f2c11")
# HL7 v2.5.1 section 2.7: the separators and the line ends, which would break the message.
_ESCAPES = str.maketrans(
    {
        "\\": "\\E\\",
        "|": "\\F\\",
        "^": "\\S\\",
        "&": "\\T\\",
        "~": "\\R\\",
        "\r": "\\X0D\\",
        "\n": "\\X0A\\",
    }
)


@dataclass(frozen=True)
class DftOverMllp:
    """One message for all charges of a decision. Nothing can be asked afterwards: a doubt is a person's."""

    settings: WritingSettings
    timeout: float  # seconds for the connection, and for the whole answer
    connect: Callable[..., socket.socket] = socket.create_connection
    wait: timedelta = timedelta()
    name: Literal["dft"] = "dft"
    finds: bool = False
    by_identifier: bool = False
    together: bool = True

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """The message's control id, kept so that support can find it on the other side."""
        return (control_id(charges),)

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:  # noqa: ARG002 - see Way
        """Whoever asks all the same learns that nobody can tell; never that it is not there."""
        raise Unknown("Whether the interface filed the charge cannot be asked. Look at billing's side.")

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:
        """Send it and read its acknowledgement. AE and AR mean that nothing was filed."""
        (control,) = prepared
        answer = self._exchange(dft_p03(charges, self.settings, control).encode())
        code, text = acknowledged(answer, control)
        if code in REFUSED:
            raise Refused(
                f"The interface did not take the charges ({code}). Correct what it names, or enter them there.",
                400,
                (text,) if text else (),
            )
        return tuple(Written(f"message {control}", None, "acknowledged") for _ in charges)

    def _exchange(self, message: bytes) -> bytes:
        if not self.settings.host or not self.settings.port:  # no host would mean this machine
            raise Unreachable(
                "No interface for charges is configured any more; nothing was sent. Ask your administrator to "
                "set `host` and `port` in the issuer's writing table as long as charges wait for it."
            )
        try:
            connection = self.connect((self.settings.host, self.settings.port), timeout=self.timeout)
        except OSError as error:
            raise Unreachable(
                "The interface cannot be reached; nothing was sent. Try again later."
            ) from error
        with closing(connection):
            try:
                connection.sendall(START + message + END)
                answer, deadline = b"", time.monotonic() + self.timeout
                while not answer.endswith(END):
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    received = connection.recv(65_536)
                    if not received:
                        raise Dropped("The interface hung up before it acknowledged the charges.")
                    answer += received
                    if len(answer) > LONGEST_ACK:
                        raise BadAnswer("The interface's answer does not end.")
            except TimeoutError as error:
                raise TimedOut("The interface did not acknowledge the charges in time.") from error
            except OSError as error:
                raise Dropped("The connection to the interface broke off.") from error
        return answer.removeprefix(START).removesuffix(END)


def acknowledged(answer: bytes, control: str) -> tuple[str, str]:
    """MSA-1 and its text. Raises ``Unknown`` for anything that is no acknowledgement of this message."""
    try:
        segment = hl7.parse(answer.decode("utf-8")).segment("MSA")
        code, of = str(segment[1]), str(segment[2])
        text = str(segment[3]) if len(segment) > 3 else ""  # noqa: PLR2004 - MSA-3
    except (KeyError, IndexError, ValueError, hl7.HL7Exception) as error:
        raise Unknown("The interface's answer is no acknowledgement.") from error
    if of != control or code not in ACCEPTED | REFUSED:
        raise Unknown("The interface acknowledged something else than these charges.")
    return code, text


def control_id(charges: tuple[Charge, ...]) -> str:
    """MSH-10, 20 characters at most: the same charges have the same."""
    parts = " ".join(sorted(charge.identifier for charge in charges))
    return uuid.uuid5(_NAMESPACE, parts).hex[:20].upper()


def dft_p03(charges: tuple[Charge, ...], settings: WritingSettings, control: str) -> str:
    """The message, its segments ended by carriage returns."""
    first = charges[0]
    signed = _instant(first.entered_at)
    segments = [
        _segment(
            "MSH",
            {
                1: "^~\\&",  # MSH-2: MSH-1 is the separator itself
                2: _text(settings.sending_application),
                3: _text(settings.sending_facility),
                4: _text(settings.receiving_application),
                5: _text(settings.receiving_facility),
                6: signed,
                8: "DFT^P03^DFT_P03",
                9: control,
                10: settings.processing,
                11: "2.5.1",
                17: "UNICODE UTF-8",
            },
        ),
        _segment("EVN", {1: "P03", 2: signed, 6: _started(first)}),
        _segment(
            "PID",
            {
                1: "1",
                3: _patient_ids(first),
                5: _name(first.person),
                7: _birth(first.person),
                8: _sex(first.person),
                18: _id_of(first.account),
            },
        ),
        _segment("PV1", {1: "1", 2: "O", 19: _id_of(first.encounter)}),
        *(_financial(number, charge) for number, charge in enumerate(charges, start=1)),
    ]
    return "".join(segment + "\r" for segment in segments)


def _financial(number: int, charge: Charge) -> str:
    """FT1; a credit repeats the transaction id of the charge that it takes back."""
    fields = {
        1: str(number),
        2: charge.withdraws or charge.identifier,
        4: _when(charge),
        6: "CR" if charge.withdraws else "CG",
        7: f"{charge.code}^^{_system(charge.code)}",
        9: _text(charge.rationale) if charge.withdraws else "",
        10: str(charge.units),
        19: f"{_text(charge.reason)}^^I10" if charge.reason else "",
        20: "~".join(_id_of(performer) for performer in charge.performers),
        24: _id_of(charge.enterer),
        25: f"{charge.code}^^{_system(charge.code)}",
        26: "~".join(_text(modifier) for modifier in charge.modifiers),
    }
    return _segment("FT1", fields)


def _segment(name: str, fields: Mapping[int, str]) -> str:
    """A segment from its fields by number; those that are not named are empty."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))]).rstrip("|")


def _text(value: str) -> str:
    return value.translate(_ESCAPES)


def _system(code: str) -> str:
    """HL7 table 0396: CPT-4 and HCPCS."""
    return "HCPCS" if code[0].isalpha() else "C4"


def _instant(value: datetime) -> str:
    return f"{value:%Y%m%d%H%M%S%z}"


def _when(charge: Charge) -> str:
    """The local service date, or from start to end (DR) where the chart says so."""
    if charge.start and charge.end:
        return f"{_instant(charge.start)}^{_instant(charge.end)}"
    return f"{charge.date_of_service:%Y%m%d}"


def _started(charge: Charge) -> str:
    """The start, or the local service date: EVN-6 is one moment (TS), never a range."""
    return _instant(charge.start) if charge.start else f"{charge.date_of_service:%Y%m%d}"


def _id_of(reference: str | None) -> str:
    return _text((reference or "").rpartition("/")[2])


def _patient_ids(charge: Charge) -> str:
    """The record number where the chart has one, and the FHIR id, each with its type (HL7 table 0203)."""
    ids = [f"{_id_of(charge.patient)}^^^^PI"]
    if charge.person and charge.person.record_number:
        ids.insert(0, f"{_text(charge.person.record_number)}^^^^MR")
    return "~".join(ids)


def _name(person: Person | None) -> str:
    """Only where the chart says which part is the family's: a guess would make another person."""
    return f"{_text(person.family)}^{_text(person.given or '')}" if person and person.family else ""


def _birth(person: Person | None) -> str:
    return ((person.birth_date if person else None) or "").replace("-", "")


def _sex(person: Person | None) -> str:
    sex = (person.sex if person else None) or ""
    return {"male": "M", "female": "F", "other": "O", "unknown": "U"}.get(sex, "")
