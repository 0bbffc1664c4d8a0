"""Answers to errors: one sentence in JSON with the right status; tracebacks go only to the log."""

import logging
import time
from http import HTTPStatus
from typing import BinaryIO

from flask import Flask, Response, request
from redis import RedisError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from backend.access.login import refuse
from model.errors import (
    BusyError,
    CaptionerError,
    JobError,
    LabelConfigError,
    LayoutError,
    ModelVersionError,
    RequestError,
    StoreError,
    VersionChoiceError,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 100 * 1024 * 1024
"""Label Studio sends all tasks of a call at once. Pictures may lie inside their data."""
_DRAINED_BYTES = 512 * 1024 * 1024
_DRAINED_S = 20.0


def answer_errors(app: Flask) -> None:
    """Answer every error of every route here."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.register_error_handler(RequestError, _bad_request)
    app.register_error_handler(LabelConfigError, _bad_request)
    app.register_error_handler(JobError, _conflict)
    app.register_error_handler(VersionChoiceError, _conflict)
    app.register_error_handler(BusyError, _busy)
    app.register_error_handler(RedisError, _redis_down)
    app.register_error_handler(StoreError, _unavailable)
    app.register_error_handler(LayoutError, _unavailable)
    app.register_error_handler(ModelVersionError, _unavailable)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _bug)


def _bad_request(problem: CaptionerError) -> Response:
    logger.warning("request refused path=%s problem=%s", request.path, problem)
    return refuse(HTTPStatus.BAD_REQUEST, str(problem))


def _busy(problem: BusyError) -> Response:
    logger.warning("request refused path=%s problem=%s", request.path, problem)
    response = refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}; ask again in {problem.retry_after_s} s")
    response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def _conflict(problem: CaptionerError) -> Response:
    logger.warning("request refused path=%s problem=%s", request.path, problem)
    return refuse(HTTPStatus.CONFLICT, str(problem))


def _redis_down(problem: RedisError) -> Response:
    logger.error("redis failed path=%s problem=%s", request.path, problem)
    return refuse(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Redis cannot be reached, so nothing was stored; missed annotations are pulled from Label Studio later",
    )


def _unavailable(problem: CaptionerError) -> Response:
    logger.error("request failed path=%s problem=%s", request.path, problem)
    return refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(problem))


def _too_large(_error: RequestEntityTooLarge) -> Response:
    # Closing a connection while bytes arrive would reset it, and the caller would not see this answer.
    _drain(request.environ["wsgi.input"])
    sentence = (
        f"the body is larger than {MAX_BODY_BYTES // 1024**2} MB, as when many tasks have their pictures inside "
        f"(data: URLs); select fewer tasks, or let tasks name the addresses of their pictures"
    )
    logger.warning("request refused path=%s problem=%s", request.path, sentence)
    return refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def _http_error(error: HTTPException) -> Response:
    response = refuse(HTTPStatus(error.code or 500), _sentence(error))
    for name, value in error.get_headers():
        if name.lower() in {"allow", "location", "retry-after"}:
            response.headers[name] = value
    return response


def _bug(problem: Exception) -> Response:
    logger.error("request crashed path=%s", request.path, exc_info=problem)
    return refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the backend failed on this request; its log says why")


def _sentence(error: HTTPException) -> str:
    if isinstance(error, MethodNotAllowed):
        methods = sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"})
        return f"{request.path} takes {' or '.join(methods)}, not {request.method}"
    if type(error).description != error.description and error.description:
        return error.description
    return f"there is nothing at {request.path}" if isinstance(error, NotFound) else error.name


def _drain(stream: BinaryIO) -> None:
    """Read and drop the rest of a body, up to a limit of bytes and time."""
    give_up_at = time.monotonic() + _DRAINED_S
    dropped = 0
    while dropped < _DRAINED_BYTES and time.monotonic() < give_up_at and (chunk := stream.read(65_536)):
        dropped += len(chunk)
