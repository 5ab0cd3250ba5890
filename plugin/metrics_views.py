"""``/metrics``: for whom the operator named, and for nobody else there."""

from __future__ import annotations

import ipaddress
from http import HTTPStatus

from flask import Blueprint, Response, abort, request
from prometheus_client import CONTENT_TYPE_LATEST

from ..launch.context import same
from .config import Settings
from .installation import Installation
from .launch_views import installation
from .limits import is_over, one_more
from .metrics import text_of

blueprint = Blueprint("metrics", __name__)

REFUSED_PER_MINUTE = 60


@blueprint.get("/metrics")
def metrics() -> Response:
    """What is counted (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    here = installation()
    if not is_operator(here):
        abort(HTTPStatus.NOT_FOUND)
    return Response(text_of(here.metrics, here.engine, here.clock()), content_type=CONTENT_TYPE_LATEST)


def is_operator(here: Installation) -> bool:
    """Whether who asks is at an address, or has the token, that the operator named for this."""
    settings, sender = here.settings, request.remote_addr or ""
    if _is_named(settings, sender):
        return True
    if settings.metrics_token is None or is_over("metrics refused", REFUSED_PER_MINUTE, sender):
        return False
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and same(token.strip(), settings.metrics_token.get_secret_value()):
        return True
    if token:
        one_more("metrics refused", REFUSED_PER_MINUTE, sender)
    return False


def _is_named(settings: Settings, sender: str) -> bool:
    try:
        address = ipaddress.ip_address(sender)
    except ValueError:
        return False
    return any(address in network for network in settings.metrics_from)
