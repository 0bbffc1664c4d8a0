"""The `captioner` command: the door to the subcommands in `backend/commands`.

Nothing heavy is imported before a command runs, so `--help` is instant.
"""

import sys
from collections.abc import Sequence

import click

from backend.commands import (
    bundle_commands,
    evaluation_commands,
    exchange_commands,
    project_commands,
    service_commands,
    training_commands,
)
from model.errors import CaptionerError

COMMANDS = (
    service_commands.serve,
    service_commands.worker,
    service_commands.demo,
    service_commands.doctor,
    service_commands.config,
    bundle_commands.caption,
    training_commands.train,
    training_commands.distil,
    evaluation_commands.evaluate,
    exchange_commands.export,
    exchange_commands.import_,
    project_commands.versions,
    project_commands.promote,
    project_commands.rollback,
    project_commands.retrain,
    project_commands.ledger,
    project_commands.forget,
    project_commands.backup,
    project_commands.restore,
    service_commands.user,
)


class CommandsInOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=CommandsInOrder,
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
    epilog="Settings are environment variables; docs/settings.md lists them. `captioner COMMAND --help` explains a "
    "command.",
)
def captioner() -> None:
    """Suggest image captions inside Label Studio and learn from every caption that annotators correct."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 done with findings, 2 not done, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # Not click's own `main`, which takes every EOFError for a Ctrl-D and so would hide a bug.
        with captioner.make_context("captioner", words) as context:
            return int(captioner.invoke(context))
    except click.exceptions.Exit as end:  # after --help
        return end.exit_code
    except click.ClickException as refusal:
        refusal.show()
        return refusal.exit_code
    except CaptionerError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
