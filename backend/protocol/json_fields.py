"""Foreign JSON, checked once: a subclass of `JsonObject` names the keys that we read, `parse_json` checks and converts.

    class Task(JsonObject):
        id: WholeNumber
        data: dict[str, Any]

Types are exact: "1", 1.0 and true are no whole numbers. Keys without a field are passed over. A field without a default
must be there. Lists stay lists: a strict tuple would refuse them. Avoid unions other than with None, because pydantic
names each alternative in the path of an error.
"""

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from model.errors import RequestError

T = TypeVar("T")

LARGEST_NUMBER = 2**53
"""Above this, Redis' scripts and JavaScript cannot tell two neighbouring ids apart."""

MOST_OF_A_TIME = 40
"""Characters; longer texts are no times."""

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
"""Words for the kinds of pydantic's errors; in strict mode the types of JSON have no others."""


def replace_half_surrogates(text: Any) -> Any:
    """Return text that UTF-8 can hold: JSON may spell half a surrogate pair, which no file and no Redis can hold."""
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


WholeNumber = Annotated[int, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Text = Annotated[str, BeforeValidator(replace_half_surrogates)]


class JsonObject(BaseModel):
    """Base of the types that one JSON object is read into."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


def parse_json(kind: type[T], value: Any, path: str = "") -> T:
    """Return the value as this type: a `JsonObject`, or any type that pydantic knows.

    Args:
        path: where the value stands in the request, such as `tasks[0]`, for the message.

    Raises:
        RequestError: a key is missing or a value is of another type; with the path of the first such place.
    """
    try:
        parsed: T = _checker(cast("Any", kind)).validate_python(value, strict=True)
    except ValidationError as problem:
        raise RequestError(_in_words(problem, path)) from None
    return parsed


def parse_project_id(value: Any) -> int:
    """Return the project's id from any form Label Studio writes it in: 6, "6", "6.1795230827", {"id": 6}.

    Raises:
        RequestError: it is none of these.
    """
    if isinstance(value, Mapping):
        return parse_json(_Identified, value, "project").id
    number = value.partition(".")[0] if isinstance(value, str) else value
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 20:
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return parse_json(WholeNumber, number, "project")
    raise RequestError(f'project must be a project id such as "6.1795230827", got {_shown(value)}')


def parse_created(value: Any) -> int | None:
    """Return when a project was created, as Unix time: from "6.1795230827", {"created_at": "2026-11-21T03:13:47Z"} or
    that time alone; None if it is not known."""
    if isinstance(value, Mapping):
        value = value.get("created_at")
    if not isinstance(value, str) or len(value) > MOST_OF_A_TIME:
        return None
    number = value.partition(".")[2] if value.partition(".")[0].isdecimal() else ""
    if number.isascii() and number.isdecimal():
        return int(number)
    try:
        return int(datetime.fromisoformat(value).timestamp())
    except (ValueError, OverflowError):
        return None


ProjectId = Annotated[int, BeforeValidator(parse_project_id)]


class _Identified(JsonObject):
    id: WholeNumber


def need(body: Mapping[str, Any], key: str, kind: type[T], path: str = "") -> T:
    """Return body[key], which must have this JSON type."""
    if key not in body:
        raise RequestError(f"{path}{key} is missing")
    return checked(body[key], kind, f"{path}{key}")


def checked(value: Any, kind: type[T], name: str) -> T:
    """Return the value, which must have this JSON type."""
    exact: Any = {int: WholeNumber, dict: dict[str, Any], list: list[Any], object: Any}.get(kind, kind)
    return parse_json(exact, value, name)  # type: ignore[no-any-return]


def need_objects(body: Mapping[str, Any], key: str, path: str = "") -> list[dict[str, Any]]:
    """Return body[key], which must be a list of objects."""
    return parse_json(list[dict[str, Any]], need(body, key, list, path), f"{path}{key}")


def need_ids(body: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return the ids of the objects in the list body[key]."""
    return tuple(item.id for item in parse_json(list[_Identified], need(body, key, list), key))


@functools.cache
def _checker(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _in_words(problem: ValidationError, path: str) -> str:
    error = problem.errors(include_url=False)[0]
    for step in error["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    name = path or "the body"
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] in {"less_than_equal", "greater_than_equal"}:
        return f"{name} must be at most {LARGEST_NUMBER}, got a number of {len(str(error['input']))} digits"
    return f"{name} must be {_EXPECTED[error['type']]}, got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    words = {type(None): "null", bool: "true or false", dict: "an object", list: "a list"}
    return words.get(type(value)) or repr(value)[:60]
