"""Whether the memory may speak, by what corrections show of each other."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model.memory.evidence import Evidence, are_alike, are_apart, likeness_limit, weigh_evidence
from model.memory.experiment import Experiment
from model.metrics.words import Words, metric_words

KINDS = ("many planes are parked in an airport", "green trees are near a river", "houses stand along the road")
VOCABULARY = frozenset(word for kind in KINDS for word in metric_words(kind)) | {"some", "big", "people", "rocks"}
OURS = metric_words("some people on rocks")


def images(count: int, *, alikeness: float) -> np.ndarray:  # type: ignore[type-arg]
    """Return vectors of images of the three kinds in turn; all images share a direction as far as they are alike."""
    draw = np.random.default_rng(0)
    vectors = 0.35 * draw.standard_normal((count, 32)) / 32**0.5
    vectors[np.arange(count), np.arange(count) % 3] += 1
    vectors[:, :3] -= 1 / 3
    vectors[:, 31] += alikeness
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def captions(count: int) -> list[Words]:
    """Return what annotators write for these images: each caption of a kind is a little different."""
    return [metric_words(f"{KINDS[number % 3]} {('some', 'big')[number // 3 % 2]}") for number in range(count)]


def weigh(
    written: Sequence[Words], *, alikeness: float = 1.5, decoded: Sequence[Words] | None = None, unseen: int = 0
) -> Evidence:
    count = len(written)
    of_decoder = [[caption] for caption in decoded] if decoded else [[OURS]] * count
    was_unseen = [number >= count - unseen for number in range(count)]
    return weigh_evidence(images(count, alikeness=alikeness), written, of_decoder, was_unseen, VOCABULARY)


def shuffled(written: Sequence[Words]) -> list[Words]:
    return [written[number] for number in np.random.default_rng(1).permutation(len(written))]


@pytest.mark.parametrize("alikeness", [0.0, 1.5])
def test_captions_that_describe_their_images_open_the_memory(alikeness: float) -> None:
    evidence = weigh(captions(30), alikeness=alikeness)

    assert evidence.is_unfamiliar == (alikeness > 1)
    assert evidence.chance <= 0.01
    assert evidence.gains_in == 1
    assert evidence.speaks_for_memory


def test_ten_corrections_are_enough_for_an_unfamiliar_kind() -> None:
    assert weigh(captions(10)).speaks_for_memory


def test_fewer_than_five_corrections_are_never_enough() -> None:
    assert not weigh(captions(4)).speaks_for_memory


@pytest.mark.parametrize("alikeness", [0.0, 1.5])
@pytest.mark.parametrize("count", [20, 60])
def test_shuffled_captions_do_not(alikeness: float, count: int) -> None:
    assert not weigh(shuffled(captions(count)), alikeness=alikeness).speaks_for_memory


@pytest.mark.parametrize("alikeness", [0.0, 1.5])
def test_one_caption_for_all_images_does_not(alikeness: float) -> None:
    evidence = weigh([metric_words("some big trees are near a road")] * 40, alikeness=alikeness)

    assert evidence.chance == 1
    assert not evidence.speaks_for_memory


def test_unreadable_captions_need_more_evidence() -> None:
    evidence = Evidence(corrections=12, chance=0.05, gain=0.5, gains_in=1.0, alikeness=0.4, readable=0.9)

    assert evidence.speaks_for_memory
    assert not replace(evidence, readable=0.3).speaks_for_memory
    assert replace(evidence, readable=0.3, chance=0.005).speaks_for_memory


def test_another_language_is_followed_once_it_continues() -> None:
    evidence = Evidence(corrections=25, chance=0.001, gain=0.2, gains_in=1.0, alikeness=0.03, readable=0.0)

    assert not evidence.speaks_for_memory
    assert replace(evidence, corrections=40).speaks_for_memory


def test_a_project_that_has_its_own_language_from_the_start_is_followed_sooner() -> None:
    evidence = Evidence(corrections=15, chance=0.01, gain=0.2, gains_in=1.0, alikeness=0.03, readable=0.0)

    assert not evidence.speaks_for_memory
    assert replace(evidence, is_whole_project=True).speaks_for_memory
    assert not replace(evidence, is_whole_project=True, chance=0.02).speaks_for_memory
    assert not replace(evidence, is_whole_project=True, corrections=14).speaks_for_memory


def test_a_clear_gain_on_an_unfamiliar_kind_may_wait_for_relevance_but_not_for_ever() -> None:
    evidence = Evidence(corrections=20, chance=0.3, gain=0.1, gains_in=1.0, alikeness=0.45, readable=0.8)

    assert evidence.speaks_for_memory
    assert replace(evidence, corrections=50).speaks_for_memory
    assert not replace(evidence, corrections=60).speaks_for_memory
    assert not replace(evidence, gain=0.04).speaks_for_memory


def test_a_memory_that_speaks_does_not_stop_for_a_little_doubt() -> None:
    evidence = Evidence(corrections=30, chance=0.05, gain=0.03, gains_in=0.9, alikeness=0.45, readable=0.8)

    assert not evidence.speaks_for_memory
    assert replace(evidence, was_open=True).speaks_for_memory
    assert not replace(evidence, was_open=True, chance=0.15).speaks_for_memory


def test_random_words_that_happen_to_suit_a_little_are_not_enough() -> None:
    vandalism = Evidence(corrections=25, chance=0.04, gain=0.04, gains_in=0.995, alikeness=0.24, readable=0.9)

    assert not vandalism.speaks_for_memory
    assert replace(vandalism, gain=0.1).speaks_for_memory


def test_where_the_decoder_writes_what_annotators_write_the_memory_stays_closed() -> None:
    written = captions(30)

    assert not weigh(written, alikeness=0.0, decoded=written).speaks_for_memory


def test_captions_that_were_written_without_a_suggestion_decide_if_there_are_enough() -> None:
    written = captions(60)
    # Where annotators saw the decoder's caption they left it as it was; the last twenty saw nothing.
    decoded = [*written[:40], *[OURS] * 20]

    flattered, honest = (weigh(written, alikeness=0.0, decoded=decoded, unseen=unseen) for unseen in (0, 20))

    assert flattered.gain < honest.gain
    assert honest.gains_in == 1


EXPERIMENT = Experiment(by_memory=40, by_decoder=20, gain=0.0, gains_in=0.5, losses_in=0.5)
LOST = replace(EXPERIMENT, gain=-0.2, gains_in=0.05, losses_in=0.95)
WON = replace(EXPERIMENT, gain=0.1, gains_in=0.8, losses_in=0.2)
FAMILIAR = Evidence(corrections=100, chance=0.001, gain=0.1, gains_in=1.0, alikeness=0.05, readable=0.9)
"""The memory may speak."""


@pytest.mark.parametrize("alikeness", [0.05, 0.4])
def test_a_memory_whose_captions_annotators_keep_clearly_less_closes(alikeness: float) -> None:
    evidence = replace(FAMILIAR, alikeness=alikeness)

    assert evidence.speaks_for_memory
    assert not replace(evidence, experiment=LOST).speaks_for_memory
    assert replace(evidence, experiment=replace(LOST, losses_in=0.949)).speaks_for_memory


@pytest.mark.parametrize(("alikeness", "gains_in"), [(0.05, 0.7), (0.4, 0.1)])
def test_captions_that_annotators_keep_more_are_a_gain(alikeness: float, gains_in: float) -> None:
    evidence = replace(FAMILIAR, alikeness=alikeness, gains_in=gains_in)

    assert not evidence.speaks_for_memory
    assert replace(evidence, experiment=WON).speaks_for_memory
    assert not replace(evidence, experiment=replace(WON, gains_in=0.799)).speaks_for_memory


@pytest.mark.parametrize("alikeness", [0.05, 0.4])
def test_captions_that_do_not_describe_their_images_are_refused_also_if_annotators_keep_them(alikeness: float) -> None:
    garbage = replace(FAMILIAR, alikeness=alikeness, chance=0.03, gains_in=0.5)

    assert not replace(garbage, experiment=WON).speaks_for_memory


def test_an_experiment_that_shows_nothing_changes_nothing() -> None:
    assert replace(FAMILIAR, experiment=EXPERIMENT).speaks_for_memory
    assert not replace(FAMILIAR, gains_in=0.7, experiment=EXPERIMENT).speaks_for_memory


def test_an_image_of_another_kind_is_below_the_limit_and_look_alikes_are_above() -> None:
    vectors = images(40, alikeness=0.0)

    limit = likeness_limit(vectors[:30])

    nearest = (vectors[30:] @ vectors[:30].T).max(axis=1)
    assert (nearest >= limit).mean() >= 0.9
    assert limit > 0.5


def test_in_a_project_of_a_kind_of_its_own_an_image_nearer_to_the_bundles_images_is_of_the_bundles_kind() -> None:
    cosines, to_own = np.array([0.6, 0.6, 0.48, 0.4], np.float32), np.array([0.3, 0.7, 0.3, 0.3], np.float32)

    assert are_alike(cosines, 0.5).tolist() == [True, True, False, False]
    assert are_alike(cosines, 0.5, to_own).tolist() == [True, False, True, False]


def test_corrected_images_are_apart_if_nearly_all_are_more_like_each_other_than_like_the_bundles_images() -> None:
    vectors = images(20, alikeness=1.5)

    assert are_apart(vectors, np.full(20, 0.2, np.float32))
    assert are_apart(vectors, np.array([0.999] * 3 + [0.2] * 17, np.float32))
    assert not are_apart(vectors, np.array([0.999] * 6 + [0.2] * 14, np.float32))
    assert not are_apart(vectors, None)
