"""How often one may ask: launches and callbacks by address, sign-offs by launch, notifications by subscription."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, abort, current_app, request
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from .config import Settings

LAUNCHES = {"launch.launched", "launch.start", "launch.callback"}  # endpoints
SIGN_OFFS = {"review.sign", "review.send"}
SIGN_OFFS_PER_MINUTE = 20  # of one launch, which has a handful of visits


def limit_rates(app: Flask, settings: Settings) -> None:
    """Sets the limits on what is asked of ``app``. Whoever is over them gets a 429 and its page.

    Counted in this process unless ``rate_storage`` names a place that processes share.
    """
    app.extensions["quarterhour_limiter"] = FixedWindowRateLimiter(storage_from_string(settings.rate_storage))

    @app.before_request
    def within_limits() -> None:
        within = True
        if request.endpoint in LAUNCHES:
            within = one_more("launches", settings.launches_per_minute, request.remote_addr or "")
        elif request.endpoint in SIGN_OFFS and request.method == "POST":
            within = one_more("sign-offs", SIGN_OFFS_PER_MINUTE, (request.view_args or {})["launch_id"])
        if not within:
            abort(HTTPStatus.TOO_MANY_REQUESTS)


def one_more(what: str, per_minute: int, whose: str) -> bool:
    """Counts one more; whether it is still within the limit."""
    return _limiter().hit(RateLimitItemPerMinute(per_minute), what, whose)


def is_over(what: str, per_minute: int, whose: str) -> bool:
    """Whether the limit was reached within this minute."""
    return not _limiter().test(RateLimitItemPerMinute(per_minute), what, whose)


def _limiter() -> FixedWindowRateLimiter:
    limiter: FixedWindowRateLimiter = current_app.extensions["quarterhour_limiter"]
    return limiter
