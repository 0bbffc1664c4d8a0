"""Self-critical training: captions are sampled, and those that people would rather have written become likelier.

The reward is CIDEr-D (Rennie et al. 2017, https://arxiv.org/abs/1612.00563); what counts is how far a sample is above
the mean of the image's other samples (Luo 2020, https://arxiv.org/abs/2003.09971).

Shapes:  B images   K samples of each   T tokens   M tokens of all samples   P regions   D feature size   V vocabulary
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.cider import CiderD
from model.course import Course, Plan, Step
from model.decoder import CaptionDecoder, predicted
from model.decoding import log_probabilities, sample_captions
from model.descent import reduced_precision
from model.errors import TrainingError
from model.metric_words import metric_words
from model.processes import ALONE, Processes
from model.tokenizer import PAD, Tokenizer
from model.training import CaptionedFeatures, HeldOut, together
from model.training_record import TrainingProgress, TrainingRecord


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
    *,
    held_out: Sequence[CaptionedFeatures] = (),
    course: Course | None = None,
) -> TrainingRecord:
    """Train a decoder that captions already, in place, on its device.

    Args:
        decoder: leaves as the average of its steps.
        tokenizer: reads the samples.
        train: captions of images; those of one image share its features.
        options: how long and how fast.
        on_progress: told after each step; its loss is the mean reward of the samples, negative.
        held_out: captions to measure on after each epoch; may be empty.
        course: the training that this is a phase of; None for one that nothing else belongs to.
    """
    if not options.epochs:
        return TrainingRecord()
    course = course or Course()
    plan = Plan(
        phase="rewards",
        epochs=options.epochs,
        warmup_steps=options.warmup_steps,
        averaging=options.averaging,
        clip_norm=options.clip_norm,
        seed=options.seed,
    )
    optimizer = torch.optim.Adam(decoder.parameters(), options.learning_rate)
    lessons = Rewards(decoder, tokenizer, train, options, course.processes)
    measure = HeldOut(tokenizer, held_out).measure if held_out else None
    return course.learn(plan, decoder, optimizer, lessons, measure, on_progress)


class Rewards:
    """Steps that sample captions of some images and make the good ones likelier."""

    def __init__(
        self,
        decoder: CaptionDecoder,
        tokenizer: Tokenizer,
        train: Sequence[CaptionedFeatures],
        options: SelfCriticalOptions,
        processes: Processes = ALONE,
    ) -> None:
        self.order = torch.Generator().manual_seed(options.seed)
        images = [[train[number] for number in group] for group in together(train)]
        people = [[metric_words(example.caption) for example in several] for several in images]
        self._features = [several[0].features for several in images]
        self._critic = Critic(CiderD(people), tokenizer, options)
        self._decoder, self._size, self._processes = decoder, options.images_per_step, processes

    def __len__(self) -> int:
        return math.ceil(len(self._features) / self._size)

    def __iter__(self) -> Iterator[Step]:
        self._decoder.eval()  # samples and their gradients are those of the decoder as it will write, without dropout
        shuffled = torch.randperm(len(self._features), generator=self.order).tolist()
        for start in range(0, len(shuffled), self._size):
            batch = shuffled[start : start + self._size]
            own = self._processes.share(batch)
            chosen = own or batch[:1]  # too few images for all processes: this one's counts nothing
            features = torch.stack([self._features[image] for image in chosen]).to(self._decoder.device).float()
            loss, reward, tokens = self._critic.judge(self._decoder, features, chosen)
            yield Step(loss=loss, weight=float(tokens if own else 0), reward=reward, images=len(own))


class Critic:
    """Rewards samples by CIDEr-D."""

    def __init__(self, cider: CiderD, tokenizer: Tokenizer, options: SelfCriticalOptions) -> None:
        self._cider, self._tokenizer, self._options = cider, tokenizer, options

    def judge(self, decoder: CaptionDecoder, features: Tensor, images: Sequence[int]) -> tuple[Tensor, float, int]:
        """Return the loss whose gradient makes good samples likelier, the mean reward, and how many tokens there are.

        Args:
            decoder: writes the samples.
            features: of the images, [B, P, D].
            images: whose references count, by their place in the critic's CIDEr-D, [B].
        """
        samples, faster = self._options.samples, self._options.reduced_precision
        described = torch.arange(len(images), device=features.device).repeat_interleave(samples)
        with reduced_precision(faster, features.device):
            tokens = sample_captions(decoder, features, samples, self._options.max_tokens)  # [B * K, T]
        with reduced_precision(
            faster, features.device
        ):  # a context of its own: the one above remembers weights without gradients
            logits = decoder(features, tokens, described)  # [M, V]
        rewards = torch.tensor(
            [
                self._cider.score(images[image], metric_words(self._tokenizer.decode(row)))
                for image, row in zip(described.tolist(), tokens.tolist(), strict=True)
            ],
            device=features.device,
        ).view(-1, samples)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
        advantage = (rewards - others).flatten().repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))  # [M]
        chosen = log_probabilities(logits.float()).gather(1, predicted(tokens).unsqueeze(1)).squeeze(1)
        return -(advantage * chosen).mean(), float(rewards.mean()), len(chosen)
