"""Where EHRs send their notifications: answered at once, and only kept."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from ..fhir.subscriptions import NotANotice, Notice, encounter_in, encounter_of, notice
from .launch_views import installation
from .limits import is_over, one_more
from .subscriptions import addressed, overwhelmed, take_in

blueprint = Blueprint("subscriptions", __name__, url_prefix="/subscriptions")
log = structlog.get_logger()

PER_MINUTE = 3000  # notifications of one subscription that are looked at
REFUSED_PER_MINUTE = 300  # of one address; then nothing of it is looked at until the minute is over


@blueprint.route("/<path>", methods=["POST", "PUT"])
@blueprint.route("/<path>/<resource_type>/<resource_id>", methods=["POST", "PUT", "DELETE"])
def notified(path: str, resource_type: str = "", resource_id: str = "") -> Response:
    """A notification. Whatever is wrong with it, nothing is said but that it is not taken.

    R4 with a payload puts the resource below the address (https://hl7.org/fhir/R4/subscription.html#2.46.7.1).
    """
    here = installation()
    sender = request.remote_addr or ""
    if is_over("notifications refused", REFUSED_PER_MINUTE, sender):
        return Response(status=HTTPStatus.TOO_MANY_REQUESTS)
    id_ = addressed(here, path, request.headers.get("Authorization"))
    if id_ is None:
        one_more("notifications refused", REFUSED_PER_MINUTE, sender)
        log.warning("notification_refused")
        return Response(status=HTTPStatus.NOT_FOUND)
    if not one_more("notifications", PER_MINUTE, id_):
        overwhelmed(here, id_)
        return Response(status=HTTPStatus.TOO_MANY_REQUESTS)
    try:
        take_in(here, id_, _told(encounter_of(f"{resource_type}/{resource_id}")))
    except RequestEntityTooLarge:
        # Refused, it would come again and again until the EHR gives the subscription up.
        overwhelmed(here, id_)
        log.warning("notification_too_large")
    return Response(status=HTTPStatus.OK)


def _told(named: str | None) -> Notice | str | None:
    """What was sent: a notice, an Encounter by its address or whole, or only that something happened."""
    body = request.get_data(cache=False)
    if named is not None:
        return named
    try:
        return notice(body)
    except NotANotice:
        return encounter_in(body)
