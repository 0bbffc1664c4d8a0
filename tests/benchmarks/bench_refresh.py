"""Measures a refresh of the stored suggestions of many tasks whose images are known, as after a new version.

    python -m tests.benchmarks.bench_refresh --photos DIR [--tasks 10000]

Redis and the model store are real. Label Studio is the small one of the tests, in this process. Features are stored.
Captions are not kept, because another version would write them. The time of captioning is counted apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis import Redis
from tqdm import tqdm

from backend.captioning.caption_cache import CaptionCache
from backend.captioning.services import CaptioningServices, make_services
from backend.captioning.suggest import Suggester, TaskSuggestions
from backend.label_studio.client import LabelStudioClient
from backend.protocol.label_config import parse_caption_controls
from backend.sync import refresh
from tests.fake_label_studio import LABEL_CONFIG, LEGACY_TOKEN, FakeLabelStudio
from tests.redis_server import RedisServer
from worker.feedback.layout import open_layout
from worker.settings import Settings

PROJECT = 1
AT_ONCE = 200
BAR_S = 90.0


class TimedSuggester(Suggester):
    """A suggester that adds up its time."""

    seconds = 0.0

    def suggest(self, tasks: Sequence[Mapping[str, Any]], *budget: float) -> list[TaskSuggestions]:
        began = time.perf_counter()
        try:
            return super().suggest(tasks, *budget)
        finally:
            TimedSuggester.seconds += time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_refresh", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", type=Path, required=True, help="directory of JPEG files")
    parser.add_argument("--tasks", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    photos = sorted(arguments.photos.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder, FakeLabelStudio() as label_studio:
        server = RedisServer(Path(folder) / "redis")
        server.start()
        with Redis.from_url(server.url) as redis:
            open_layout(redis)
        label_studio.add_project(id=PROJECT)
        for number, photo in enumerate(photos):
            label_studio.files[f"/data/upload/1/{number}.jpg"] = photo.read_bytes()
        images = [f"/data/upload/1/{number % len(photos)}.jpg" for number in range(arguments.tasks)]
        for number, image in enumerate(images, 1):
            label_studio.add_task(PROJECT, {"captioning": image}, id=number)
        settings = Settings(
            redis_url=server.url,
            model_store=str(Path(folder) / "store"),
            caption_bundle="photos",
            label_studio_url=label_studio.url,
            label_studio_api_key=LEGACY_TOKEN,
        )
        measure(make_services(settings), images)
        server.kill()


def measure(services: CaptioningServices, images: Sequence[str]) -> None:
    """Store the features of all images, then refresh, and print the times."""
    client = LabelStudioClient.from_settings(services.settings)
    assert client is not None
    suggester = Suggester(services, PROJECT, parse_caption_controls(LABEL_CONFIG))
    new = list(dict.fromkeys(images))
    for start in tqdm(range(0, len(new), AT_ONCE), desc="features", leave=False):
        batch = new[start : start + AT_ONCE]
        suggester.suggest([{"id": start + at, "data": {"captioning": image}} for at, image in enumerate(batch, 1)])
    object.__setattr__(services, "captions", CaptionCache())
    vars(refresh)["Suggester"] = TimedSuggester
    began = time.perf_counter()
    version = services.captioners.version_of(PROJECT)
    report = refresh.refresh(client, services, PROJECT, version, 0, lambda _done, _total: None, turn_s=10_000)
    seconds = time.perf_counter() - began
    print(f"{report.refreshed} tasks refreshed in {seconds:.1f} s, {TimedSuggester.seconds:.1f} s of it captioning")
    value = round(TimedSuggester.seconds, 1)
    print(json.dumps({"bars": {"captioning_s": {"value": value, "bar": BAR_S, "holds": value <= BAR_S}}}))


if __name__ == "__main__":
    main()
