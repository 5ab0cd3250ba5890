"""The web application: what every request and every answer have in common."""

from __future__ import annotations

import re
import secrets
import time
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, g, render_template, request, url_for
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from ..core.policy import NotInForce
from ..fhir.errors import EhrError, NotAuthorized
from ..launch.errors import LaunchRefused
from . import (
    administration_views,
    cds_views,
    flow,
    health_views,
    launch_views,
    metrics_views,
    presenters,
    review_views,
    session_views,
    subscription_views,
    worklist_views,
)
from .installation import Installation
from .launch_views import installation
from .limits import limit_rates, one_more
from .rights import NotYet
from .vault import SealBroken

log = structlog.get_logger()

SAME_ORIGIN_ONLY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; img-src 'self' data:; form-action 'self'"
)
WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
FRAMED = {
    "launch",
    "review",
    "session",
    "worklist",
    "administration",
}  # blueprints with pages that an EHR shows in a frame
REFUSALS_ON_RECORD_PER_MINUTE = 20
CALLED_BY_SERVERS = {"subscriptions"}  # blueprints with a secret of their own, and no cookie
RELAUNCH = "Open Quarterhour again from the visit in your EHR; what you settled so far is kept."


def create_app(here: Installation) -> Flask:
    """The application of one installation."""
    app = Flask(__name__)
    app.extensions["quarterhour"] = here
    embedded = [origin for issuer in here.issuers for origin in issuer.embedding_origins]
    app.config.update(
        SECRET_KEY=here.vault.cookie_key(),
        # __Host-: no other host can plant it. Partitioned: kept by browsers that block third-party cookies
        # (https://developer.mozilla.org/docs/Web/Privacy/Guides/Privacy_sandbox/Partitioned_cookies).
        SESSION_COOKIE_NAME="__Host-quarterhour",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="None" if embedded else "Lax",
        SESSION_COOKIE_PARTITIONED=bool(embedded),
        SECRET_KEY_FALLBACKS=here.vault.older_cookie_keys(),
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session; a page left open over lunch still works
        WTF_CSRF_SSL_STRICT=False,  # pages send no Referer; the Origin is checked below instead
        MAX_CONTENT_LENGTH=256 * 1024,
        MAX_FORM_PARTS=2000,
    )
    # Werkzeug's own redirects, to the same address with or without a slash, go where the Host header says.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.jinja_env.filters.update(presenters.FILTERS)
    app.jinja_env.undefined = presenters.Undefined
    app.before_request(_begin)  # first: every page that says what went wrong names the request
    app.before_request(_same_origin_posts_only)
    forms = CSRFProtect(app)
    for without_cookie in (subscription_views.blueprint, cds_views.blueprint):  # secrets of their own instead
        forms.exempt(without_cookie)
    app.after_request(_finish(embedded))
    app.teardown_request(lambda _error: structlog.contextvars.clear_contextvars())
    app.register_blueprint(launch_views.blueprint)
    app.register_blueprint(review_views.blueprint)
    app.register_blueprint(session_views.blueprint)
    app.register_blueprint(worklist_views.blueprint)
    app.register_blueprint(administration_views.blueprint)
    app.register_blueprint(subscription_views.blueprint)
    app.register_blueprint(cds_views.blueprint)
    app.register_blueprint(metrics_views.blueprint)
    app.register_blueprint(health_views.blueprint)
    limit_rates(app, here.settings)
    _handle_errors(app)
    return app


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = _request_id()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    g.framed_by = ()
    g.forms_also_to = ""
    # Whether a page that says what went wrong may say that nothing was lost: what only looks loses nothing.
    g.nothing_lost = request.method in {"GET", "HEAD"}


def _request_id() -> str:
    """The proxy's where it sent one and is trusted, else one of our own; it is logged, and goes to the EHR.

    Waitress takes X-Forwarded-For away unless it comes from the trusted proxy: where it is, the proxy spoke.
    """
    given = request.headers.get("X-Request-Id", "")
    by_proxy = installation().settings.trusted_proxy is not None and "X-Forwarded-For" in request.headers
    return given if by_proxy and WELL_FORMED_ID.fullmatch(given) else secrets.token_hex(8)


def _same_origin_posts_only() -> Response | None:
    """The cookie goes along from other sites (SameSite=None), so a POST must also be from a page of ours.

    Browsers say so in Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata/); Origin is "null" on our pages,
    since they send no referrer. Clients that know no Sec-Fetch-Site are told apart by the form's mark alone.
    """
    here = installation().settings.public_url
    site = request.headers.get("Sec-Fetch-Site")
    ours = site == "same-origin" if site else request.headers.get("Origin", here) in {here, "null"}
    if request.method == "POST" and not ours and request.blueprint not in CALLED_BY_SERVERS:
        return _problem(
            HTTPStatus.FORBIDDEN,
            "This came from another page",
            "A form was sent here from a page that is not Quarterhour's, so it was not carried out.",
            advice=RELAUNCH,
        )
    return None


