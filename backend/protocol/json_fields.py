"""Fields of foreign JSON, checked where they are read."""

from collections.abc import Mapping
from typing import Any, TypeVar

from model.errors import RequestError

T = TypeVar("T")

LARGEST_NUMBER = 2**53
"""Beyond it Redis' scripts, and JavaScript, no longer tell one id from the next."""

_WORDS = {
    object: "a value",
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    bool: "true or false",
}


def need(body: Mapping[str, Any], key: str, kind: type[T], path: str = "") -> T:
    """Return body[key] when it is of this JSON type.

    Args:
        path: where `body` stands in the request, such as `project.`, for the message.

    Raises:
        RequestError: the key is missing or its value is of another type.
    """
    if key not in body:
        raise RequestError(f"{path}{key} is missing, {_WORDS[kind]} is expected")
    return checked(body[key], kind, f"{path}{key}")


def checked(value: Any, kind: type[T], name: str) -> T:
    """Return a value that has this JSON type.

    Raises:
        RequestError: it is of another type; true and false are no numbers.
    """
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise RequestError(f"{name} must be at most {LARGEST_NUMBER}, got a number of {len(str(value))} digits")
        return value
    raise RequestError(f"{name} must be {_WORDS[kind]}, got {_shown(value)}")


def need_objects(body: Mapping[str, Any], key: str, path: str = "") -> list[dict[str, Any]]:
    """Return body[key] when it is a list of objects."""
    items = need(body, key, list, path)
    return [checked(item, dict, f"{path}{key}[{index}]") for index, item in enumerate(items)]


def need_ids(body: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return the ids of body[key], a list of objects that have one."""
    objects = need_objects(body, key)
    return tuple(need(item, "id", int, f"{key}[{index}].") for index, item in enumerate(objects))


def parse_project_id(value: Any) -> int:
    """Return the project's id from any form Label Studio writes it in: 6, "6", "6.1795230827", {"id": 6}.

    Raises:
        RequestError: it is none of these.
    """
    if isinstance(value, Mapping):
        return need(value, "id", int, "project.")
    number = value.partition(".")[0] if isinstance(value, str) else value
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 20:
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return checked(number, int, "project")
    raise RequestError(f'project must be a project id such as "6.1795230827", got {_shown(value)}')


def _shown(value: Any) -> str:
    words = {type(None): "null", bool: "true or false", dict: "an object", list: "a list"}
    return words.get(type(value)) or repr(value)[:60]
