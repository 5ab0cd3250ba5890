"""`quarterhour calculate` and `quarterhour schema`: the engine without an EHR."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from ..core.calculate import Answer, Refused, answer_json
from ..core.calculate import calculate as answers_to
from ..core.edit_store import StoreDamaged
from ..core.library import Library, MistakesFound, UnknownPolicy
from ..core.text import csv_head, csv_rows, text
from ..core.visit_json import SCHEMAS
from ..core.visit_json import schema as schema_of

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--policies",
    type=FOLDER,
    envvar="QUARTERHOUR_POLICIES_DIR",
    help="A folder with the site's own policies; QUARTERHOUR_POLICIES_DIR where it is not said.",
)
@click.option(
    "--edits",
    type=FOLDER,
    envvar="QUARTERHOUR_EDITS_DIR",
    help="The folder of imported edits; QUARTERHOUR_EDITS_DIR where it is not said.",
)
@click.option(
    "--also", multiple=True, metavar="POLICY", help="Show the units under this policy too; repeatable."
)
@click.option(
    "--format", "form", type=click.Choice(["json", "text", "csv"]), default="json", show_default=True
)
def calculate(
    file: BinaryIO, policies: Path | None, edits: Path | None, also: tuple[str, ...], form: str
) -> None:
    """Suggest the units of visits in FILE or standard input: one JSON document, or one a line.

    Writes one suggestion a line in the same order. A visit that cannot be read has its error in its place;
    the status is then 1.
    """
    try:
        library = Library.load(policies, edits)
        for policy in also:
            library.policy(policy)
    except (MistakesFound, StoreDamaged, UnknownPolicy) as error:
        raise click.ClickException(str(error)) from None
    refused = False
    out = sys.stdout.buffer
    for answer, written in _written(answers_to(file, library, also), form):
        refused = refused or isinstance(answer, Refused)
        out.write(written)
    out.flush()
    if refused:
        sys.exit(1)


def _written(answers: Iterable[Answer], form: str) -> Iterator[tuple[Answer | None, bytes]]:
    if form == "csv":
        yield None, csv_head().encode()
    for answer in answers:
        if form == "json":
            yield answer, answer_json(answer) + b"\n"
        elif form == "text":
            yield answer, text(answer).encode()
        else:
            yield answer, csv_rows(answer).encode()


@click.command()
@click.argument("document", type=click.Choice(SCHEMAS))
def schema(document: str) -> None:
    """Print the JSON Schema of the visit or the suggestion document."""
    click.echo(json.dumps(schema_of(document), indent=2))
