"""Self-critical training: it samples captions and raises the probability of those that are most like people's.

The reward is CIDEr-D (Rennie et al. 2017, https://arxiv.org/abs/1612.00563) plus a share of BLEU-4. The advantage of a
sample is its reward minus the mean reward of the image's other samples (Luo 2020, https://arxiv.org/abs/2003.09971).

Shapes:  B images   K samples of each   T tokens   M tokens of all samples   P regions   D feature size   V vocabulary
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder, log_probabilities, predicted, sample_captions
from model.errors import TrainingError
from model.metrics.cider import CiderD
from model.metrics.faults import Usage, caption_faults, caption_words
from model.metrics.scores import SmoothedBleu
from model.metrics.words import metric_words
from model.tokenizer import PAD, Tokenizer
from model.training.batches import draw_view, group_by_image
from model.training.held_out import HeldOut
from model.training.optimization import reduced_precision
from model.training.phase import PhaseOptions, Step
from model.training.processes import ALONE, Processes, moved
from model.training.teacher_forcing import own_and_encoder
from model.training.trainer import OnStep, Trainer
from model.training.training_record import TrainingRecord


@dataclass(frozen=True, kw_only=True)
class SelfCriticalOptions:
    """Options of self-critical training."""

    epochs: int = 6
    """Passes over all images; 0 skips this training."""
    images_per_step: int = 32
    samples: int = 5
    """Captions that are sampled for each image of a step."""
    max_tokens: int = 20
    bleu_weight: float = 0.5
    """Weight of smoothed BLEU-4 beside CIDEr-D. With CIDEr-D alone captions become short and repeat rare words."""
    fault_penalty: float = 0.0
    """Reward that a caption loses by a fault, such as a broken end or "a man and a man" (`metrics/faults.py`)."""
    learning_rate: float = 2e-4
    encoder_learning_rate: float = 5e-5
    """As in TrainingOptions."""
    start_share: float = 0.3
    """Share of the weights before this training in the final weights. Weights before it write longer captions, weights
    after it more probable captions."""
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
        if min(self.bleu_weight, self.fault_penalty) < 0 or not 0 <= self.start_share < 1:
            raise TrainingError(
                "self-critical bleu_weight and fault_penalty must be 0 or more and start_share at least 0 and below 1, "
                f"got {self.bleu_weight}, {self.fault_penalty} and {self.start_share}"
            )


def reward_captions(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    options: SelfCriticalOptions,
    on_progress: OnStep | None = None,
    *,
    held_out: Sequence[CaptionedFeatures] = (),
    trainer: Trainer | None = None,
) -> TrainingRecord:
    """Train a decoder that writes captions already, in place, on its device.

    Args:
        decoder: ends with the running average of its weights, mixed with the weights it started with.
        train: captions of images; those of one image share its features.
        on_progress: called after each step; the loss it gets is minus the mean reward.
        held_out: captions to measure on after each epoch; may be empty.
        trainer: of the training that this is a phase of; None makes one for this phase alone.
    """
    if not options.epochs:
        return TrainingRecord()
    trainer = trainer or Trainer()
    phase = PhaseOptions.of(options, phase="rewards")
    own, encoder = own_and_encoder(decoder)
    groups: list[dict[str, Any]] = [{"params": [value for _, value in own]}]
    groups += [{"params": encoder, "lr": options.encoder_learning_rate}] if encoder else []
    optimizer = torch.optim.Adam(groups, options.learning_rate)
    batches = SampledCaptions(decoder, tokenizer, train, options, trainer.processes)
    measure = HeldOut(tokenizer, held_out).measure if held_out else None
    return trainer.run_phase(phase, decoder, optimizer, batches, measure, on_progress)


class SampledCaptions:
    """Steps that sample captions of some images and raise the probability of the good ones."""

    def __init__(
        self,
        decoder: CaptionDecoder,
        tokenizer: Tokenizer,
        train: Sequence[CaptionedFeatures],
        options: SelfCriticalOptions,
        processes: Processes = ALONE,
    ) -> None:
        self.order = torch.Generator().manual_seed(options.seed)
        self._images = [[train[number] for number in group] for group in group_by_image(train)]
        references = [[example.caption for example in captions] for captions in self._images]
        self._critic = Critic(references, tokenizer, options)
        self._decoder, self._size, self._processes = decoder, options.images_per_step, processes

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._size)

    def __iter__(self) -> Iterator[Step]:
        self._decoder.eval()  # Without dropout, as the decoder writes when it serves.
        shuffled = torch.randperm(len(self._images), generator=self.order).tolist()
        for start in range(0, len(shuffled), self._size):
            batch = shuffled[start : start + self._size]
            # Views are drawn for the images of all processes, so that the generators stay in the same state.
            views = {image: draw_view(self._images[image], self.order) for image in batch}
            own = self._processes.share(batch)
            chosen = own or batch[:1]  # With too few images for all processes this one repeats an image with weight 0.
            (features,) = moved([torch.stack([views[image] for image in chosen])], self._decoder.device)
            loss, reward, tokens = self._critic.judge(self._decoder, features.float(), chosen)
            yield Step(loss=loss, weight=float(tokens if own else 0), reward=reward, images=len(own))


class Critic:
    """Rewards samples by CIDEr-D and BLEU-4, and punishes faults."""

    def __init__(self, references: Sequence[Sequence[str]], tokenizer: Tokenizer, options: SelfCriticalOptions) -> None:
        words = [[metric_words(caption) for caption in captions] for captions in references]
        self._cider, self._bleu = CiderD(words), SmoothedBleu(words)
        people = (caption_words(caption) for captions in references for caption in captions)
        self._usage = Usage.of(people) if options.fault_penalty else Usage()
        self._tokenizer, self._options = tokenizer, options

    def reward(self, image: int, caption: str) -> float:
        """Return the reward of a caption; `image` is the row of its references."""
        words = metric_words(caption)
        reward = self._cider.score(image, words) + self._options.bleu_weight * self._bleu.score(image, words)
        if self._options.fault_penalty and caption_faults(caption_words(caption), self._usage):
            reward -= self._options.fault_penalty
        return reward

    def judge(self, decoder: CaptionDecoder, features: Tensor, images: Sequence[int]) -> tuple[Tensor, float, int]:
        """Return the loss whose gradient raises the probability of good samples, the mean reward, and the token count.

        Args:
            features: of the images, [B, P, D].
            images: rows of their references, [B].
        """
        samples, faster = self._options.samples, self._options.reduced_precision
        described = torch.arange(len(images), device=features.device).repeat_interleave(samples)
        with reduced_precision(faster, features.device):
            tokens = sample_captions(decoder, features, samples, self._options.max_tokens)  # [B * K, T]
        # A second context: the first one caches weights that were cast without gradients.
        with reduced_precision(faster, features.device):
            logits = decoder(features, tokens, described)  # [M, V]
        rewards = torch.tensor(
            [
                self.reward(images[image], self._tokenizer.decode(row))
                for image, row in zip(described.tolist(), tokens.tolist(), strict=True)
            ],
            device=features.device,
        ).view(-1, samples)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
        advantage = (rewards - others).flatten().repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))  # [M]
        chosen = log_probabilities(logits.float()).gather(1, predicted(tokens).unsqueeze(1)).squeeze(1)
        return -(advantage * chosen).mean(), float(rewards.mean()), len(chosen)
