"""Visit documents in, suggestions out: one at a time, in order, without keeping any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from .library import Library, UnknownPolicy
from .policy import NotInForce
from .side_by_side import Other, side_by_side
from .suggestion import Suggestion, suggest
from .visit_json import Unreadable, read_visit, refusal_json, suggestion_json

LONGEST_DOCUMENT = 8 * 1024 * 1024  # bytes: 500 services with all that can be said of them are under one


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

    Empty lines are passed over. Lines are collected only where the first is no whole document, and no more of
    them than one document can be long.
    """
    filled = (line for line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    first = first.removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put before UTF-8
    collected, length = [first], len(first)
    if not _is_whole(first):
        for line in filled:
            collected.append(line)
            length += len(line)
            if length > LONGEST_DOCUMENT:
                break
        else:
            together = b"".join(collected)
            # One broken document is refused once; where a line stands by itself, each line is a document.
            if _is_whole(together) or not any(map(_stands_by_itself, collected)):
                yield together
                return
    yield from collected
    yield from filled


def _is_whole(document: bytes) -> bool:
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _stands_by_itself(line: bytes) -> bool:
    """An object that is no part of a visit: of a document over many lines, a service may have a line of its own."""
    try:
        return "code" not in msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
