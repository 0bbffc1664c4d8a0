"""What a decoder expects along captions, kept while it learns others: distillation from itself as it was before.

A caption to learn often says the same as one that the decoder knows, in other words: "a picture of two dogs" for "two
dogs". Where both say the same, the course keeps what the decoder expects there, every word's probability and not only
the one that was chosen (Hinton et al. 2015, https://arxiv.org/abs/1503.02531); only the rest is to be learned.

Shapes:  M predicted tokens   K of them that are known   V vocabulary
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import torch

from model.captioner import Captioner
from model.tokenizer import Tokenizer
from model.training.teacher_forcing import CaptionedFeatures, ExpectedWords, caption_tokens, padded, word_losses

BATCH = 64


def expected_words(
    captioner: Captioner, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]
) -> list[ExpectedWords | None]:
    """Return what the captioner expects along each caption, by the wording that it finds least odd; None without any.

    Args:
        captioner: what it knows is to be kept.
        tokenizer: of the decoder that is to learn the captions; it begins with the captioner's words.
        examples: captions to learn.
    """
    worded = {_name(example): example for example in examples if example.paraphrases}
    tried = [replace(example, caption=wording) for example in worded.values() for wording in example.paraphrases]
    losses = iter(word_losses(captioner, tried))
    least_odd = [min(example.paraphrases, key=lambda _: next(losses)) for example in worded.values()]
    known = [replace(example, caption=caption) for example, caption in zip(worded.values(), least_odd, strict=True)]
    found = {
        name: _along(tokenizer, example.caption, *expected)
        for (name, example), expected in zip(worded.items(), _probabilities(captioner, known), strict=True)
    }
    return [found.get(_name(example)) for example in examples]


def _name(example: CaptionedFeatures) -> tuple[int, str, tuple[str, ...]]:
    """Return what is the same for a caption that is repeated."""
    return id(example.features), example.caption, example.paraphrases


@torch.inference_mode()
def _probabilities(
    captioner: Captioner, examples: Sequence[CaptionedFeatures]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the predicted tokens of each caption, and how probable each word is in the place of each, [M, V]."""
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        tokens = [caption_tokens(captioner.tokenizer, example.caption) for example in batch]
        features = torch.stack([example.features for example in batch]).float()
        said = captioner.decoder(features, padded(tokens)).softmax(dim=1).half()
        for (_, *predicted), probabilities in zip(tokens, said.split([len(one) - 1 for one in tokens]), strict=True):
            yield predicted, probabilities


def _along(tokenizer: Tokenizer, caption: str, known: list[int], probabilities: torch.Tensor) -> ExpectedWords:
    """Return the expectations in the places where a caption says what the known wording says."""
    wanted = caption_tokens(tokenizer, caption)[1:]
    blocks = SequenceMatcher(None, known, wanted, autojunk=False).get_matching_blocks()
    sources = [block.a + step for block in blocks for step in range(block.size)]
    places = [block.b + step for block in blocks for step in range(block.size)]
    return ExpectedWords(places=torch.tensor(places), probabilities=probabilities[sources])
