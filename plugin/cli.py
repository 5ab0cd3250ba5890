"""The command `quarterhour`. Each command's module is imported when it is called, so that all start fast."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "audit": "cli_audit",
    "calculate": "cli_calculate",
    "capture": "cli_capture",
    "demo": "cli_demo",
    "edits": "cli_edits",
    "issuers": "cli_issuers",
    "keys": "cli_keys",
    "manifests": "cli_manifests",
    "new-key": "cli_keys",
    "outbox": "cli_outbox",
    "policies": "cli_policies",
    "rotate-keys": "cli_keys",
    "reconcile": "cli_outbox",
    "sandbox": "cli_sandbox",
    "schema": "cli_calculate",
    "serve": "cli_serve",
    "subscriptions": "cli_subscriptions",
}


class Commands(click.Group):
    """Finds a command's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Every command, by name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name]}", __package__)
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=Commands)
@click.version_option(package_name="quarterhour")
def main() -> None:
    """Billable therapy units: counted under the payer's own dated policy, explained, signed, written back."""
