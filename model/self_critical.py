"""Self-critical training: captions are sampled, and those that people would rather have written become likelier.

The reward is CIDEr-D (Rennie et al. 2017, https://arxiv.org/abs/1612.00563); what counts is how far a sample is above
the mean of the image's other samples (Luo 2020, https://arxiv.org/abs/2003.09971).

Shapes:  B images   K samples of each   T tokens   M tokens of all samples   P regions   D feature size   V vocabulary
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.cider import CiderD
from model.decoder import CaptionDecoder, predicted
from model.decoding import log_probabilities, sample_captions
from model.errors import TrainingError
from model.metric_words import metric_words
from model.tokenizer import PAD, Tokenizer
from model.training import (
    CaptionedFeatures,
    RunningAverage,
    TrainingProgress,
    reduced_precision,
    together,
    update,
    warmup_then_cosine,
)


@dataclass(frozen=True, kw_only=True)
class SelfCriticalOptions:
    """How captions are rewarded."""

    epochs: int = 6
    """Times each image is seen; 0 leaves this training out."""
    images_per_step: int = 32
    samples: int = 5
    """Captions that are tried for each image in one step."""
    max_tokens: int = 20
    learning_rate: float = 2e-4
    clip_norm: float = 1.0
    averaging: float = 0.998
    """As in TrainingOptions."""
    reduced_precision: bool = True
    warmup_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("images_per_step", 1), ("samples", 2), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise TrainingError(f"self-critical {name} must be {least} or more, got {getattr(self, name)}")


def reward_captions(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    options: SelfCriticalOptions,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> list[float]:
    """Train a decoder that captions already, in place; return the mean reward of each epoch.

    Args:
        decoder: leaves as the average of its steps.
        tokenizer: reads the samples.
        train: captions of images; those of one image share its features.
        options: how long and how fast.
        on_progress: told after each step; its loss is the mean reward of the samples, negative.
    """
    started = time.monotonic()
    images = [[train[number] for number in group] for group in together(train)]
    people = [[metric_words(example.caption) for example in several] for several in images]
    critic = Critic(CiderD(people), tokenizer, options)
    steps_per_epoch = math.ceil(len(images) / options.images_per_step)
    steps = options.epochs * steps_per_epoch
    optimizer = torch.optim.Adam(decoder.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_then_cosine(options.warmup_steps, steps))
    average = RunningAverage(decoder, options.averaging)
    order = torch.Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)
    decoder.eval()  # samples and their gradients are those of the decoder as it will write, without dropout
    rewards = []
    for epoch in range(1, options.epochs + 1):
        earned = []
        shuffled = torch.randperm(len(images), generator=order).tolist()
        for start in range(0, len(images), options.images_per_step):
            chosen = shuffled[start : start + options.images_per_step]
            features = torch.stack([images[image][0].features for image in chosen]).float()
            loss, reward = critic.judge(decoder, features, chosen)
            update(decoder, optimizer, loss, options.clip_norm)
            schedule.step()
            average.follow()
            earned.append(reward)
            if on_progress:
                done = (epoch - 1) * steps_per_epoch + len(earned)
                eta_s = (time.monotonic() - started) / done * (steps - done)
                on_progress(
                    TrainingProgress(
                        epoch=epoch, epochs=options.epochs, step=done, steps=steps, loss=-reward, eta_s=eta_s
                    )
                )
        rewards.append(sum(earned) / len(earned))
    decoder.load_state_dict(average.decoder.state_dict())
    decoder.eval()
    return rewards


class Critic:
    """Rewards samples by CIDEr-D."""

    def __init__(self, cider: CiderD, tokenizer: Tokenizer, options: SelfCriticalOptions) -> None:
        self._cider, self._tokenizer, self._options = cider, tokenizer, options

    def judge(self, decoder: CaptionDecoder, features: Tensor, images: Sequence[int]) -> tuple[Tensor, float]:
        """Return the loss whose gradient makes good samples likelier, and the mean reward.

        Args:
            decoder: writes the samples.
            features: of the images, [B, P, D].
            images: whose references count, by their place in the critic's CIDEr-D, [B].
        """
        samples, faster = self._options.samples, self._options.reduced_precision
        described = torch.arange(len(images)).repeat_interleave(samples)
        with reduced_precision(faster):
            tokens = sample_captions(decoder, features, samples, self._options.max_tokens)  # [B * K, T]
        with reduced_precision(faster):  # a context of its own: the one above remembers weights without gradients
            logits = decoder(features, tokens, described)  # [M, V]
        rewards = torch.tensor(
            [
                self._cider.score(images[image], metric_words(self._tokenizer.decode(row)))
                for image, row in zip(described.tolist(), tokens.tolist(), strict=True)
            ]
        ).view(-1, samples)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
        advantage = (rewards - others).flatten().repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))  # [M]
        chosen = log_probabilities(logits.float()).gather(1, predicted(tokens).unsqueeze(1)).squeeze(1)
        return -(advantage * chosen).mean(), float(rewards.mean())
