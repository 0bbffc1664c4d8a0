"""Builders of what tests talk about: defaults that work, the test states only what matters."""

from dataclasses import fields
from typing import Any

from worker.corrections import Correction


def make_task(**changes: Any) -> dict[str, Any]:
    """A task as Label Studio sends it to /predict, in the plain captioning project."""
    task: dict[str, Any] = {
        "id": 1,
        "data": {"captioning": "/data/upload/1/0a1b2c3d-dog.jpg"},
        "meta": {},
        "project": 1,
        "is_labeled": False,
        "overlap": 1,
        "inner_id": 1,
        "annotations": [],
        "predictions": [],
    }
    return task | changes


def make_correction(**changes: Any) -> Correction:
    """A correction of our "a dog" to "a black dog"; annotation_id also tells task, image and UUID apart."""
    number = changes.get("annotation_id", 1)
    values: dict[str, Any] = {
        "project_id": 1,
        "task_id": number,
        "annotation_id": number,
        "annotation_uid": f"00000000-0000-4000-8000-{number:012d}",
        "control": "caption",
        "image_ref": f"/data/upload/1/{number:08x}-dog.jpg",
        "image_key": None,
        "proposed": "a dog",
        "caption": "a black dog",
        "model_version": "scenes-1a2b3c4d",
        "annotator": 1,
        "lead_time_s": 4.2,
        "ground_truth": False,
        "updated_at": "2025-01-31T12:00:00.000000+00:00",
    }
    assert set(changes) <= {declared.name for declared in fields(Correction)}
    return Correction(**values | changes)
