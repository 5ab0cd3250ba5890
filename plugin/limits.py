"""How often one may ask: launches and callbacks by address, sign-offs by launch, notifications by subscription."""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, current_app, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import RateLimitItemPerMinute

from .config import Settings

SIGN_OFFS_PER_MINUTE = 20  # of one launch, which has a handful of visits


def limit_rates(app: Flask, settings: Settings) -> None:
    """Sets the limits on the routes that are registered. Whoever is over them gets a 429 and its page.

    Counted in this process unless ``rate_storage`` names a place that processes share.
    """
    limiter = Limiter(get_remote_address, storage_uri=settings.rate_storage)
    limiter.init_app(app)
    app.extensions["quarterhour_limiter"] = limiter
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


def one_more(what: str, per_minute: int, whose: str) -> bool:
    """Counts one more; whether it is still within the limit."""
    return bool(_limiter().limiter.hit(RateLimitItemPerMinute(per_minute), what, whose))


def is_over(what: str, per_minute: int, whose: str) -> bool:
    """Whether the limit was reached within this minute."""
    return not _limiter().limiter.test(RateLimitItemPerMinute(per_minute), what, whose)


def _limiter() -> Limiter:
    limiter: Limiter = current_app.extensions["quarterhour_limiter"]
    return limiter


def _launch() -> str:
    return str((request.view_args or {}).get("launch_id"))
