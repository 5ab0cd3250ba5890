"""``/health/live`` and ``/health/ready``: a word for whoever runs the process; why only for its operator."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from flask import Blueprint, Response

from .health import problems
from .launch_views import installation
from .metrics_views import is_operator

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("/live")
def live() -> Response:
    """This process answers."""
    return Response("live\n", mimetype="text/plain")


@blueprint.get("/ready")
def ready() -> Response:
    """It can be sent requests: the database is there and up to date, and every key loads. No EHR is asked."""
    here = installation()
    found = problems(here)
    status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
    if is_operator(here):
        return Response(msgspec.json.encode({"problems": found}), status, mimetype="application/json")
    return Response("not ready\n" if found else "ready\n", status, mimetype="text/plain")
