"""Methods of learning from corrections: ours, and those that it is compared with.

All start from the same captioner, learn at the same rates, and see each correction equally often. References:
EWC, Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796; LwF, Li and Hoiem 2016, https://arxiv.org/abs/1606.09282.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder, predicted
from model.new_words import with_new_words
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.training.batches import Batches
from model.training.losses import caption_loss
from model.training.phase import PhaseOptions, Step
from model.training.teacher_forcing import OPTIMIZERS, TeacherForcing, TrainingOptions, parameter_groups
from model.training.trainer import Trainer
from model.vision.features import FeatureStore
from tests.benchmarks.learning.worlds import Picture, World, examples_of, write_captions_of
from tests.factories import make_correction
from worker.feedback.record import Correction
from worker.learning.candidate import train_candidate
from worker.learning.dataset import build_dataset
from worker.learning.fine_tuning import INNER_RATE, RATE, STEPS
from worker.learning.holdout import Holdout
from worker.queue.job_progress import Progress
from worker.settings import Settings

Corrections = Sequence[tuple[Picture, str]]
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
EWC_STRENGTH = 100.0
LWF_STRENGTH = 1.0
MEMORY = 256
"""Old captions that replay draws for one step, as many as our method draws."""


class Learner(Protocol):
    """Learns step by step."""

    captioner: TorchCaptioner
    """The captioner in its current state."""

    def learn(self, corrections: Corrections) -> str:
        """Learn from one step's corrections; return a remark."""


class Unchanged:
    """Learns nothing."""

    def __init__(self, world: World) -> None:
        self.captioner = world.base

    def learn(self, corrections: Corrections) -> str:
        return ""


class FineTuning:
    """Learns the newest corrections and nothing else."""

    def __init__(self, world: World) -> None:
        self.captioner, self.world = world.base, world
        self.seen: list[CaptionedFeatures] = []

    def learn(self, corrections: Corrections) -> str:
        new = [CaptionedFeatures(features=picture.features, caption=caption) for picture, caption in corrections]
        examples = self.examples(new)
        tokenizer = self.captioner.tokenizer.extended((example.caption for example in new), 1)
        before = with_new_words(self.captioner.decoder, tokenizer, new).eval()
        decoder = copy.deepcopy(before)
        batches = Batches(examples, tokenizer, _options().batch_size)
        epochs = max(1, math.ceil(self.steps() / len(batches)))
        phase = PhaseOptions(phase="captions", epochs=epochs, warmup_steps=20, averaging=0.0, clip_norm=5.0, seed=0)
        decoder.dropout.p = decoder.feature_dropout.p = 0.0
        optimizer = OPTIMIZERS["adamw"](parameter_groups(decoder, _options()), weight_decay=1e-4)
        Trainer().run_phase(phase, decoder, optimizer, self.batches(decoder, batches, before))
        self.seen += new
        self.captioner = TorchCaptioner(self.captioner.encoder, decoder, tokenizer, "learned")
        self.remember(examples)
        return ""

    def examples(self, new: list[CaptionedFeatures]) -> list[CaptionedFeatures]:
        return new

    def steps(self) -> int:
        return STEPS

    def batches(self, decoder: CaptionDecoder, batches: Batches, before: CaptionDecoder) -> "Penalised":
        return Penalised(decoder, batches, lambda *_: torch.zeros(()))

    def remember(self, examples: Sequence[CaptionedFeatures]) -> None:
        """Prepare for the next step; called after each step."""


