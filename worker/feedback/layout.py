"""The layout of what Redis holds: its version, and the refusal of a newer one.

Layout 1 is that of version 0.1.0, which wrote no version number. `conversion.py` converts it into layout 2.
"""

import time
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import LockError, ResponseError

from model.errors import LayoutError
from worker.feedback.script import LAYOUT_KEY, Command, run_commands

LAYOUT = "2"
LOCK_KEY = "captioner:layout-lock"
LOCK_S = 30
"""After this long without a sign of life, another process continues a conversion."""
LOOK_AGAIN_S = 0.2


def open_layout(redis: Redis) -> None:
    """Make sure that Redis has our layout: note it in an empty Redis, and convert what version 0.1.0 wrote.

    Of several processes one converts and the others wait. A process that is killed meanwhile leaves nothing broken:
    the next one continues.

    Raises:
        LayoutError: a newer version wrote what Redis holds; nothing was changed.
        RedisError: Redis does not answer.
    """
    while not _is_ours(redis):
        from worker.feedback.conversion import convert_projects  # needed once in the life of an installation

        lock = redis.lock(LOCK_KEY, timeout=LOCK_S)
        if not lock.acquire(blocking=False):
            time.sleep(LOOK_AGAIN_S)
            continue
        with suppress(LockError):  # another process has taken the conversion over
            convert_projects(redis, lock.reacquire)
            redis.set(LAYOUT_KEY, LAYOUT, nx=True)
            lock.release()


def run(redis: Redis, project_id: int, name: str, *arguments: Any, task_id: int = 0) -> Any:
    """Run one command of the script; raises what `run_all` raises."""
    [reply] = run_all(redis, project_id, [Command(name, arguments, task_id)])
    return reply


def run_all(redis: Redis, project_id: int, commands: list[Command]) -> list[Any]:
    """Run commands of the script.

    Raises:
        LayoutError: this version cannot use what Redis holds.
        RedisError: not everything could be done.
    """
    if not commands:
        return []
    try:
        return run_commands(redis, LAYOUT, project_id, commands)
    except ResponseError as problem:
        if "LAYOUT" not in str(problem):
            raise
    open_layout(redis)
    return run_commands(redis, LAYOUT, project_id, commands)


def _is_ours(redis: Redis) -> bool:
    """Say whether Redis has our layout already.

    Raises:
        LayoutError: it has a newer one.
    """
    written = redis.get(LAYOUT_KEY)
    if written is None:
        return False
    layout = written.decode("utf-8", "replace") if isinstance(written, bytes) else str(written)
    if layout != LAYOUT:
        raise LayoutError(
            f"Redis holds data in layout {layout}, and this version reads layout {LAYOUT}. Start the version of "
            f"captioner that wrote the data, or name another database in REDIS_URL. Nothing was changed."
        )
    return True
