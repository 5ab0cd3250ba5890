"""How often one may ask: launches and callbacks by address, sign-offs by launch."""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from .config import Settings

SIGN_OFFS_PER_MINUTE = 20  # of one launch, which has a handful of visits


def limit_rates(app: Flask, settings: Settings) -> None:
    """Sets the limits on the routes that are registered. Whoever is over them gets a 429 and its page.

    Counted in this process unless ``rate_storage`` names a place that processes share.
    """
    limiter = Limiter(get_remote_address, storage_uri=settings.rate_storage)
    limiter.init_app(app)
    by_address = limiter.shared_limit(
        f"{settings.launches_per_minute}/minute", scope="launches", key_func=get_remote_address
    )
    by_launch = limiter.shared_limit(
        f"{SIGN_OFFS_PER_MINUTE}/minute", scope="sign-offs", key_func=_launch, methods=["POST"]
    )
    for endpoint in ("launch.launched", "launch.start", "launch.callback"):
        app.view_functions[endpoint] = by_address(cast("Any", app.view_functions[endpoint]))
    for endpoint in ("review.sign", "review.send"):
        app.view_functions[endpoint] = by_launch(cast("Any", app.view_functions[endpoint]))


def _launch() -> str:
    return str((request.view_args or {}).get("launch_id"))
