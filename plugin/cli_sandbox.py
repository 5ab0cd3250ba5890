"""The command that starts the sandbox EHR."""

from __future__ import annotations

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8766, show_default=True, help="Port to listen on.")
@click.option(
    "--app-url", default="http://localhost:8765", show_default=True, help="Where Quarterhour is reached."
)
@click.option("--base-url", help="How the sandbox is reached, when not by host and port.")
def sandbox(host: str, port: int, app_url: str, base_url: str | None) -> None:
    """Start an EHR with synthetic patients, to launch Quarterhour from."""
    # The sandbox brings its own half second of imports, which the other commands need not wait for.
    from ..sandbox.ehr import create_sandbox, serve  # noqa: PLC0415

    address = base_url or f"http://{host}:{port}"
    app = create_sandbox(base_url=address, app_url=app_url)
    click.echo(f"Sandbox EHR at {address}/ (FHIR base {address}/fhir); all patients are synthetic.")
    serve(app, host, port)
