"""Charges handed over without a connection: files in a folder, each there wholly or not at all, or on paper.

A file is announced first, as an empty hidden one; then written into that; then renamed to its name. A
rename is atomic, so after a crash the hidden file says that nothing was handed over, and its absence that
it was, even where whoever fetches the files has taken it away already. That holds in the one folder only: it
is known by a hidden file that the operator puts there once, so that an empty mount point is not taken for it.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from ..fhir.charge_item import Charge, Written
from ..fhir.errors import Unknown, Unreachable
from ..fhir.way import WritingSettings
from .dft import control_id, dft_p03

COLUMNS = (
    "action",
    "identifier",
    "takes_back",
    "patient",
    "record_number",
    "name",
    "visit",
    "date_of_service",
    "code",
    "units",
    "modifier_1",
    "modifier_2",
    "modifier_3",
    "modifier_4",
    "performed_by",
    "signed_by",
    "signed_at",
    "because",
)
MARK = ".quarterhour-charges"  # never made by us: we would make it in the empty mount point too
MOST_MODIFIERS = 4  # as many as a claim line takes


@dataclass(frozen=True)
class InFolder:
    """One file for all charges of a decision."""

    folder: Path | None  # None: it is not configured any more
    ending: str
    content: Callable[[tuple[Charge, ...], str], str]
    name: Literal["dft-file", "csv"]
    finds: bool = True
    by_identifier: bool = False
    together: bool = True
    wait: timedelta = timedelta()

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """The file's name, and the hidden file that announces it, both durable."""
        folder, _ = self._listed()
        name = f"{control_id(charges)}{self.ending}"
        try:
            _write_durably(folder / _hidden(name), "", "w")
            _sync(folder)
        except OSError as error:
            raise _no_folder() from error
        return (name,)

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:  # noqa: ARG002 - see Way
        """Handed over, unless the hidden file is still there. Raises ``Unreachable`` where nobody can look."""
        (name,) = prepared
        _, names = self._listed()
        if _hidden(name) in names and name not in names:
            return None
        return Written(name, None, "file")

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:
        """Write into the hidden file, then rename it; until the rename nothing is handed over."""
        (name,) = prepared
        folder, _ = self._listed()
        content = self.content(charges, name.removesuffix(self.ending))
        try:
            _write_durably(folder / _hidden(name), content, "r+")  # only into what was announced
        except OSError as error:
            raise _no_folder() from error
        try:
            (folder / _hidden(name)).replace(folder / name)
        except OSError as error:  # of a share, which may have renamed it all the same
            raise Unknown(
                "The folder for charges did not say clearly whether the file was handed over. "
                "It will be looked for before anything is handed over again."
            ) from error
        with suppress(OSError):  # it is there; whether it survives a power cut is the disk's to say
            _sync(folder)
        return tuple(Written(name, None, "file") for _ in charges)

    def _listed(self) -> tuple[Path, set[str]]:
        """The folder and what is in it, at one look. Raises ``Unreachable`` unless it is the folder."""
        if self.folder is None:
            raise Unreachable(
                "No folder for charges is configured any more; nothing was handed over. Ask your administrator "
                "to set `folder` in the issuer's writing table as long as charges wait for it."
            )
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            raise _no_folder() from error
        if MARK not in names:
            raise Unreachable(
                f"The folder for charges does not hold the file {MARK} by which it is known; nothing was handed "
                "over. Tell your administrator: it may not be mounted, or the file was not put there yet."
            )
        return self.folder, names


def _hidden(name: str) -> str:
    return f".{name}.part"


@dataclass(frozen=True)
class Ticket:
    """The printable charge ticket: it is there as soon as it is signed, and a person takes it to billing."""

    name: Literal["ticket"] = "ticket"
    finds: bool = True
    by_identifier: bool = False
    together: bool = True
    wait: timedelta = timedelta()

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:  # noqa: ARG002 - see Way
        """Nothing: the page makes it from what was signed."""
        return ()

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:  # noqa: ARG002
        """It is always there."""
        return Written("charge ticket", None, "ticket")

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:  # noqa: ARG002
        """Nothing leaves here."""
        return tuple(Written("charge ticket", None, "ticket") for _ in charges)


def dft_files(settings: WritingSettings) -> InFolder:
    """The same messages as over MLLP, for an interface engine that reads a folder."""
    return InFolder(
        _folder_of(settings),
        ".hl7",
        lambda charges, control: dft_p03(charges, settings, control),
        "dft-file",
    )


def csv_files(settings: WritingSettings) -> InFolder:
    """Tables for whatever imports them."""
    return InFolder(_folder_of(settings), ".csv", lambda charges, _: csv_text(charges), "csv")


def _folder_of(settings: WritingSettings) -> Path | None:
    return Path(settings.folder) if settings.folder else None


def csv_text(charges: tuple[Charge, ...]) -> str:
    """One line a charge (RFC 4180). Raises ``ValueError`` for more modifiers than a claim line takes."""
    written = io.StringIO()
    table = csv.DictWriter(written, COLUMNS)
    table.writeheader()
    for charge in charges:
        if len(charge.modifiers) > MOST_MODIFIERS:
            raise ValueError(f"{charge.code} has {len(charge.modifiers)} modifiers; a line takes four.")
        person = charge.person
        table.writerow(
            {
                "action": "credit" if charge.withdraws else "charge",
                "identifier": charge.identifier,
                "takes_back": charge.withdraws or "",
                "patient": charge.patient,
                "record_number": _plain(person.record_number if person else None),
                "name": _plain(person.name if person else None),
                "visit": charge.encounter,
                "date_of_service": charge.date_of_service.isoformat(),
                "code": charge.code,
                "units": charge.units,
                **{f"modifier_{rank}": code for rank, code in enumerate(charge.modifiers, start=1)},
                "performed_by": " ".join(charge.performers),
                "signed_by": charge.enterer,
                "signed_at": charge.entered_at.isoformat(),
                "because": _plain(charge.rationale),
            }
        )
    return written.getvalue()


def _plain(value: str | None) -> str:
    """A spreadsheet must not take a chart's text for a formula (OWASP, CSV injection)."""
    text = value or ""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _no_folder() -> Unreachable:
    return Unreachable(
        "The folder for charges cannot be written; nothing was handed over. Tell your administrator."
    )


def _write_durably(path: Path, text: str, mode: Literal["w", "r+"]) -> None:
    with path.open(mode, encoding="utf-8", newline="") as file:
        file.write(text)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
