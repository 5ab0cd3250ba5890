"""A charge that takes the place of our own suggestion in the EHR: the same record, updated over its version.

A suggestion is a ``planned`` ChargeItem with our tag, written before anybody reviewed it. Signed off it
becomes what was signed, turned down it becomes ``aborted``. What somebody else changed since is theirs and
is never touched (https://hl7.org/fhir/R4/http.html#concurrency).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from .charge_item import Charge, Stood, Written, charge_item, check_ours, differences, item_in, item_of
from .errors import BadAnswer, Dropped, NotFound, OnRecord, ServerFailed, TimedOut, Unknown, WrongPatient
from .server import Server
from .systems import CHARGE_MODIFIER, CHARGE_TAG, MEDPLUM_MODIFIER
from .views import ChargeItem as ChargeItemView

GONE = frozenset({"aborted", "entered-in-error"})


@dataclass(frozen=True, slots=True)
class Change:
    """What to put in a suggestion's place, over the version that was read; None where the EHR has none."""

    item: dict[str, Any]
    version: str | None


Plan = Change | Written | None  # an update; nothing, for it stands there already; or a create


def takes_a_place(charge: Charge) -> bool:
    """Whether a record of ours may stand under this charge's identifier already."""
    return not charge.withdraws and (bool(charge.stood) or charge.status == "aborted")


def find_in_place(server: Server, charge: Charge) -> Written | None:
    """The charge where it stands as it is wanted; None where it does not, or not yet.

    Raises ``OnRecord`` for a record that says neither what is wanted nor what stood there.
    """
    found = _standing(server, charge)
    if found is None:
        return None
    reference, item, view = found
    if _is_as_wanted(charge, view, server):
        return _found(charge, reference, item)
    _refuse_what_others_changed(charge, reference, view)
    return None


def planned(
    server: Server, charges: tuple[Charge, ...], modifiers: Literal["own", "medplum"]
) -> tuple[str, ...]:
    """What each charge needs, read before it is noted that they are being sent: the write is one request.

    As JSON, kept with the charges; ``plans_in`` reads it.
    """
    if not any(takes_a_place(charge) for charge in charges):
        return ()
    plans = [plan_of(server, charge, modifiers) if takes_a_place(charge) else None for charge in charges]
    return tuple(msgspec.json.encode({type(plan).__name__: plan}).decode() for plan in plans)


def plans_in(prepared: tuple[str, ...], charges: tuple[Charge, ...]) -> tuple[Plan, ...]:
    """The plans again; charges that take no place are created."""
    if not prepared:
        return (None,) * len(charges)
    kinds: dict[str, Any] = {"Change": Change, "Written": Written, "NoneType": None}
    plans: list[Plan] = []
    for one in prepared:
        ((kind, plan),) = msgspec.json.decode(one).items()
        plans.append(msgspec.convert(plan, kinds[kind]))
    return tuple(plans)


def plan_of(server: Server, charge: Charge, modifiers: Literal["own", "medplum"]) -> Plan:
    """What has still to be done: a change, nothing (what stands there now), or None: it is to be created.

    Only for a charge of which nothing is under way: a search that finds none is believed. Raises
    ``OnRecord`` as ``find_in_place``.
    """
    found = _standing(server, charge)
    if found is None:
        return Written("", None, "not-there") if charge.status == "aborted" else None
    reference, item, view = found
    if _is_as_wanted(charge, view, server):
        return _found(charge, reference, item)
    _refuse_what_others_changed(charge, reference, view)
    return Change(_in_place_of(item, charge, modifiers), view.version)


def put_in_place(server: Server, charge: Charge, change: Change) -> Written:
    """Update the suggestion to this charge, once. Raises as ``write_charge``.

    A record that somebody changed between our look and our update is a ``Conflict``; an EHR that keeps no
    versions cannot tell.
    """
    try:
        updated = server.update(change.item, change.version)
        body = updated.body.strip()
        view = item_in(body) if body else None
        if view is not None:
            check_ours(charge, view, server)
    except (TimedOut, Dropped, BadAnswer, ServerFailed, WrongPatient) as error:
        raise Unknown(
            "The EHR did not say clearly whether the suggested charge was updated. "
            "It will be looked at before anything is sent again.",
            request_id=error.request_id,
            words=error.words,
        ) from error
    version = updated.version or (view.version if view else None)
    return put(charge, f"ChargeItem/{change.item['id']}", version)


def put(charge: Charge, reference: str, version: str | None) -> Written:
    """What became of a charge that was put in its suggestion's place."""
    return Written(reference, version, "withdrawn" if charge.status == "aborted" else "updated")


def _standing(server: Server, charge: Charge) -> tuple[str, dict[str, Any], ChargeItemView] | None:
    """The EHR's own record, whole, where it is known to be; else where a search finds it."""
    reference = charge.stood_reference
    if reference is None:
        listed = item_of(server, charge)
        if listed is None:
            return None
        reference = f"ChargeItem/{listed.id}"
    try:
        body = server.read(reference)  # never behind a lagging index
    except NotFound:
        return None
    view = item_in(body)
    check_ours(charge, view, server)
    return reference, json.loads(body), view


def _found(charge: Charge, reference: str, item: dict[str, Any]) -> Written:
    version = item.get("meta", {}).get("versionId")
    how = "withdrawn" if charge.status == "aborted" else "already-there"
    return Written(reference, str(version) if version else None, how)


def _is_as_wanted(charge: Charge, view: ChargeItemView, server: Server) -> bool:
    if charge.status == "aborted":
        return view.status in GONE
    return view.status not in GONE and not differences(charge, view, server)


def _refuse_what_others_changed(charge: Charge, reference: str, view: ChargeItemView) -> None:
    """Raises ``OnRecord`` unless the record says what we wrote, in the version that we wrote."""
    before = {stood.version for stood in charge.stood if _says(stood, view)}
    if before & {None, view.version} or (before and view.version is None):
        return
    raise OnRecord(
        f"{reference} was suggested by Quarterhour and was changed in the EHR since: it stands there as "
        f"'{view.status}' with {view.units if view.units is not None else 'unclear'} units. It was left as it "
        "is. Compare it in the EHR and correct it there."
    )


def _says(stood: Stood, view: ChargeItemView) -> bool:
    return (
        (view.status, view.units) == (stood.status, stood.units)
        and view.modifiers in {(), stood.modifiers}
        and view.is_suggestion == (stood.status == "planned")
    )


def _in_place_of(
    item: dict[str, Any], charge: Charge, modifiers: Literal["own", "medplum"]
) -> dict[str, Any]:
    """The record with our elements as they are to be; what is not ours goes back as it came."""
    built: dict[str, Any] = json.loads(charge_item(charge, modifiers).model_dump_json())
    meta = item.get("meta", {})
    foreign_tags = [tag for tag in meta.get("tag", []) if tag.get("system") != CHARGE_TAG]
    tags = [*foreign_tags, *built.get("meta", {}).get("tag", [])]
    foreign_extensions = [
        each
        for each in item.get("extension", [])
        if each.get("url") not in {CHARGE_MODIFIER, MEDPLUM_MODIFIER}
    ]
    extensions = [*foreign_extensions, *built.get("extension", [])]
    return {
        **{name: value for name, value in item.items() if not name.startswith("occurrence")},
        **built,
        "id": item["id"],
        "meta": {
            **{name: value for name, value in meta.items() if name != "tag"},
            **({"tag": tags} if tags else {}),
        },
        **({"extension": extensions} if extensions else {}),
    }
