"""Measures a decoder on captions that it does not learn from, while it learns."""

import math
from collections.abc import Sequence

import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.decoders.search import DecodingOptions, beam_search
from model.metrics.cider import CiderD
from model.metrics.scores import bleu
from model.metrics.words import Words, metric_words
from model.tokenizer import Tokenizer
from model.training.batches import group_by_image
from model.training.losses import BATCH, token_loss
from model.training.training_record import HeldOutMetrics

MOST_PROBABLE = DecodingOptions(beam_size=1)


class HeldOut:
    """Captions that are not learned from. One measurement takes a few seconds."""

    def __init__(self, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], images: int = 200) -> None:
        """Choose the images to caption.

        Args:
            examples: captions; captions of one image share its features. All captions count in the loss.
            images: the decoder captions at most this many images, the same ones each time.
        """
        self._tokenizer, self._examples = tokenizer, examples
        groups = group_by_image(examples)
        captioned = groups[:: math.ceil(len(groups) / images)]
        self._features = [examples[group[0]].features for group in captioned]
        self._references = [[metric_words(examples[number].caption) for number in group] for group in captioned]
        self._cider = CiderD(self._references)

    def measure(self, decoder: CaptionDecoder) -> HeldOutMetrics:
        """Return loss, CIDEr-D and BLEU-4; leave the decoder in evaluation mode."""
        loss = token_loss(decoder, self._tokenizer, self._examples)
        captions = self._write_captions(decoder)
        scores = [self._cider.score(image, caption) for image, caption in enumerate(captions)]
        return HeldOutMetrics(loss, sum(scores) / len(scores), bleu(captions, self._references)[-1])

    def _write_captions(self, decoder: CaptionDecoder) -> list[Words]:
        captions = []
        for start in range(0, len(self._features), BATCH):
            features = torch.stack(self._features[start : start + BATCH])
            for best, *_ in beam_search(decoder, features, MOST_PROBABLE):
                captions.append(metric_words(self._tokenizer.decode(best.token_ids)))
        return captions
