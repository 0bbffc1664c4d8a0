"""Services of the admin pages, which live as long as the process."""

from dataclasses import dataclass

from flask import Flask, current_app, g
from redis import RedisError

from backend.captioning.services import current_services
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.health import LabelStudioHealth
from worker.settings import Settings

EXTENSION = "captioner-admin"


@dataclass(frozen=True, kw_only=True)
class AdminServices:
    """Services that only the admin pages need."""

    client: LabelStudioClient | None
    """None without LABEL_STUDIO_API_KEY."""
    label_studio: LabelStudioHealth


def add_admin_services(app: Flask, settings: Settings) -> AdminServices:
    """Make the services and keep them with the application."""
    services = AdminServices(
        client=LabelStudioClient.from_settings(settings),
        label_studio=LabelStudioHealth(settings.label_studio_url),
    )
    app.extensions[EXTENSION] = services
    return services


def admin_services() -> AdminServices:
    services: AdminServices = current_app.extensions[EXTENSION]
    return services


def redis_answers() -> bool:
    """Return whether Redis answers; checked once for each request."""
    if "redis_answers" not in g:
        try:
            g.redis_answers = bool(current_services().redis.ping())
        except RedisError:
            g.redis_answers = False
    return bool(g.redis_answers)
