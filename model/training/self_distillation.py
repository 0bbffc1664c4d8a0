"""Self-distillation: while a decoder learns new captions, it keeps its own predictions where they already fit.

A new caption often says the same as one that the decoder already writes, such as "a picture of two dogs" for "two
dogs". The words that the two captions share keep the decoder's own probabilities as targets (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531). Only the other words are learned as they are written.

Shapes:  M predicted tokens   K of them with target probabilities   V vocabulary
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import torch

from model.captioned_features import CaptionedFeatures
from model.tokenizer import Tokenizer, caption_tokens
from model.torch_captioner import TorchCaptioner
from model.training.batches import padded
from model.training.losses import BATCH, ExpectedWords, word_losses


def expected_words(
    captioner: TorchCaptioner, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]
) -> list[ExpectedWords | None]:
    """Return target probabilities for each caption, from its most probable paraphrase; None if it has no paraphrase.

    Args:
        captioner: its predictions are kept.
        tokenizer: of the decoder that learns the captions; its vocabulary begins with the captioner's.
    """
    paraphrased = {_key(example): example for example in examples if example.paraphrases}
    candidates = [
        replace(example, caption=paraphrase) for example in paraphrased.values() for paraphrase in example.paraphrases
    ]
    losses = iter(word_losses(captioner, candidates))
    chosen = [
        replace(example, caption=min(example.paraphrases, key=lambda _: next(losses)))
        for example in paraphrased.values()
    ]
    targets = {
        key: _align(tokenizer, example.caption, *prediction)
        for (key, example), prediction in zip(paraphrased.items(), _probabilities(captioner, chosen), strict=True)
    }
    return [targets.get(_key(example)) for example in examples]


def _key(example: CaptionedFeatures) -> tuple[int, str, tuple[str, ...]]:
    """Return a key that is equal for repetitions of a caption."""
    return id(example.features), example.caption, example.paraphrases


@torch.inference_mode()
def _probabilities(
    captioner: TorchCaptioner, examples: Sequence[CaptionedFeatures]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the predicted tokens of each caption, and the probability of every word at each of them, [M, V]."""
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        tokens = [caption_tokens(captioner.tokenizer, example.caption) for example in batch]
        features = torch.stack([example.features for example in batch]).float()
        logits = captioner.decoder(features, padded(tokens))
        probabilities = (logits / captioner.temperature).softmax(dim=1).half()
        lengths = [len(ids) - 1 for ids in tokens]
        yield from zip((ids[1:] for ids in tokens), probabilities.split(lengths), strict=True)


def _align(tokenizer: Tokenizer, caption: str, paraphrase: list[int], probabilities: torch.Tensor) -> ExpectedWords:
    """Return the probabilities [K, V] of a paraphrase's tokens, at the places where the caption has the same tokens."""
    tokens = caption_tokens(tokenizer, caption)[1:]
    blocks = SequenceMatcher(None, paraphrase, tokens, autojunk=False).get_matching_blocks()
    sources = [block.a + step for block in blocks for step in range(block.size)]
    places = [block.b + step for block in blocks for step in range(block.size)]
    return ExpectedWords(places=torch.tensor(places), probabilities=probabilities[sources])
