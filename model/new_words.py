"""Adds new words to a decoder's vocabulary.

Training alone would need hundreds of steps until a decoder writes a new word. Therefore a new word starts as a weighted
mean of the old words' embeddings. The weight of an old word is its probability at the places of the new word (similar
to weight imprinting, Qi et al. 2018, https://arxiv.org/abs/1712.07136). If annotators write "crimson" for the decoder's
"red", "crimson" starts as a second "red".

Shapes:  M predicted tokens   V old vocabulary   N new words
"""

from collections.abc import Sequence

import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder, predicted
from model.tokenizer import Tokenizer, caption_tokens
from model.training.batches import padded

BATCH = 64


@torch.no_grad()
def with_new_words(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]
) -> CaptionDecoder:
    """Return a copy of the decoder with a row for each new word of the tokenizer. The old words' logits do not change.

    Args:
        decoder: its vocabulary is the first part of the tokenizer's.
        tokenizer: of the copy.
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
    used = substitutes.sum(dim=1) > 0
    weights = substitutes[used] / substitutes[used].sum(dim=1, keepdim=True)
    wide.embedding.weight[old:][used] = weights @ decoder.embedding.weight
    wide.bias[old:][used] = weights @ decoder.bias
    return wide.train(decoder.training)
