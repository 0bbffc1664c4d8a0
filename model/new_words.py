"""How words that the decoder has never seen enter its vocabulary.

Training alone would take hundreds of steps to lift a new word from nothing to where it is ever chosen. So a new word
starts as what the decoder would have said in its place: the mean of the old words' embeddings, weighted by how
probable each of them is where the captions say the new one (a kind of weight imprinting, Qi et al. 2018,
https://arxiv.org/abs/1712.07136). Where annotators write "crimson" for our "red", it starts as a second "red".

Shapes:  M predicted tokens   V old vocabulary   N new words
"""

from collections.abc import Sequence

import torch

from model.decoders.base import CaptionDecoder, predicted
from model.tokenizer import Tokenizer
from model.training.teacher_forcing import CaptionedFeatures, caption_tokens, padded

BATCH = 64


@torch.no_grad()
def with_new_words(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]
) -> CaptionDecoder:
    """Return a copy of the decoder with a row for each new word of the tokenizer; old logits stay as they are.

    Args:
        decoder: knows the first words of the tokenizer.
        tokenizer: of the copy.
        examples: captions in which the new words stand.
    """
    old = decoder.sizes.vocabulary
    wide = decoder.widened(tokenizer.size).eval()
    substitutes = torch.zeros(tokenizer.size - old, old)  # [N, V]
    for start in range(0, len(examples), BATCH):
        chosen = examples[start : start + BATCH]
        tokens = padded([caption_tokens(tokenizer, example.caption) for example in chosen])
        targets = predicted(tokens)  # [M]
        is_new = targets >= old
        if not is_new.any():
            continue
        logits = wide(torch.stack([example.features for example in chosen]).float(), tokens)  # [M, V]
        expected = logits[is_new, :old].softmax(dim=-1)
        substitutes.index_add_(0, targets[is_new] - old, expected)
    seen = substitutes.sum(dim=1) > 0
    weights = substitutes[seen] / substitutes[seen].sum(dim=1, keepdim=True)
    wide.embedding.weight[old:][seen] = weights @ decoder.embedding.weight
    wide.bias[old:][seen] = weights @ decoder.bias
    return wide.train(decoder.training)
