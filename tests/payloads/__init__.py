"""Requests that Label Studio 1.23.2 sent, and replies of its API (`7*`, `8*`); tokens and passwords are dummies."""

import json
from pathlib import Path
from typing import Any


def load_payload(name: str) -> dict[str, Any]:
    """Return a recorded request by its file's name, without `.json`: flow, method, path, headers, body."""
    payload: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8"))
    return payload


def payload_names(*patterns: str) -> list[str]:
    """Return the names that match any of these glob patterns."""
    return sorted(path.stem for pattern in patterns for path in Path(__file__).parent.glob(f"{pattern}.json"))
