"""CDS Hooks 2.0: the cards that an EHR shows of a patient at the moments that it tells of.

A card says that something waits, and opens the visit; it suggests no order and does nothing by itself
(https://cds-hooks.hl7.org/2.0/). What stands in it is what is known here, and the terms of the policy that
the patient's coverage leads to: where that is not known, nothing is said of thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import structlog
from sqlalchemy import delete, select

from ..core.policy import InForce
from ..fhir.coverage import policy_among
from ..fhir.errors import EhrError
from ..fhir.server import Server
from ..fhir.views import Coverage, bare, resources
from ..launch.cds_client import Caller
from ..launch.context import FHIR_ID, same
from ..launch.errors import UnknownIssuer
from ..launch.identity import CLOCK_SKEW
from ..launch.issuers import CdsHook, Issuer
from . import audit, database, suggested
from .cds_cards import Card, Given, Known, authorization_card, kx_cards, waiting_card
from .installation import Installation
from .worklist import TO_SIGN, State, Summary, late_from, state_of

log = structlog.get_logger()

_Kind = TypeVar("_Kind")

MOST_VISITS = 400  # of one patient, the newest
# An EHR shows its chart without us rather than wait: one read, not repeated.
READ_TIMEOUT = 2.0
KEPT = timedelta(days=90)  # of cards, for counting how often they are overridden


# --- what an EHR is offered -------------------------------------------------------------------------------


class Service(msgspec.Struct, frozen=True, omit_defaults=True):
    """One service as discovery tells of it (https://cds-hooks.hl7.org/2.0/#discovery)."""

    hook: CdsHook
    id: str
    title: str
    description: str
    prefetch: Mapping[str, str] = {}


COVERAGES = "coverages"
_OF_PATIENT = {COVERAGES: "Coverage?patient={{context.patientId}}"}
# An id is registered at EHRs: it never changes.
SERVICES = (
    Service(
        "patient-view",
        "quarterhour-patient-view",
        "Quarterhour: therapy units to review",
        "Visits of this patient whose suggested units nobody has reviewed, thresholds and authorizations.",
        _OF_PATIENT,
    ),
    Service(
        "encounter-start",
        "quarterhour-encounter-start",
        "Quarterhour: before this visit",
        "Thresholds and authorizations to think of before the visit, and earlier units to review.",
        _OF_PATIENT,
    ),
    Service(
        "encounter-discharge",
        "quarterhour-encounter-discharge",
        "Quarterhour: units to review",
        "Visits of this patient whose suggested units nobody has reviewed, this one first.",
    ),
    Service(
        "appointment-book",
        "quarterhour-appointment-book",
        "Quarterhour: visits and authorizations",
        "Whether the visits that are booked need an authorization or pass a threshold.",
        _OF_PATIENT,
    ),
)


def offered(here: Installation) -> tuple[Service, ...]:
    """Those that at least one EHR may call."""
    hooks = {hook for issuer in here.issuers if issuer.cds for hook in issuer.cds.hooks}
    return tuple(service for service in SERVICES if service.hook in hooks)


# --- what an EHR asks -------------------------------------------------------------------------------------


class FhirAuthorization(msgspec.Struct, frozen=True):
    """The EHR's token for us, for this call."""

    access_token: str
    token_type: str
    patient: str | None = None


class Context(msgspec.Struct, frozen=True, rename="camel"):
    """What the four hooks have in common; ``appointments`` is a Bundle, or a list as the examples show."""

    user_id: str
    patient_id: str
    encounter_id: str | None = None
    appointments: Any = None


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """One call of a service; members that are not ours, and those of version 3, are passed over."""

    hook: str
    hook_instance: str
    context: Context
    fhir_server: str | None = None
    fhir_authorization: FhirAuthorization | None = None
    prefetch: dict[str, msgspec.Raw] | None = None


# --- from a call to its cards -----------------------------------------------------------------------------


def first_use(here: Installation, caller: Caller) -> bool:
    """Whether this token comes for the first time, to whichever process."""
    table, now = database.cds_token, here.clock()
    jti = here.vault.index("cds-token", caller.issuer.iss, caller.cds.iss, caller.jti)
    # A power cut may bring a token back for the minutes that it is good for: it opens a read, no more.
    with database.relaxed(here.engine) as connection:
        connection.execute(delete(table).where(table.c.until < now))
        used = database.insert(connection, table).values(jti=jti, until=caller.expires_at + 2 * CLOCK_SKEW)
        return connection.scalar(used.on_conflict_do_nothing().returning(table.c.jti)) is not None


def read_body(body: bytes, kind: type[_Kind]) -> _Kind:
    """What an EHR posted, as that. Raises ``msgspec.MsgspecError``, also for what is nested too deeply."""
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def answer(here: Installation, caller: Caller, service: Service, body: bytes) -> tuple[Card, ...]:
    """The cards for one call, on record. Raises ``msgspec.MsgspecError`` for what is no call.

    None for a patient's or relative's own eyes, for another EHR than the one that signed the call, and where
    the EHR's administrator turned the hook off.
    """
    request = read_body(body, Request)
    issuer, patient = caller.issuer, request.context.patient_id.removeprefix("Patient/")
    if request.hook != service.hook or service.hook not in caller.cds.hooks:
        return ()
    if not _is_staff(request.context.user_id) or not FHIR_ID.fullmatch(patient):
        return ()
    if request.fhir_server is not None and not _is_of(here, request.fhir_server, issuer):
        log.warning("cds_foreign_server", issuer=issuer.id)
        return ()
    today = here.clock().astimezone(ZoneInfo(issuer.time_zone)).date()
    known = known_visits(here, issuer, f"Patient/{patient}")
    given: list[Given] = []
    if service.hook != "appointment-book":
        given += waiting_card(known, f"{here.settings.public_url}/launch", request.context.encounter_id)
    if service.hook != "encounter-discharge":
        terms = _terms(here, issuer, request, patient, today)
        if terms is not None:
            given += kx_cards(known, terms)
            given += authorization_card(known, terms, here.library.codes, booked(request.context))
    if given:
        _keep(here, caller, service, given, who=request.context.user_id, patient=patient)
    return tuple(one.card for one in given)


def _is_staff(user: str) -> bool:
    """Appointments are booked by patients and their relatives too, and such a card would be shown to them."""
    return user.partition("/")[0] in {"Practitioner", "PractitionerRole"}


def _is_of(here: Installation, fhir_server: str, issuer: Issuer) -> bool:
    try:
        return here.issuers.match(fhir_server) is issuer
    except UnknownIssuer:
        return False


def booked(context: Context) -> int:
    """How many visits there will be: those that are being booked, else the next one."""
    appointments = context.appointments
    if isinstance(appointments, dict):
        appointments = appointments.get("entry")
    return max(1, len(appointments)) if isinstance(appointments, list) else 1


def known_visits(here: Installation, issuer: Issuer, patient: str) -> tuple[Known, ...]:
    """What the worklist has of a patient, "Patient/...", the newest day first. No EHR is asked."""
    table, decision = database.known_visit, database.decision
    key = here.vault.index("patient", issuer.iss, patient)
    late = late_from(here, issuer)
    with database.reading(here.engine) as connection:
        rows = connection.execute(
            select(table.c.visit, table.c.sealed)
            .where(table.c.patient == key, table.c.issuer == issuer.iss)
            .order_by(table.c.seen_at.desc())
            .limit(MOST_VISITS)
        ).all()
        signed = set(
            connection.scalars(
                select(decision.c.visit).where(
                    decision.c.visit.in_([row.visit for row in rows]),
                    decision.c.revision > suggested.REVISION,
                )
            )
        )
    found = []
    for row in rows:
        summary = here.vault.open(row.sealed, Summary)
        state = state_of(summary, None, late)
        waits = row.visit not in signed and state in TO_SIGN
        found.append(Known(summary, waits, late=waits and state is State.LATE))
    return tuple(sorted(found, key=lambda one: one.summary.date_of_service or date.min, reverse=True))


# --- under which policy -----------------------------------------------------------------------------------


def _terms(here: Installation, issuer: Issuer, request: Request, patient: str, today: date) -> InForce | None:
    """The terms of the policy that the patient's coverage leads to today; None where it is not known."""
    settings = here.charts[issuer.id]
    if not settings.policies:
        return None
    coverages = prefetched(request.prefetch, patient, issuer.base)
    if coverages is None:
        coverages = _fetched(here, issuer, request, patient)
    if coverages is None:
        return None
    policy = policy_among(coverages, today, settings, issuer.base).policy_id
    return InForce(here.library.policy(policy), today) if policy in here.library.ids else None


class _Bundle(msgspec.Struct, rename="camel"):
    resource_type: str
    link: list[dict[str, Any]] = []
    entry: list[msgspec.Raw] = []


def prefetched(
    prefetch: Mapping[str, msgspec.Raw] | None, patient: str, base_url: str
) -> tuple[Coverage, ...] | None:
    """The patient's coverages where they came along whole; null says that there are none.

    None where they did not: left out, an OperationOutcome, one page of several, or not to be read.
    """
    raw = (prefetch or {}).get(COVERAGES)
    if raw is None:
        return None
    try:
        bundle = msgspec.json.decode(raw, type=_Bundle | None)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if bundle is None:
        return ()
    if bundle.resource_type != "Bundle" or any(link.get("relation") == "next" for link in bundle.link):
        return None
    return _coverages(bundle.entry, patient, base_url)


def _fetched(
    here: Installation, issuer: Issuer, request: Request, patient: str
) -> tuple[Coverage, ...] | None:
    """The same from the EHR, with the token that came along, and only from the EHR that signed the call."""
    granted = request.fhir_authorization
    if granted is None or request.fhir_server is None or granted.token_type.lower() != "bearer":
        return None
    if granted.patient is not None and not same(granted.patient.removeprefix("Patient/"), patient):
        return None
    server = Server(
        issuer.base,
        granted.access_token,
        here.connections.to(issuer),
        connect_timeout=min(issuer.connect_timeout, READ_TIMEOUT),
        read_timeout=min(issuer.read_timeout, READ_TIMEOUT),
        retries=0,
        clock=here.clock,
    )
    try:
        return _coverages(server.search("Coverage", {"patient": patient}), patient, issuer.base)
    except EhrError as error:
        log.info("cds_not_fetched", issuer=issuer.id, why=type(error).__name__, ehr_request=error.request_id)
        return None


def _coverages(entries: Iterable[msgspec.Raw], patient: str, base_url: str) -> tuple[Coverage, ...] | None:
    """None where one cannot be read, or is another's: it may be the one that decides."""
    found, unread = resources(entries, Coverage)
    if unread or any(bare(one.beneficiary, base_url) != f"Patient/{patient}" for one in found):
        return None
    return tuple(found)


# --- what was given, and what became of it ----------------------------------------------------------------


def _keep(
    here: Installation, caller: Caller, service: Service, given: list[Given], *, who: str, patient: str
) -> None:
    """On record who was shown what, and the cards without the patient, for their feedback."""
    table, now = database.cds_card, here.clock()
    rows = [
        {
            "card": one.card.uuid,
            "finding": finding,
            "issuer": caller.issuer.iss,
            "service": service.id,
            "given_at": now,
        }
        for one in given
        for finding in one.findings
    ]
    what = {"patient": patient, "cards": [one.card.uuid for one in given]}
    with here.engine.begin() as connection:  # not relaxed: no power cut may undo an entry of the trail
        connection.execute(delete(table).where(table.c.given_at < now - KEPT))
        connection.execute(table.insert(), rows)
        audit.record(
            connection,
            here.vault,
            now=now,
            action="cards-given",
            who=who,
            issuer=caller.issuer.iss,
            what=what,
        )
