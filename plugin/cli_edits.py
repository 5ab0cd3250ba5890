"""The commands that keep CMS's quarterly edits: import and list."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from ..core import edit_store
from ..core.visit import Setting
from .edit_files import FileRefused, import_files

_folder = click.option(
    "--into",
    "folder",
    required=True,
    envvar="QUARTERHOUR_EDITS_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that keeps the quarters; QUARTERHOUR_EDITS_DIR where it is not said.",
)


@click.group()
def edits() -> None:
    """Keep CMS's NCCI pairs and medically unlikely edits, quarter by quarter."""


@edits.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_folder
@click.option("--quarter", type=click.DateTime(["%Y-%m-%d"]), help="Its first day, where no name tells.")
@click.option(
    "--setting",
    type=click.Choice([setting.value for setting in Setting]),
    help="Whose file it is, where no name tells.",
)
@click.option("--today", type=click.DateTime(["%Y-%m-%d"]), hidden=True)
def import_(
    files: tuple[Path, ...],
    folder: Path,
    quarter: datetime | None,
    setting: str | None,
    today: datetime | None,
) -> None:
    """Read quarterly FILES as CMS publishes them (.txt, .csv, .xlsx, or zipped); all or none are kept.

    A table that CMS cuts into parts (f1, f2, ...) may be imported in one go or part by part. A running
    Quarterhour uses what was imported from its next start on.
    """
    try:
        stored = import_files(
            list(files),
            folder,
            imported_on=(today or datetime.now(UTC)).date(),
            quarter=quarter.date() if quarter else None,
            setting=Setting(setting) if setting else None,
        )
    except (FileRefused, edit_store.StoreDamaged) as error:
        raise click.ClickException(str(error)) from error
    _show(stored)


@edits.command("list")
@_folder
def list_(folder: Path) -> None:
    """Show the quarters that are kept."""
    if not folder.is_dir():
        raise click.ClickException(f"There is no folder {folder}; `quarterhour edits import` makes it.")
    try:
        stored = edit_store.contents(folder)
    except edit_store.StoreDamaged as error:
        raise click.ClickException(str(error)) from error
    if not stored:
        click.echo("No quarter was imported; the small table of 2024-07-01 that ships is used.")
    _show(stored)


def _show(stored: tuple[edit_store.Stored, ...]) -> None:
    for quarter in stored:
        rows = "pairs" if quarter.kind == "pairs" else "unit limits"
        click.echo(
            f"{quarter.quarter}  {quarter.setting.value}  {quarter.rows} {rows}"
            f"  imported {quarter.imported_on} from {', '.join(quarter.files)}"
        )
