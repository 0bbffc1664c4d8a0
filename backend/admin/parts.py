"""What the admin's pages keep for as long as the process lives."""

from dataclasses import dataclass

from flask import Flask, current_app

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.health import LabelStudioHealth
from worker.settings import Settings

EXTENSION = "captioner-admin"


@dataclass(frozen=True, kw_only=True)
class AdminParts:
    """Label Studio as the pages see it."""

    client: LabelStudioClient | None
    """None without LABEL_STUDIO_API_KEY."""
    label_studio: LabelStudioHealth


def add_admin_parts(app: Flask, settings: Settings) -> AdminParts:
    """Make them, and keep them with the application."""
    client = LabelStudioClient.from_settings(settings)
    made = app.extensions[EXTENSION] = AdminParts(
        client=client, label_studio=LabelStudioHealth(settings.label_studio_url)
    )
    return made


def admin_parts() -> AdminParts:
    found: AdminParts = current_app.extensions[EXTENSION]
    return found
