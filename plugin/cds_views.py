"""Where EHRs find and call the CDS services (https://cds-hooks.hl7.org/2.0/)."""

from __future__ import annotations

import time
from http import HTTPStatus

import msgspec
import structlog
from flask import Blueprint, Response, abort, request

from ..launch.cds_client import Caller, NotTrusted, verified
from . import cds
from .cds import Service
from .cds_cards import Card
from .cds_feedback import take_feedback
from .installation import Installation
from .launch_views import installation
from .limits import is_over, one_more

blueprint = Blueprint("cds", __name__, url_prefix="/cds-services")
log = structlog.get_logger()

LONGEST_BODY = 1024 * 1024  # with what was prefetched
PER_MINUTE = 3000  # calls of one EHR
REFUSED_PER_MINUTE = 300  # of one address; then nothing of it is looked at until the minute is over

NO_CARDS = msgspec.json.encode({"cards": []})


@blueprint.get("")
def discovery() -> Response:
    """What is offered, to everybody: nothing of it is secret, and browsers may read it from other pages."""
    found = msgspec.json.encode({"services": cds.offered(installation())})
    answer = Response(found, mimetype="application/json")
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


@blueprint.post("/<service_id>")
def call(service_id: str) -> Response:
    """Cards, or none: whoever may ask is never told of a fault of ours while a patient waits."""
    service = _service(service_id)
    caller = _caller(service)
    if isinstance(caller, Response):
        return caller
    begun = time.perf_counter()
    cards: tuple[Card, ...] = ()
    here = installation()
    try:
        cards = cds.answer(here, caller, service, request.get_data(cache=False))
        outcome = "answered" if cards else "no-cards"
    except msgspec.MsgspecError:
        outcome = "unreadable"
    except Exception as error:  # noqa: BLE001 - the chart opens without us rather than with an error
        outcome = "failed"
        log.error("cds_failed", service=service.id, why=type(error).__name__)  # noqa: TRY400 - messages may hold data
    took = time.perf_counter() - begun
    here.metrics.cds_answered(service.id, outcome, took)
    log.info(
        "cds",
        service=service.id,
        issuer=caller.issuer.id,
        outcome=outcome,
        cards=len(cards),
        milliseconds=round(took * 1000, 1),
    )
    body = msgspec.json.encode({"cards": cards}) if cards else NO_CARDS
    return Response(body, mimetype="application/json")


@blueprint.post("/<service_id>/feedback")
def feedback(service_id: str) -> Response:
    """What became of cards; what cannot be read or is not ours is passed over."""
    service = _service(service_id)
    caller = _caller(service, "/feedback")
    if isinstance(caller, Response):
        return caller
    try:
        kept = take_feedback(installation(), caller, service.id, request.get_data(cache=False))
    except msgspec.MsgspecError:
        return Response(status=HTTPStatus.BAD_REQUEST)
    log.info("cds_feedback", service=service.id, issuer=caller.issuer.id, cards=kept)
    return Response(status=HTTPStatus.OK)


def _service(id_: str) -> Service:
    found = next((one for one in cds.offered(installation()) if one.id == id_), None)
    return found or abort(HTTPStatus.NOT_FOUND)


def _caller(service: Service, *below: str) -> Caller | Response:
    """Who calls, or what it is answered instead; nobody is told what was wrong with a token."""
    here = installation()
    request.max_content_length = LONGEST_BODY
    sender = request.remote_addr or ""
    if is_over("cds calls refused", REFUSED_PER_MINUTE, sender):
        return Response(status=HTTPStatus.TOO_MANY_REQUESTS)
    try:
        caller = _proven(here, service, below)
    except NotTrusted as error:
        one_more("cds calls refused", REFUSED_PER_MINUTE, sender)
        here.metrics.cds_refused(service.id)
        log.warning("cds_refused", service=service.id, why=error.why)
        return Response(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
    if not one_more("cds calls", PER_MINUTE, caller.issuer.id):
        return Response(status=HTTPStatus.TOO_MANY_REQUESTS)
    return caller


def _proven(here: Installation, service: Service, below: tuple[str, ...]) -> Caller:
    """Raises ``NotTrusted``."""
    address = f"{here.settings.public_url}{blueprint.url_prefix}/{service.id}"
    caller = verified(
        request.headers.get("Authorization"),
        audiences={address, *(f"{address}{path}" for path in below)},
        issuers=here.issuers,
        http=here.connections.to,
        now=here.clock(),
    )
    if not cds.first_use(here, caller):
        raise NotTrusted("used before (jti)")
    return caller
