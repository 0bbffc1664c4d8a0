"""Logging of the worker's processes: a line per finished unit of work; of RQ's own steps only what is wrong."""

import logging
import sys

LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S%z"


def set_up_logging() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LINE, datefmt=TIME)
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
