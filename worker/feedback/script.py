"""The Lua script that changes feedback in Redis, and the keys it takes; `feedback.lua` describes both."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from redis import Redis

LAYOUT_KEY = "captioner:layout"
PROJECTS_KEY = "captioner:projects"
COUNTS_KEY = "captioner:counts"
NOUNS = (
    *("feedback", "index", "times", "changed", "changes", "unseen", "excluded", "removed", "removed-at", "touched"),
    *("pulled", "ledger-totals", "ledger-words", "ledger-spectrum", "latest", "ledger-weeks"),
)


class Command(NamedTuple):
    """One command of the script."""

    name: str
    arguments: tuple[Any, ...]
    task_id: int = 0
    """Whose suggestions the command changes."""


def key(noun: str, project_id: int) -> str:
    return f"captioner:{noun}:{project_id}"


def suggestions_key(project_id: int, task_id: int) -> str:
    return f"captioner:suggestions:{project_id}:{task_id}"


def run_commands(redis: Redis, layout: str, project_id: int, commands: Sequence[Command]) -> list[Any]:
    """Run the commands, each whole or not at all; several in one go.

    Args:
        layout: that Redis must have; "" for none yet.

    Raises:
        ResponseError: Redis has another layout; then the message begins with LAYOUT.
        RedisError: not everything could be done.
    """
    script = redis.register_script(_source())

    def call(command: Command, client: Redis) -> Any:
        keys, arguments = _keys(project_id, command.task_id), [layout, command.name, *command.arguments]
        return script(keys=keys, args=arguments, client=client)

    if len(commands) == 1:
        return [call(commands[0], redis)]
    with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            call(command, pipeline)
        return pipeline.execute()


def _keys(project_id: int, task_id: int) -> list[str]:
    """Return the keys that every command takes, in its order."""
    of_project = [key(noun, project_id) for noun in NOUNS]
    return [LAYOUT_KEY, PROJECTS_KEY, *of_project, COUNTS_KEY, suggestions_key(project_id, task_id)]


@cache
def _source() -> str:
    return files(__package__).joinpath("feedback.lua").read_text(encoding="utf-8")
