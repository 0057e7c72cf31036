"""The command line. `gateway/commands` has what is about one thing; here they are put together.

Exit status: 0 it is done; 1 it was done and the answer is bad (a finding of `doctor`, a notification not accepted);
2 the command or the configuration is wrong; 3 no gateway answers. `serve`: see `gateway.supervisor`.
"""

from __future__ import annotations

import typer

from gateway.commands import access, credentials, kafka, parked, sending, serving, trying, upkeep, webhooks

app = typer.Typer(
    name="carillon",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # their frames show local variables, and with them secrets
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Carillon: a push delivery gateway for APNs, FCM and Web Push.",
    epilog="Exit status: 0 done; 1 done, but the answer is bad; 2 wrong command or settings; 3 no gateway answers.",
)
app.add_typer(serving.commands)
app.add_typer(sending.commands)
app.add_typer(upkeep.commands)
app.add_typer(trying.commands)
app.add_typer(parked.commands, name="parked")
app.add_typer(credentials.commands, name="credentials")
app.add_typer(access.keys, name="keys")
app.add_typer(webhooks.commands, name="webhooks")
app.add_typer(access.audit, name="audit")
app.add_typer(kafka.topics, name="topics")
app.add_typer(kafka.dlq, name="dlq")


def main() -> None:
    """The entry point of `carillon` and `python -m gateway`."""
    app()
