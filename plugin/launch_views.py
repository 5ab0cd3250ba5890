"""The launch's pages: where the EHR sends the browser, and where it sends it back."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from flask import (
    Blueprint,
    after_this_request,
    current_app,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from werkzeug.wrappers import Response

from ..launch.authorize import as_form, launch_request, only
from ..launch.errors import StateInvalid
from ..launch.keys import Key, public_jwks
from . import flow
from .installation import Installation

log = structlog.get_logger()

blueprint = Blueprint("launch", __name__)

A_VISIT = re.compile(r"[0-9a-f]{64}")  # a key, which tells of nobody


def installation() -> Installation:
    """The installation that this application serves."""
    found: Installation = current_app.extensions["quarterhour"]
    return found


def browser_of() -> str | None:
    """What this browser's cookie says it is; None without a cookie."""
    return session.get("browser")


def after_answer(do: Callable[[], None]) -> None:
    """Has something done once the answer is on its way: what can be made again, and nobody should wait for."""
    id_ = g.request_id

    def safely() -> None:
        with structlog.contextvars.bound_contextvars(request_id=id_):
            try:
                do()
            except Exception as error:  # noqa: BLE001 - the answer is out: there is nobody to tell but the log
                log.error("after_answer_failed", why=type(error).__name__)  # noqa: TRY400 - messages may hold data

    @after_this_request
    def attach(response: Response) -> Response:
        response.call_on_close(safely)
        return response


@blueprint.get("/")
def home() -> str:
    """Where somebody lands who typed the address: the EHRs to sign in at."""
    return render_template("home.html", issuers=tuple(installation().issuers))


@blueprint.get("/launch")
def launched() -> Response:
    """The launch address that is registered with EHRs (EHR launch)."""
    return _off_to(*launch_request(request.args.to_dict(flat=False)))


@blueprint.get("/start")
def start() -> Response:
    """Standalone launch, from our own page; with ``visit``, towards that one of the worklist."""
    given = request.args.to_dict(flat=False)
    return _off_to(only(given, "iss") or "", None, towards=only(given, "visit"))


@blueprint.get("/callback")
def callback() -> Response:
    """The redirect address that is registered with EHRs."""
    here = installation()
    params = request.args.to_dict(flat=False)
    browser = browser_of()
    if browser is None:
        raise _no_cookie(params)
    launch_id = flow.finish_launch(here, params, browser)
    # At once to an address without code and state.
    return redirect(url_for("review.visits", launch_id=launch_id))


@blueprint.get("/.well-known/jwks.json")
def jwks() -> Any:
    """Our public keys, for EHRs that know us by private_key_jwt."""
    return _published(key for issuer in installation().issuers for key in issuer.published_keys())


@blueprint.get("/.well-known/backend-jwks.json")
def backend_jwks() -> Any:
    """The public keys of our backend clients: apart, so that neither kind of client passes for the other."""
    return _published(key for issuer in installation().issuers for key in issuer.backend_published_keys())


def _published(keys: Iterable[Key]) -> Any:
    answer = current_app.json.response(public_jwks(keys))
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


def _off_to(iss: str, launch: str | None, towards: str | None = None) -> Response:
    here = installation()
    if towards and A_VISIT.fullmatch(towards):
        session["towards"] = towards
    else:
        session.pop("towards", None)  # of a launch that never came back
    browser = browser_of()
    if browser is None:
        browser = session["browser"] = secrets.token_urlsafe(32)
    address = flow.start_launch(here, iss, launch, browser)
    issuer = here.issuers.match(iss)
    form = as_form(address, here.discovered[issuer.id])
    if form is None:
        return redirect(address)
    # In the EHR's frame as the redirect would be. Browsers hold all redirects that follow to form-action too,
    # and an EHR may sign in at servers that we do not know.
    g.framed_by = issuer.embedding_origins
    g.forms_also_to = "https: http:" if issuer.allow_http else "https:"
    return Response(
        render_template("continue.html", issuer=issuer, action=form[0], fields=form[1]), mimetype="text/html"
    )


def _no_cookie(params: dict[str, list[str]]) -> StateInvalid:
    """Most often a browser that refuses cookies in frames: the same launch works in a tab of its own."""
    started = flow.pending_of(installation(), params)
    refused = StateInvalid(
        "Your browser did not keep Quarterhour's cookie, so it cannot tell which sign-in this is.",
        advice="Open Quarterhour in a tab of its own with the button below. To use it inside the EHR, allow "
        "cookies for this address in the browser's settings, or ask your administrator to.",
    )
    if started is not None:
        refused.again = (  # type: ignore[attr-defined]
            url_for("launch.launched", iss=started.iss, launch=started.launch)
            if started.launch
            else url_for("launch.start", iss=started.iss)
        )
        refused.again_text = "Open in a new tab"  # type: ignore[attr-defined]
        refused.new_tab = True  # type: ignore[attr-defined]
    return refused
