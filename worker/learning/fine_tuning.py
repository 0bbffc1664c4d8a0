"""Fine-tuning of the served decoder on a project's corrections, within a time budget."""

import math
import time
from collections.abc import Sequence

import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.interpolation import interpolated
from model.new_words import with_new_words
from model.tokenizer import Tokenizer, caption_tokens
from model.torch_captioner import TorchCaptioner
from model.training.batches import padded
from model.training.losses import caption_loss
from model.training.optimization import reduced_precision
from model.training.self_distillation import expected_words
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from model.training.training_record import TrainingRecord
from worker.learning.dataset import Dataset
from worker.queue.job_progress import Progress

BATCH = 64
HIDDEN = 256
"""State size of the decoder that the next three constants are for. A decoder twice as wide learns as much in half as
many steps at half the rates. With more steps or higher rates it forgets more."""
STEPS = 64
"""Steps of one retraining, if the budget allows."""
RATE = 2e-3
INNER_RATE = 5e-4
"""Learning rate of attention and LSTM. With the rate of the other parts, more suggestions for other images become
wrong."""


def fine_tune(
    serving: TorchCaptioner, dataset: Dataset, budget_s: int, seed: int, progress: Progress
) -> tuple[TorchCaptioner, TrainingRecord]:
    """Return the served version after training on the dataset, with the dataset's new words.

    The training is short and its rates are low: the decoder can caption already, and it would learn the few replayed
    captions by heart. Held-out captions judge the candidate afterwards, so they choose no epoch.
    """
    # Even a word that was typed once gets a token: the decoder cannot write words that it would have to spell.
    tokenizer = serving.tokenizer.extended(dataset.captions, min_count=1)
    examples = dataset.training_examples(seed)
    decoder = with_new_words(serving.decoder, tokenizer, examples)
    narrowness = min(1.0, HIDDEN / decoder.sizes.hidden)
    options = TrainingOptions(
        epochs=affordable_epochs(decoder, tokenizer, examples, math.ceil(STEPS * narrowness), budget_s),
        batch_size=BATCH,
        learning_rate=RATE * narrowness,
        inner_learning_rate=INNER_RATE * narrowness,
        warmup_steps=20,
        label_smoothing=0.0,
        dropout=0.0,
        temperature=serving.temperature,
        reduced_precision=True,
        budget_s=budget_s,
        seed=seed,
    )
    expected = expected_words(serving, tokenizer, examples)
    record = fit_decoder(decoder, tokenizer, examples, [], options, on_progress=progress.step, expected=expected)
    return TorchCaptioner(serving.encoder, decoder, tokenizer, "candidate", serving.temperature), record


def part_way(
    serving: TorchCaptioner, trained: TorchCaptioner, dataset: Dataset, seed: int, alpha: float
) -> TorchCaptioner:
    """Return the captioner that is this part of the way from the served version to the trained one.

    Args:
        serving: the served version.
        trained: result of `fine_tune` on this dataset with this seed.
        dataset: of the training.
        seed: of the training.
        alpha: 0 to 1.
    """
    if alpha == 1:
        return trained
    start = with_new_words(serving.decoder, trained.tokenizer, dataset.training_examples(seed))
    decoder = interpolated(start, trained.decoder, alpha)
    return TorchCaptioner(trained.encoder, decoder, trained.tokenizer, trained.version, trained.temperature)


def gradients_are_finite(serving: TorchCaptioner, dataset: Dataset) -> bool:
    """Return True if a forward and backward pass over everything to train on gives finite numbers only."""
    examples = [*(learned.example for learned in dataset.learned), *dataset.replay]
    tokenizer = serving.tokenizer.extended(dataset.captions, min_count=1)
    decoder = with_new_words(serving.decoder, tokenizer, examples)
    expected_words(serving, tokenizer, examples)
    loss = 0.0
    for start in range(0, len(examples), BATCH):
        loss += _backward(decoder, tokenizer, examples[start : start + BATCH])
    gradients = [value.grad for value in decoder.parameters() if value.grad is not None]
    return math.isfinite(loss) and all(bool(gradient.isfinite().all()) for gradient in gradients)


def affordable_epochs(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], steps: int, budget_s: float
) -> int:
    """Return the number of epochs that make so many steps, or fewer if a batch takes too long for the budget.

    The learning rate falls over the planned steps; if the budget ended the training early, it would still be high.
    """
    batch = examples[:: max(1, len(examples) // BATCH)][:BATCH]
    took_s = 0.0
    for _ in range(2):  # the first time also pays for memory and threads
        started = time.perf_counter()
        _backward(decoder, tokenizer, batch)
        took_s = time.perf_counter() - started
    decoder.zero_grad(set_to_none=True)
    wanted = math.ceil(steps / math.ceil(len(examples) / BATCH))
    return max(1, min(wanted, int(budget_s / (took_s * len(examples) / len(batch)))))


def _backward(decoder: CaptionDecoder, tokenizer: Tokenizer, batch: Sequence[CaptionedFeatures]) -> float:
    """Add the gradients of a batch to those of the decoder, and return its loss."""
    tokens = padded([caption_tokens(tokenizer, example.caption) for example in batch])
    features = torch.stack([example.features for example in batch]).float()
    with reduced_precision(device=decoder.device):
        logits = decoder(features, tokens)
    loss = caption_loss(logits.float(), tokens, torch.ones(len(batch)))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()