def _finish(embedded: list[str]) -> Any:
    anywhere = tuple(dict.fromkeys(embedded))

    def framed_by(response: Response) -> tuple[str, ...]:
        """A launch's pages may be framed by its EHR alone. What went wrong in a frame may be told in it,
        whose it is being unknown: such a page holds nothing and does nothing.
        """
        if g.framed_by or request.blueprint not in FRAMED:
            return tuple(g.framed_by)
        return anywhere if response.status_code >= HTTPStatus.BAD_REQUEST else ()

    def finish(response: Response) -> Response:
        ancestors = " ".join(framed_by(response)) or "'none'"
        forms = f"{SAME_ORIGIN_ONLY} {g.forms_also_to}".strip()
        response.headers["Content-Security-Policy"] = f"{forms}; frame-ancestors {ancestors}"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        # On top, no page that opened this one, or was opened by it, keeps a hand on it. In a frame it does nothing.
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
        response.headers["X-Request-Id"] = g.request_id
        if request.endpoint != "static" or response.status_code >= HTTPStatus.BAD_REQUEST:
            response.headers["Cache-Control"] = "no-store"
        if request.is_secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
        # The rule, never the address: addresses hold the launch, and a callback's holds code and state.
        log.info(
            "request",
            request_id=g.request_id,
            method=request.method,
            rule=request.url_rule.rule if request.url_rule else None,
            status=response.status_code,
            milliseconds=round((time.perf_counter() - g.started) * 1000, 1),
        )
        return response

    return finish


def _problem(
    status: int,
    title: str,
    message: str,
    *,
    advice: str = "",
    again: str = "",
    again_text: str = "",
    new_tab: bool = False,
) -> Response:
    """A page that says what happened and what the person can do."""
    page = render_template(
        "problem.html",
        title=title,
        message=message,
        advice=advice,
        again=again,
        again_text=again_text,
        new_tab=new_tab,
        nothing_lost=g.nothing_lost,
        request_id=g.request_id,
    )
    return Response(page, status)


def _visit_of(error: LaunchRefused) -> str:
    """The page of the visit on which something is to be settled first; empty where the request was about none."""
    of = request.view_args or {}
    if not isinstance(error, NotYet) or not {"launch_id", "position"} <= of.keys():
        return ""
    return url_for("review.show", launch_id=of["launch_id"], position=of["position"])


def _recorded(why: str) -> bool:
    """Puts a refused launch on record, if there were not too many: anybody can have one refused.

    The trail keeps everything for good, so what is over the limit is in the log alone. Never raises: the page
    that says what went wrong is owed in any case.
    """
    if not one_more("refusals on record", REFUSALS_ON_RECORD_PER_MINUTE, "all"):
        return False
    try:
        flow.record_refusal(installation(), why, g.request_id)
    except SQLAlchemyError as error:
        log.error("refusal_not_recorded", request_id=g.request_id, why=type(error).__name__)  # noqa: TRY400
        return False
    return True


def _handle_errors(app: Flask) -> None:  # noqa: C901 - one handler an error, side by side
    @app.errorhandler(LaunchRefused)
    def launch_refused(error: LaunchRefused) -> Response:
        on_record = request.blueprint == "launch" and _recorded(type(error).__name__)
        log.warning("refused", request_id=g.request_id, why=type(error).__name__, on_record=on_record)
        visit = _visit_of(error)
        return _problem(
            error.status,
            getattr(error, "title", "Quarterhour could not be opened"),
            error.message,
            advice=error.advice,
            again=getattr(error, "again", visit),
            again_text=getattr(error, "again_text", "See the visit" if visit else ""),
            new_tab=getattr(error, "new_tab", False),
        )

    @app.errorhandler(EhrError)
    def ehr_failed(error: EhrError) -> Response:
        log.warning(
            "ehr_failed", request_id=g.request_id, why=type(error).__name__, ehr_request=error.request_id
        )
        words = "".join(f" The EHR says: {words}" for words in error.words)
        if isinstance(error, NotAuthorized):
            return _problem(
                HTTPStatus.UNAUTHORIZED,
                "Your session at the EHR has ended",
                f"{error}{words}",
                advice=RELAUNCH,
            )
        again = request.full_path.rstrip("?") if request.method == "GET" else ""
        return _problem(
            HTTPStatus.BAD_GATEWAY,
            "The EHR did not answer as it should",
            f"{error}{words}",
            again=again,
            advice=RELAUNCH,
        )

    @app.errorhandler(NotInForce)
    def not_in_force(error: NotInForce) -> Response:
        return _problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "The policy does not cover this date",
            str(error),
            advice="Choose another policy for this visit, or ask your administrator to add the dated term.",
        )

    @app.errorhandler(CSRFError)
    def stale_form(_error: CSRFError) -> Response:
        return _problem(
            HTTPStatus.BAD_REQUEST,
            "This page is out of date",
            "The form was sent without the mark of your session, so it was not carried out.",
            advice=RELAUNCH,
        )

    @app.errorhandler(SealBroken)
    def seal_broken(error: SealBroken) -> Response:
        log.error("seal_broken", request_id=g.request_id)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Stored work cannot be read", str(error))

    @app.errorhandler(HTTPException)
    def http_problem(error: HTTPException) -> Response:
        status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        if status == HTTPStatus.NOT_FOUND:
            return _problem(
                status, "There is no such page", "The address does not lead anywhere.", advice=RELAUNCH
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return _problem(
                status,
                "Too many at once",
                "More requests came from here in the last minute than Quarterhour takes, so this one was not "
                "carried out.",
                advice="Wait a minute, then go back and try again.",
            )
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            return _problem(
                status, "This page cannot be opened this way", "Go back and use its buttons.", advice=RELAUNCH
            )
        return _problem(
            status, HTTPStatus(status).phrase, "The request could not be carried out.", advice=RELAUNCH
        )

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        # The type and place only: the message of an unforeseen error may hold anything.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else ""
        log.error("unexpected", request_id=g.request_id, why=type(error).__name__, where=where)
        return _problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "Something went wrong here",
            "This is a fault of Quarterhour's, not of yours.",
            advice=f"{RELAUNCH} If it happens again, give your support the reference below.",
        )
