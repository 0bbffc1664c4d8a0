"""What the admin's pages keep for as long as the process lives."""

from dataclasses import dataclass

from flask import Flask, current_app

from backend.admin.neighbours import LabelStudioHealth
from backend.label_studio.client import LabelStudioClient
from worker.settings import Settings

EXTENSION = "captioner-admin"


@dataclass(frozen=True, kw_only=True)
class AdminParts:
    """Label Studio as the pages see it."""

    client: LabelStudioClient | None
    """None without LABEL_STUDIO_API_KEY."""
    label_studio: LabelStudioHealth


def add_admin_parts(app: Flask, settings: Settings) -> None:
    client = LabelStudioClient.from_settings(settings)
    app.extensions[EXTENSION] = AdminParts(client=client, label_studio=LabelStudioHealth(client))


def admin_parts() -> AdminParts:
    found: AdminParts = current_app.extensions[EXTENSION]
    return found
