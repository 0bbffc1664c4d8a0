"""The memory on a real Redis: what annotators write is suggested for look-alike images, without any training."""

import base64
import logging
from collections.abc import Callable, Iterable

import pytest
from redis import Redis

from backend import jobs
from model.registry import ModelVersion
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.vision.images import image_key
from tests.annotator import Annotator, text_of
from tests.backend_client import LABEL_CONFIG, BackendClient
from tests.factories import environment_of, make_decoder, make_tokenizer
from tests.fake_label_studio import LEGACY_TOKEN, FakeLabelStudio
from tests.image_server import ImageServer, png
from tests.redis_server import RedisServer
from tests.workplace import Workplace
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.waiting import read_waiting
from worker.policy import is_decoder_alone, is_held_out_of_memory
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, queue

CAPTIONS = {
    "red": "two red roses in the garden",
    "blue": "a blue lake below the mountains",
    "lime": "green grass behind a fence",
}
"""What annotators write for pictures of a color."""
CORRECTED = range(1, 13)


class Gallery:
    """Pictures of three colors in some shades. Picture n belongs to task n."""

    def __init__(self, server: ImageServer, shades: int = 12) -> None:
        self._server, self._shades = server, shades

    def color(self, number: int) -> str:
        return list(CAPTIONS)[number % len(CAPTIONS)]

    def shade(self, number: int) -> str:
        channels = {"red": [250, 0, 0], "blue": [0, 0, 250], "lime": [0, 250, 0]}[self.color(number)]
        return "rgb({},{},{})".format(*(abs(channel - 2 * (number // 3 % self._shades)) for channel in channels))

    def show(self, number: int) -> str:
        """Return the address of picture `number`."""
        return self._server.show(f"/{number}.png", self.shade(number))


@pytest.fixture
def gallery(image_server: ImageServer) -> Gallery:
    return Gallery(image_server)


@pytest.fixture
def annotator(backend: BackendClient) -> Annotator:
    return Annotator(backend)


def correct(annotator: Annotator, gallery: Gallery, numbers: range) -> None:
    """See the suggestion of each task, and replace it by the caption of its color."""
    for number in numbers:
        annotator.caption(number, gallery.show(number))
        annotator.submit(number, gallery.show(number), CAPTIONS[gallery.color(number)])


def restart(make_backend: Callable[..., BackendClient], image_server: ImageServer) -> Annotator:
    """Return an annotator of the same project whose backend has just started."""
    return Annotator(make_backend(label_studio_url=image_server.url, label_studio_api_key="f" * 40))


def next_captions(annotator: Annotator, gallery: Gallery, first: int = 100) -> dict[str, str]:
    """Return the suggestion for a picture of each color that nobody corrected."""
    images = {number: gallery.show(number) for number in range(first, first + 3)}
    return {gallery.color(number): text for number, text in annotator.captions(images).items()}


def label_of(backend: BackendClient) -> str:
    """Return what /setup tells Label Studio about project 1."""
    body = {"project": "1.1795230827", "schema": LABEL_CONFIG}
    return str(backend.post("/setup", body).get_json()["model_version"])


def test_the_next_suggestions_of_look_alikes_are_in_the_words_of_the_corrections(
    annotator: Annotator, gallery: Gallery
) -> None:
    before = next_captions(annotator, gallery)

    correct(annotator, gallery, CORRECTED)

    assert next_captions(annotator, gallery) == CAPTIONS != before


def test_label_studio_is_told_of_each_generation_and_so_asks_again(annotator: Annotator, gallery: Gallery) -> None:
    version = label_of(annotator.backend)
    correct(annotator, gallery, CORRECTED)

    suggestion = annotator.suggestions({100: gallery.show(100)})[100]
    first = label_of(annotator.backend)
    annotator.submit(50, gallery.show(50), CAPTIONS[gallery.color(50)])

    assert suggestion["model_version"] == first
    assert first.startswith(f"{version}+m")
    assert label_of(annotator.backend) not in {first, version}


def test_the_ledger_keeps_the_version_of_the_decoder_and_names_the_look_alikes(
    annotator: Annotator, gallery: Gallery
) -> None:
    version = label_of(annotator.backend)
    correct(annotator, gallery, CORRECTED)
    address = gallery.show(30)

    annotator.submit(30, address, annotator.caption(30, address))

    (record,) = (record for record in annotator.backend.corrections(1) if record.task_id == 30)
    assert (record.model_version, record.outcome) == (version, "accepted")
    assert record.generation is not None
    assert {gallery.color(int(name.split("/")[0])) for name in record.like} == {gallery.color(30)}


def test_deleted_corrections_leave_with_the_next_prediction(annotator: Annotator, gallery: Gallery) -> None:
    before = next_captions(annotator, gallery)
    correct(annotator, gallery, CORRECTED)
    assert next_captions(annotator, gallery) == CAPTIONS

    annotator.delete(*CORRECTED)

    assert next_captions(annotator, gallery) == before
    assert "+m" not in label_of(annotator.backend)


def test_a_changed_correction_counts_as_it_is_now(annotator: Annotator, gallery: Gallery) -> None:
    correct(annotator, gallery, CORRECTED)

    for number in CORRECTED[2::3]:
        annotator.submit(number, gallery.show(number), "two scarlet tulips in the garden")

    assert next_captions(annotator, gallery)["red"] == "two scarlet tulips in the garden"


def test_excluded_corrections_leave_and_included_ones_return(
    annotator: Annotator, gallery: Gallery, redis: Redis
) -> None:
    correct(annotator, gallery, CORRECTED)
    reds = [record.name for record in annotator.backend.corrections(1) if gallery.color(record.task_id) == "red"]

    for name in reds:
        FeedbackStore(redis).exclude(1, name, "tried out")
    without = next_captions(annotator, gallery)["red"]
    for name in reds:
        FeedbackStore(redis).include(1, name)

    assert without != CAPTIONS["red"]
    assert next_captions(annotator, gallery)["red"] == CAPTIONS["red"]


def test_every_backend_of_the_installation_knows_what_one_of_them_was_told(
    annotator: Annotator, gallery: Gallery, make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    other = restart(make_backend, image_server)
    assert next_captions(other, gallery) != CAPTIONS

    correct(annotator, gallery, CORRECTED)

    assert next_captions(other, gallery) == CAPTIONS
    assert label_of(other.backend) == label_of(annotator.backend)


def test_nobody_is_shown_what_was_written_for_his_own_task(annotator: Annotator, gallery: Gallery) -> None:
    correct(annotator, gallery, CORRECTED)
    annotator.submit(12, gallery.show(12), "a single opinion of one annotator")

    assert annotator.caption(12, gallery.show(12)) == CAPTIONS[gallery.color(12)]


def test_of_two_annotators_of_one_image_the_newer_counts(annotator: Annotator, gallery: Gallery) -> None:
    correct(annotator, gallery, CORRECTED)

    for number in CORRECTED[2::3]:
        annotator.submit(number, gallery.show(number), "two scarlet tulips in the garden", annotation_id=1000 + number)

    assert next_captions(annotator, gallery)["red"] == "two scarlet tulips in the garden"


def test_a_memory_of_images_of_a_kind_of_its_own_makes_trainings_rare_as_long_as_it_is_open(
    annotator: Annotator, gallery: Gallery, redis: Redis
) -> None:
    trainings = queue(redis, RETRAIN_QUEUE).deferred_job_registry
    correct(annotator, gallery, range(1, 31))
    next_captions(annotator, gallery)
    annotator.backend.services.memories.wait()
    is_taught, started = read_waiting(redis, 1).is_taught_by_memory, trainings.count

    annotator.delete(*range(1, 28))
    next_captions(annotator, gallery)

    assert (is_taught, started) == (True, 0)
    assert not read_waiting(redis, 1).is_taught_by_memory


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_what_is_gone_or_damaged_is_made_again(
    annotator: Annotator,
    gallery: Gallery,
    redis: Redis,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
    damage: str,
) -> None:
    correct(annotator, gallery, CORRECTED)
    assert next_captions(annotator, gallery) == CAPTIONS
    for key in redis.keys("captioner:vectors:*") + redis.keys("captioner:memory:*") + redis.keys("captioner:decoded:*"):
        if damage == "gone":
            redis.delete(key)
        else:
            redis.hset(key, mapping=dict.fromkeys(redis.hkeys(key), b"?"))

    restarted = restart(make_backend, image_server)

    # A dozen images must be decoded again, which is done beside the requests.
    Workplace.wait_until(lambda: next_captions(restarted, gallery, first=200) == CAPTIONS)


def test_a_redis_that_lost_its_data_leaves_nothing_behind(annotator: Annotator, gallery: Gallery, redis: Redis) -> None:
    before = next_captions(annotator, gallery)
    correct(annotator, gallery, CORRECTED)
    assert next_captions(annotator, gallery) == CAPTIONS

    redis.flushall()

    assert next_captions(annotator, gallery) == before


def test_without_redis_the_decoder_suggests_alone_and_says_so_once(
    gallery: Gallery,
    own_redis: RedisServer,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    annotator = Annotator(
        make_backend(redis_url=own_redis.url, label_studio_url=image_server.url, label_studio_api_key="f" * 40)
    )
    before = next_captions(annotator, gallery)
    correct(annotator, gallery, CORRECTED)
    assert next_captions(annotator, gallery) == CAPTIONS
    own_redis.kill()

    with caplog.at_level(logging.WARNING):
        alone = [next_captions(annotator, gallery) for _ in range(3)]
    own_redis.start()

    assert alone == [before] * 3
    assert sum("without memory" in record.message for record in caplog.records) == 1
    assert next_captions(annotator, gallery) == CAPTIONS


def test_captions_that_do_not_describe_their_images_change_nothing(annotator: Annotator, gallery: Gallery) -> None:
    before = next_captions(annotator, gallery)

    for number in range(1, 31):
        annotator.caption(number, gallery.show(number))
        annotator.submit(number, gallery.show(number), list(CAPTIONS.values())[(number * 7 // 3) % 3])

    assert next_captions(annotator, gallery) == before
    assert "+m" not in label_of(annotator.backend)


@pytest.mark.parametrize("caption", ["🎉", "word " * 30_000, "zxq qzx xqz", "\u200b\u200b."])
def test_a_strange_caption_among_others_harms_nothing(annotator: Annotator, gallery: Gallery, caption: str) -> None:
    correct(annotator, gallery, CORRECTED)

    annotator.submit(30, gallery.show(30), caption)

    assert next_captions(annotator, gallery) == CAPTIONS


def test_features_that_are_gone_are_waited_for(
    annotator: Annotator,
    gallery: Gallery,
    redis: Redis,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
) -> None:
    correct(annotator, gallery, CORRECTED)
    store = Store(annotator.backend.settings.model_store)
    files = {path: store.read(path) or b"" for path in store.list("features")}
    redis.delete(*redis.keys("captioner:vectors:*"))
    for path in files:
        store.delete(path)
    restarted = restart(make_backend, image_server)

    without = next_captions(restarted, gallery)
    for path, content in files.items():
        store.write(path, content)

    assert without != CAPTIONS
    assert next_captions(restarted, gallery) == CAPTIONS


def test_a_tenth_of_the_images_after_the_first_twenty_is_held_out(
    annotator: Annotator, gallery: Gallery, redis: Redis
) -> None:
    correct(annotator, gallery, range(1, 31))
    next_captions(annotator, gallery)

    records = annotator.backend.corrections(1)
    remembered = annotator.backend.services.memories.names(1)

    by_age = sorted(records, key=lambda record: record.annotation_id)
    held_out = {r.name for r in by_age[20:] if is_held_out_of_memory(str(r.image_key))}
    assert remembered == {record.name for record in records} - held_out


def publish(backend: BackendClient, captioner: TorchCaptioner) -> ModelVersion:
    """Publish a version that was trained on all corrections of project 1."""
    registry = backend.services.captioners.registry
    return registry.publish(
        1,
        captioner,
        parent=registry.base_version,
        metrics={"known_states": [correction.state for correction in backend.corrections(1)]},
        corrections=(),
        decision="better",
    )


def test_a_new_version_has_the_memory_beside_it_from_its_first_suggestion(
    annotator: Annotator,
    gallery: Gallery,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
) -> None:
    correct(annotator, gallery, CORRECTED)
    version = publish(annotator.backend, annotator.backend.trainable_captioner())

    restarted = restart(make_backend, image_server)

    assert next_captions(restarted, gallery) == CAPTIONS
    assert restarted.suggestions({100: gallery.show(100)})[100]["model_version"].startswith(f"{version.name}+m")
    assert label_of(restarted.backend).startswith(f"{version.name}+m")


def test_an_image_that_is_nearer_to_one_of_the_bundle_than_to_every_corrected_one_is_captioned_by_the_decoder(
    annotator: Annotator, gallery: Gallery, image_server: ImageServer
) -> None:
    of_bundle = {300: image_server.show("/of-the-bundle.png", "red")}
    before = annotator.captions(of_bundle)

    correct(annotator, gallery, CORRECTED)

    assert next_captions(annotator, gallery) == CAPTIONS
    assert annotator.captions(of_bundle) == before


def test_a_few_mistakes_after_a_training_do_not_close_the_memory(
    annotator: Annotator,
    gallery: Gallery,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
) -> None:
    correct(annotator, gallery, CORRECTED)
    version = publish(annotator.backend, annotator.backend.trainable_captioner())
    restarted = restart(make_backend, image_server)

    for number in range(201, 210):
        restarted.caption(number, gallery.show(number))
        restarted.submit(number, gallery.show(number), CAPTIONS[gallery.color(number // 3)])

    assert next_captions(restarted, gallery) == CAPTIONS
    assert label_of(restarted.backend).startswith(f"{version.name}+m")


def test_images_of_another_kind_are_captioned_by_the_bundle_whatever_a_version_learned(
    annotator: Annotator,
    gallery: Gallery,
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
) -> None:
    correct(annotator, gallery, CORRECTED)
    captioners = annotator.backend.services.captioners
    foreign = {300: image_server.show("/foreign.png", "black"), 301: image_server.show("/also.png", "white")}
    before = annotator.captions(foreign)
    encoder = annotator.backend.trainable_captioner().encoder
    forgetful = TorchCaptioner(encoder, make_decoder(encoder.feature_size, seed=9), make_tokenizer(), "candidate")
    version = publish(annotator.backend, forgetful)

    restarted = restart(make_backend, image_server)
    after = restarted.captions(foreign)

    assert after == before
    assert next_captions(restarted, gallery) == CAPTIONS
    log = restarted.backend.services.suggestions
    assert log.find(1, 300, "caption", foreign[300])[0].model_version == captioners.registry.base_version
    assert label_of(restarted.backend).startswith(version.name)


def test_a_share_of_the_images_can_be_left_to_the_decoder_to_compare_the_two(
    gallery: Gallery, make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    annotator = Annotator(
        make_backend(decoder_alone_share=50, label_studio_url=image_server.url, label_studio_api_key="f" * 40)
    )
    correct(annotator, gallery, CORRECTED)

    images = {number: gallery.show(number) for number in range(100, 118)}
    captions = annotator.captions(images)

    left = {number for number in images if is_decoder_alone(image_key(png(gallery.shade(number))), 50)}
    assert {number for number, caption in captions.items() if caption not in CAPTIONS.values()} == left
    assert 0 < len(left) < len(images)


OTHER_CAPTIONS = {
    "red": "two red roses in a park",
    "blue": "a blue lake below some hills",
    "lime": "green grass behind a house",
}
"""What annotators write where the memory suggests CAPTIONS."""


def test_the_memory_closes_where_annotators_keep_only_the_captions_of_the_decoder(
    image_server: ImageServer, make_backend: Callable[..., BackendClient]
) -> None:
    gallery = Gallery(image_server, shades=40)
    annotator = Annotator(
        make_backend(decoder_alone_share=50, label_studio_url=image_server.url, label_studio_api_key="f" * 40)
    )
    # Each third shade of each color is corrected before the memory opens.
    first = [number for number in range(3, 123) if number // 3 % 3 == 0]
    before = captions_of(annotator, gallery, range(200, 206))
    captions_of(annotator, gallery, first)
    for number in first:
        annotator.submit(number, gallery.show(number), CAPTIONS[gallery.color(number)])
    Workplace.wait_until(lambda: captions_of(annotator, gallery, range(200, 206)) != before)

    suggested = captions_of(annotator, gallery, [number for number in range(3, 123) if number not in first])
    for number, caption in suggested.items():
        is_by_memory = caption in CAPTIONS.values()
        written = OTHER_CAPTIONS[gallery.color(number)] if is_by_memory else caption
        annotator.submit(number, gallery.show(number), written)

    Workplace.wait_until(lambda: captions_of(annotator, gallery, range(200, 206)) == before)
    assert "+m" not in label_of(annotator.backend)


def captions_of(annotator: Annotator, gallery: Gallery, numbers: Iterable[int]) -> dict[int, str]:
    return annotator.captions({number: gallery.show(number) for number in numbers})


# Suggestions that Label Studio stores


@pytest.fixture
def stored(
    label_studio: FakeLabelStudio,
    gallery: Gallery,
    make_backend: Callable[..., BackendClient],
    monkeypatch: pytest.MonkeyPatch,
) -> Annotator:
    """An annotator of a project in which nobody has annotated tasks 100 to 102; the environment is that of a worker."""
    label_studio.add_project(id=1)
    label_studio.hold(*({"id": number, "data": {"captioning": data_url(gallery, number)}} for number in OPEN_TASKS))
    backend = make_backend(label_studio_url=label_studio.url, label_studio_api_key=LEGACY_TOKEN)
    for name, value in environment_of(backend.settings).items():
        monkeypatch.setenv(name, value)
    return Annotator(backend)


OPEN_TASKS = range(100, 103)


def data_url(gallery: Gallery, number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(gallery.shade(number))).decode()


def stored_captions(label_studio: FakeLabelStudio) -> dict[int, str]:
    """Return the newest prediction of each open task."""
    newest = {row["task"]: row for row in sorted(label_studio.predictions.values(), key=lambda row: int(row["id"]))}
    return {number: text_of(newest[number]) for number in OPEN_TASKS}


def test_stored_suggestions_are_written_again_when_the_memory_opens_and_then_only_where_they_change(
    stored: Annotator, gallery: Gallery, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.connect_ours(1, redis)
    version = label_of(stored.backend)
    jobs.refresh_predictions(1, version)
    for number in CORRECTED:
        stored.caption(number, data_url(gallery, number))
        stored.submit(number, data_url(gallery, number), CAPTIONS[gallery.color(number)])
    stored.backend.services.memories.wait()
    waiting = queue(redis, LABEL_STUDIO_QUEUE).get_job_ids()
    jobs.refresh_predictions(1, version)
    opened = stored_captions(label_studio)
    jobs.refresh_look_alikes(1)
    before = len(label_studio.predictions)
    for number in CORRECTED[2::3]:
        stored.submit(number, data_url(gallery, number), "two scarlet tulips in the garden")

    report = jobs.refresh_look_alikes(1)

    assert [name for name in waiting if name.startswith("refresh-predictions-1")]
    assert opened == {number: CAPTIONS[gallery.color(number)] for number in OPEN_TASKS}
    assert (report["refreshed"], len(label_studio.predictions) - before) == (1, 1)
    assert stored_captions(label_studio) == opened | {102: "two scarlet tulips in the garden"}


def test_a_correction_schedules_one_refresh_of_look_alikes(stored: Annotator, gallery: Gallery, redis: Redis) -> None:
    for number in CORRECTED:
        stored.caption(number, data_url(gallery, number))
        stored.submit(number, data_url(gallery, number), CAPTIONS[gallery.color(number)])
    stored.backend.services.memories.wait()
    for number in CORRECTED[:3]:
        stored.submit(number, data_url(gallery, number), "a green meadow")
        stored.backend.services.memories.wait()

    scheduled = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_job_ids()

    assert len([name for name in scheduled if name.startswith("refresh-look-alikes")]) == 1
