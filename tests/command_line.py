"""`captioner` up to the point where a command would run."""

from collections.abc import Sequence

import click

from backend.cli import captioner


def parse(words: Sequence[str]) -> click.Context:
    """Return what `captioner WORDS` would run with.

    Raises:
        click.UsageError: the command line is refused.
        click.exceptions.Exit: it asks for help.
    """
    context = captioner.make_context("captioner", list(words))
    name, command, rest = captioner.resolve_command(context, list(words))
    assert command is not None
    return command.make_context(name, rest, parent=context)
