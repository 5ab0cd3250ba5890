"""Who decided what on a visit and under which terms, and whether it comes out the same today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select

from ..core.library import Library, UnknownPolicy
from ..core.policy import NotInForce
from ..core.suggestion import settles, suggest
from ..core.visit import Visit
from ..core.visit_json import suggestion_json
from . import database, outbox, suggested
from .installation import Installation


@dataclass(frozen=True, slots=True)
class Again:
    """What a kept visit gives today: ``same`` to the byte, or what differs, a sentence each."""

    same: bool
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision as it was signed. ``suggestion`` is the kept document, ``record`` all that was kept."""

    revision: int
    signed_at: datetime
    way: str
    record: Mapping[str, Any]
    suggestion: Mapping[str, Any]
    rows: tuple[outbox.Row, ...]
    again: Again


def decisions_on(here: Installation, visit: str) -> tuple[Decided, ...]:
    """Every decision on a visit, the newest first, each calculated once more."""
    table = database.decision
    with here.engine.begin() as connection:
        decided = connection.execute(
            select(table)
            .where(table.c.visit == visit, table.c.revision > suggested.REVISION)
            .order_by(table.c.revision.desc())
        ).all()
        charges = {row.id: outbox.charges_of(connection, here.vault, row.id) for row in decided}
    found = []
    for row in decided:
        record = here.vault.open(row.sealed)
        found.append(
            Decided(
                revision=row.revision,
                signed_at=row.signed_at,
                way=row.way,
                record=record,
                suggestion=json.loads(record["suggestion"] or "{}"),
                rows=charges[row.id],
                again=calculated_again(record, here.library),
            )
        )
    return tuple(found)


def calculated_again(record: Mapping[str, Any], library: Library) -> Again:
    """The kept visit under the same policy as it is installed today."""
    kept = record.get("suggestion")
    if not kept or "visit" not in record:
        return Again(
            False, ("It was signed before visits were kept whole, so it cannot be calculated again.",)
        )
    visit = msgspec.convert(record["visit"], Visit)
    tie = record["answers"].get("tie")
    try:
        today = suggest(visit, library.policy(record["policy"]), library)
        if tie and settles(today, tie):
            today = suggest(visit, library.policy(record["policy"]), library, tie_choice=tie)
    except (NotInForce, UnknownPolicy) as error:
        return Again(False, (str(error),))
    fresh = suggestion_json(today).decode()
    if fresh == kept:
        return Again(True, ())
    return Again(False, tuple(_differences(json.loads(kept), json.loads(fresh))))


def _differences(kept: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    found = []
    before, after = _lines(kept), _lines(fresh)
    for line in dict.fromkeys((*before, *after)):
        if before.get(line) != after.get(line):
            code = " ".join((line[0], *line[1]))
            found.append(f"{code}: {before.get(line, 0)} units then, {after.get(line, 0)} today.")
    if not found:
        found.append("The charges are the same.")
    then, now = _findings(kept), _findings(fresh)
    found += [f"Not said today: {message}" for message in then if message not in now]
    found += [f"Said today: {message}" for message in now if message not in then]
    if kept["terms"] != fresh["terms"]:
        found.append("The policy's terms or their sources have been changed or read again since.")
    if kept["engine"] != fresh["engine"]:
        found.append(
            f"Calculated by version {kept['engine']['version']} then, {fresh['engine']['version']} today."
        )
    return found


def _lines(document: Mapping[str, Any]) -> dict[tuple[str, tuple[str, ...]], int]:
    return {
        (line["code"], tuple(modifier["code"] for modifier in line["modifiers"])): line["units"]
        for line in document["lines"]
    }


def _findings(document: Mapping[str, Any]) -> list[str]:
    return [finding["message"] for finding in document["findings"]]
