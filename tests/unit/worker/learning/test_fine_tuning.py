from dataclasses import replace

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.torch_captioner import TorchCaptioner
from model.training.losses import word_losses
from tests.factories import make_captioner, make_correction, make_image, training_features
from worker.learning.dataset import CorrectedImage, Dataset
from worker.learning.fine_tuning import STEPS, affordable_epochs, fine_tune, part_way
from worker.queue.job_progress import Progress

NOBODY = "redis://127.0.0.1:1/0"
CAPTION = "a red circle"


@pytest.fixture(scope="module")
def captioner() -> TorchCaptioner:
    return make_captioner()


def make_dataset(captioner: TorchCaptioner, caption: str = "two crimson circle", color: str = "red") -> Dataset:
    features = training_features(captioner, [make_image(color)])[0]
    example = CaptionedFeatures(features=features, caption=caption)
    correction = make_correction(caption=caption)
    corrected = CorrectedImage(correction=correction, example=example, is_new=True)
    return Dataset(
        learned=(corrected,) * 4,
        held_out=(corrected,),
        replay=(),
        anchors=(),
        left_out={},
    )


def held_out_loss(captioner: TorchCaptioner, dataset: Dataset) -> float:
    [loss] = word_losses(captioner, [corrected.example for corrected in dataset.held_out])
    return loss


def test_fine_tuning_learns_the_corrections_with_new_words_and_leaves_the_serving_version_as_it_was(
    captioner: TorchCaptioner,
) -> None:
    dataset = make_dataset(captioner)
    before = {name: value.clone() for name, value in captioner.decoder.state_dict().items()}

    candidate, record = fine_tune(captioner, dataset, 30, seed=1, progress=Progress(None, NOBODY))

    assert "crimson" in candidate.tokenizer.words
    assert "crimson" not in captioner.tokenizer.words
    assert candidate.decoder.sizes.vocabulary == candidate.tokenizer.size
    assert record.train_losses[-1] < record.train_losses[0]
    assert all(torch.equal(before[name], value) for name, value in captioner.decoder.state_dict().items())
    assert held_out_loss(candidate, dataset) < held_out_loss(captioner, dataset)


def test_words_of_a_caption_that_its_paraphrase_has_are_not_learned_again(captioner: TorchCaptioner) -> None:
    anew = make_dataset(captioner, CAPTION)
    paraphrased = [replace(image, example=replace(image.example, paraphrases=(CAPTION,))) for image in anew.learned]

    learned, unchanged = (
        fine_tune(captioner, dataset, 30, seed=1, progress=Progress(None, NOBODY))[0]
        for dataset in (anew, replace(anew, learned=tuple(paraphrased)))
    )

    before = held_out_loss(captioner, anew)
    assert held_out_loss(learned, anew) < 0.8 * before
    assert held_out_loss(unchanged, anew) == pytest.approx(before, rel=0.05)


def test_captions_are_learned_at_the_temperature_at_which_people_s_captions_are_expected() -> None:
    """The paraphrase keeps the decoder's own probabilities, so at its temperature there is nothing to learn."""
    warm = make_captioner()
    warm.decoder.state_dict()["bias"].copy_(
        torch.randn(warm.tokenizer.size, generator=torch.Generator().manual_seed(0)) * 6
    )
    warm.temperature = 2.0
    dataset = make_dataset(warm, CAPTION)
    paraphrased = tuple(
        replace(image, example=replace(image.example, paraphrases=(CAPTION,))) for image in dataset.learned
    )
    dataset = replace(dataset, learned=paraphrased)

    trained, _ = fine_tune(warm, dataset, 30, seed=1, progress=Progress(None, NOBODY))

    assert trained.temperature == part_way(warm, trained, dataset, 1, 0.5).temperature == 2.0
    assert held_out_loss(trained, dataset) == pytest.approx(held_out_loss(warm, dataset), rel=0.05)


def test_fine_tuning_gives_the_same_for_the_same_seed(captioner: TorchCaptioner) -> None:
    dataset = make_dataset(captioner)

    first, second = (fine_tune(captioner, dataset, 30, seed=7, progress=Progress(None, NOBODY))[0] for _ in range(2))

    assert held_out_loss(first, dataset) == held_out_loss(second, dataset)


def test_a_part_of_the_way_learns_a_part_and_has_all_new_words(captioner: TorchCaptioner) -> None:
    dataset = make_dataset(captioner)
    trained, _ = fine_tune(captioner, dataset, 30, seed=1, progress=Progress(None, NOBODY))

    half, whole = (part_way(captioner, trained, dataset, 1, alpha) for alpha in (0.5, 1.0))

    assert whole is trained
    assert half.tokenizer is trained.tokenizer
    assert held_out_loss(trained, dataset) < held_out_loss(half, dataset) < held_out_loss(captioner, dataset)


def test_a_small_budget_plans_fewer_epochs_and_at_least_one(captioner: TorchCaptioner) -> None:
    examples = [learned.example for learned in make_dataset(captioner).learned] * 50

    assert affordable_epochs(captioner.decoder, captioner.tokenizer, examples, STEPS, 1e6) == STEPS / 4
    assert affordable_epochs(captioner.decoder, captioner.tokenizer, examples, STEPS, 0.0) == 1
    assert all(value.grad is None for value in captioner.decoder.parameters())