class Replay(FineTuning):
    """Mixes the corrections with random captions that were learned before."""

    def examples(self, new: list[CaptionedFeatures]) -> list[CaptionedFeatures]:
        old = [*self.world.replay, *self.seen]
        drawn = random.Random(len(self.seen)).sample(old, min(MEMORY, len(old)))
        return [*new * max(1, len(drawn) // len(new)), *drawn]


class Everything(FineTuning):
    """Starts from the base and learns all corrections again: the upper bound, whatever it costs."""

    def examples(self, new: list[CaptionedFeatures]) -> list[CaptionedFeatures]:
        self.captioner = self.world.base
        corrected = [*self.seen, *new]
        old = examples_of(self.world.old.train)
        return [*corrected * max(1, len(old) // (2 * len(corrected))), *old]

    def steps(self) -> int:
        return 0


class ElasticWeights(FineTuning):
    """EWC: weights that were important for earlier captions are held near their values."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._importance: dict[str, Tensor] = {}
        self.remember(world.replay)

    def batches(self, decoder: CaptionDecoder, batches: Batches, before: CaptionDecoder) -> "Penalised":
        anchors = dict(before.named_parameters())

        def penalty(*_: Tensor) -> Tensor:
            total = torch.zeros(())
            for name, value in decoder.named_parameters():
                important = self._importance[name]
                moved = (value - anchors[name].detach())[tuple(slice(0, size) for size in important.shape)]
                total = total + EWC_STRENGTH / 2 * (important * moved.square()).sum()
            return total

        return Penalised(decoder, batches, penalty)

    def remember(self, examples: Sequence[CaptionedFeatures]) -> None:
        """Add the squared gradients of these captions, the diagonal of the Fisher information."""
        decoder, tokenizer = self.captioner.decoder, self.captioner.tokenizer
        chosen = list(examples)[:: max(1, len(examples) // 100)]
        importance = {name: torch.zeros(value.shape) for name, value in decoder.named_parameters()}
        for features, images, tokens, weights, _ in Batches(chosen, tokenizer, 1):
            decoder.zero_grad(set_to_none=True)
            caption_loss(decoder(features.float(), tokens, images), tokens, weights).backward()  # type: ignore[no-untyped-call]
            for name, value in decoder.named_parameters():
                if value.grad is not None:
                    importance[name] += value.grad.square()
        decoder.zero_grad(set_to_none=True)
        for name, before in self._importance.items():
            importance[name][tuple(slice(0, size) for size in before.shape)] += before
        self._importance = importance


class WithoutForgetting(FineTuning):
    """LwF: on the new pictures, also keep the predictions of the earlier decoder."""

    def batches(self, decoder: CaptionDecoder, batches: Batches, before: CaptionDecoder) -> "Penalised":
        def penalty(features: Tensor, images: Tensor, tokens: Tensor, logits: Tensor) -> Tensor:
            with torch.no_grad():
                expected = before(features, tokens, images).softmax(dim=-1)
            loss: Tensor = -(expected * logits.log_softmax(dim=-1)).sum(dim=-1)
            return LWF_STRENGTH * loss.mean()

        return Penalised(decoder, batches, penalty)


class Ours:
    """The retraining job's own way, with its gate."""

    def __init__(self, world: World, folder: Path) -> None:
        self.captioner = world.base
        self._world, self._settings = world, Settings()
        self._store = Store(folder)
        encoder = world.base.encoder.fingerprint
        self._features, self._holdout = FeatureStore(self._store, encoder), Holdout(self._store, 1, encoder)
        self._corrections: list[Correction] = []
        self._known_states: list[str] = []

    def learn(self, corrections: Corrections) -> str:
        proposed = write_captions_of(self.captioner, [picture for picture, _ in corrections])
        first = len(self._corrections) + 1
        for number, ((picture, caption), ours) in enumerate(zip(corrections, proposed, strict=True), start=first):
            self._features.put(picture.key, picture.features)
            moment = (BEGIN + timedelta(minutes=number)).isoformat()
            self._corrections.append(
                make_correction(
                    annotation_id=number, image_key=picture.key, proposed=ours, caption=caption, updated_at=moment
                )
            )
        dataset = build_dataset(
            self._corrections, self._features, self._world.replay, self._holdout, self._known_states
        )
        seed, progress = len(self._corrections), Progress(None, "redis://127.0.0.1:1/0")
        candidate = train_candidate(self.captioner, self._world.base, dataset, self._settings, seed, progress)
        if candidate.decision.publish:
            self.captioner, self._known_states = candidate.captioner, dataset.known_states
        return "" if candidate.decision.publish else candidate.decision.reason


class Penalised(TeacherForcing):
    """Teacher forcing with something added to the loss."""

    def __init__(self, decoder: CaptionDecoder, batches: Batches, penalty: Callable[..., Tensor]) -> None:
        super().__init__(decoder, batches, _options())
        self._penalty = penalty

    def __iter__(self) -> Iterator[Step]:
        self._decoder.train()
        for features, images, tokens, weights, _ in self._batches:
            logits = self._decoder(features.float(), tokens, images)
            loss = caption_loss(logits, tokens, weights) + self._penalty(features.float(), images, tokens, logits)
            yield Step(loss=loss, weight=float(len(predicted(tokens))))


def _options() -> TrainingOptions:
    return TrainingOptions(
        batch_size=64, learning_rate=RATE, inner_learning_rate=INNER_RATE, label_smoothing=0.0, dropout=0.0
    )


LEARNERS: dict[str, Callable[[World, Path], Learner]] = {
    "no learning": lambda world, _: Unchanged(world),
    "fine-tuning": lambda world, _: FineTuning(world),
    "EWC": lambda world, _: ElasticWeights(world),
    "LwF": lambda world, _: WithoutForgetting(world),
    "replay": lambda world, _: Replay(world),
    "ours": Ours,
    "everything anew": lambda world, _: Everything(world),
}
