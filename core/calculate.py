"""Visit documents in, suggestions out: one at a time, in order, without keeping any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from .library import Library, UnknownPolicy
from .policy import NotInForce
from .side_by_side import Other, side_by_side
from .suggestion import Suggestion, suggest
from .visit_json import Unreadable, read_visit, refusal_json, suggestion_json


@dataclass(frozen=True, slots=True)
class Answered:
    """A visit's suggestion, and the same visit under the other policies that were asked for."""

    suggestion: Suggestion
    also: tuple[Other, ...] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A visit that could not be calculated: why, and where in its document."""

    id: str | None
    message: str
    path: str


Answer = Answered | Refused


def calculate(lines: Iterable[bytes], library: Library, also: Sequence[str] = ()) -> Iterator[Answer]:
    """An answer for each document in ``lines`` (NDJSON, or one document over many lines), in their order.

    A document that cannot be read or calculated is refused in its place; the others are not held up.
    Raises ``UnknownPolicy`` where ``also`` names one that is not in the library.
    """
    for policy in also:
        library.policy(policy)
    for document in documents(lines):
        yield _answer(document, library, also)


def _answer(document: bytes, library: Library, also: Sequence[str]) -> Answer:
    try:
        visit, policy = read_visit(document)
    except Unreadable as error:
        return Refused(error.visit_id, error.message, error.path)
    try:
        suggestion = suggest(visit, library.policy(policy), library)
    except UnknownPolicy as error:
        return Refused(visit.id, str(error), "policy")
    except NotInForce as error:
        return Refused(visit.id, str(error), "date_of_service")
    return Answered(suggestion, side_by_side(suggestion, also, library) if also else None)


def answer_json(answer: Answer) -> bytes:
    """The answer's JSON document, on one line."""
    if isinstance(answer, Refused):
        return refusal_json(answer.id, answer.message, answer.path)
    return suggestion_json(answer.suggestion, answer.also)


def documents(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The documents in the lines: one a line, or the only one where the first line does not hold one whole.

    Empty lines are passed over. Only a document written over many lines is collected.
    """
    filled = (line for line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    first = first.removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put before UTF-8
    second = next(filled, None)
    if second is not None and _goes_on(first, second):
        yield b"".join([first, second, *filled])
        return
    yield first
    if second is not None:
        yield from itertools.chain((second,), filled)


def _goes_on(first: bytes, second: bytes) -> bool:
    """Whether the second line continues the document of the first rather than being one itself."""
    if not first.lstrip().startswith(b"{") or second.lstrip().startswith(b"{"):
        return False
    try:
        msgspec.json.decode(first, type=msgspec.Raw)
    except msgspec.DecodeError:
        return True
    return False
