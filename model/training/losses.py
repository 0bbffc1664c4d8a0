"""Losses of captions, in nats.

Shapes:  N captions   T tokens   M predicted tokens of all captions   K distilled tokens   V vocabulary
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder, predicted
from model.errors import TrainingError
from model.tokenizer import PAD, Tokenizer, caption_tokens, cut
from model.torch_captioner import TorchCaptioner
from model.training.batches import padded

SMALLEST_WEIGHT = torch.finfo(torch.float32).tiny
BATCH = 64
TEMPERATURES = tuple(round(1 + step / 20, 2) for step in range(21))
"""From 1 to 2."""
OF_TEMPERATURE = 1000
"""Captions that the temperature is fitted on, about."""


@dataclass(frozen=True, kw_only=True)
class ExpectedWords:
    """Target probabilities at some tokens of one caption, for distillation (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531)."""

    places: Tensor
    """Positions among the predicted tokens of the caption, [K]."""
    probabilities: Tensor
    """[K, V] over the vocabulary of the captioner that gave them, half precision."""


def caption_loss(
    logits: Tensor,
    tokens: Tensor,
    weights: Tensor,
    label_smoothing: float = 0.0,
    expected: Sequence[ExpectedWords | None] = (),
) -> Tensor:
    """Return the weighted mean cross-entropy per token, in nats.

    Args:
        logits: the decoder's output for these captions, [M, V].
        tokens: from start to end, [N, T]; padding does not count.
        weights: of each caption, [N].
        label_smoothing: share of the target probability that is spread over all words.
        expected: for each caption the targets that replace its words; None, or an empty sequence, keeps the words.
    """
    losses = nn.functional.cross_entropy(logits, predicted(tokens), reduction="none", label_smoothing=label_smoothing)
    if any(expected):
        places, distilled = _distillation_losses(logits, tokens, expected)
        losses = losses.index_copy(0, places, distilled)
    counts = token_weights(tokens, weights)
    return (losses * counts).sum() / counts.sum().clamp(min=SMALLEST_WEIGHT)


def _distillation_losses(
    logits: Tensor, tokens: Tensor, expected: Sequence[ExpectedWords | None]
) -> tuple[Tensor, Tensor]:
    """Return the tokens that have target probabilities [K], and their cross-entropies [K]."""
    lengths = (tokens[:, 1:] != PAD).sum(dim=1).tolist()
    starts = accumulate(lengths, initial=0)
    targets = [
        (start + words.places, words.probabilities) for start, words in zip(starts, expected, strict=False) if words
    ]
    places = torch.cat([place for place, _ in targets]).to(logits.device)
    probabilities = torch.cat([probability for _, probability in targets]).to(logits.device).float()
    predictions = logits[places].log_softmax(dim=1)[:, : probabilities.shape[1]]
    return places, -(probabilities * predictions).sum(dim=1)


def token_weights(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each predicted token [M]: that of its caption [N]."""
    return weights.repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))


def token_loss(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], *, spelled: bool = False
) -> float:
    """Return the mean negative log-likelihood per token of the captions, in nats.

    Args:
        decoder: is left in evaluation mode.
        examples: one or more captions with the features of their images.
        spelled: as in `caption_tokens`. True charges the full price for words that the decoder cannot write.
    """
    if not examples:
        raise TrainingError("a loss needs at least one held-out caption, got none")
    words = sum(len(caption_tokens(tokenizer, example.caption, spelled=spelled)) - 1 for example in examples)
    return sum(caption_losses(decoder, tokenizer, examples, spelled=spelled)) / words


def caption_losses(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    examples: Sequence[CaptionedFeatures],
    *,
    spelled: bool = False,
    temperature: float = 1.0,
) -> list[float]:
    """Return the negative log-likelihood of each caption with its end, in nats.

    Args:
        decoder, tokenizer, examples, spelled: as in `token_loss`.
        temperature: as in Captioner.
    """
    losses: list[float] = []
    for logits, tokens in _logits(decoder, tokenizer, examples, spelled):
        of_tokens = nn.functional.cross_entropy(logits / temperature, predicted(tokens), reduction="none")
        lengths = (tokens[:, 1:] != PAD).sum(dim=1).tolist()
        losses += [part.sum().item() for part in torch.split(of_tokens, lengths)]
    return losses


def best_temperature(decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]) -> float:
    """Return the temperature, of TEMPERATURES, at which the decoder expects these captions best (see Captioner)."""
    chosen = examples[:: max(1, len(examples) // OF_TEMPERATURE)]
    losses = dict.fromkeys(TEMPERATURES, 0.0)
    for logits, tokens in _logits(decoder, tokenizer, chosen, spelled=False):
        for temperature in losses:
            of_batch = nn.functional.cross_entropy(logits / temperature, predicted(tokens), reduction="sum")
            losses[temperature] += of_batch.item()
    return min(losses, key=losses.__getitem__)


@torch.inference_mode()
def _logits(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], spelled: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the decoder's logits [M, V] for a batch of captions, and their tokens [N, T]; arguments as above."""
    decoder.eval()
    for start in range(0, len(examples), BATCH):
        chosen = examples[start : start + BATCH]
        tokens = padded([caption_tokens(tokenizer, example.caption, spelled=spelled) for example in chosen])
        tokens = tokens.to(decoder.device)
        features = {id(example.features): example.features for example in chosen}  # once for all captions of an image
        rows = {image: row for row, image in enumerate(features)}
        images = torch.tensor([rows[id(example.features)] for example in chosen], device=decoder.device)
        yield decoder(torch.stack(list(features.values())).to(decoder.device).float(), tokens, images), tokens


def word_losses(captioner: TorchCaptioner, examples: Sequence[CaptionedFeatures]) -> tuple[float, ...]:
    """Return the negative log-likelihood of each caption in nats per word, at the captioner's temperature; its end
    counts as a word.

    The loss is per word, not per token, because a vocabulary with new words cuts a caption into fewer tokens.
    """
    losses = caption_losses(
        captioner.decoder, captioner.tokenizer, examples, spelled=True, temperature=captioner.temperature
    )
    return tuple(
        loss / (1 + sum(1 for _ in cut(example.caption))) for loss, example in zip(losses, examples, strict=True)
    )
