"""pip-audit, also behind a mirror of the package index that knows projects but not their single versions.

pip-audit asks for NAME/VERSION/json. Where that is not found, NAME/json is asked: what it says of vulnerabilities is
said of the newest version, so it is taken only where that is the one that is pinned. Anything else stays "not found",
which audit_dependencies.py does not take for an answer.
"""

import re
from typing import Any

import pip_audit._service.pypi as index
import requests
from pip_audit._cli import audit

OF_A_VERSION = re.compile(r"/(?P<version>[^/]+)/json$")


def with_newest(session: requests.Session) -> requests.Session:
    """The session, with the project's own answer where the version's is missing and the newest is that version."""

    def newest(response: requests.Response, **_kwargs: Any) -> requests.Response:
        asked = OF_A_VERSION.search(response.url)
        if response.status_code != requests.codes.not_found or asked is None:
            return response
        url = OF_A_VERSION.sub("/json", response.url)
        project = session.get(
            url, timeout=30, hooks={"response": lambda answer, **_: answer}
        )  # in place of this hook
        if project.ok and project.json()["info"]["version"] == asked["version"]:
            return project
        return response

    session.hooks["response"].append(newest)
    return session


if __name__ == "__main__":
    made = index.caching_session
    index.caching_session = lambda cache_dir: with_newest(made(cache_dir))
    audit()
