"""Teacher-forced training of the decoder on stored features.

Shapes:  B batch   T tokens   P regions   D feature size   V vocabulary
"""

import copy
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.decoder import CaptionDecoder, predicted
from model.errors import TrainingError
from model.tokenizer import END, FIRST_BYTE, FIRST_WORD, PAD, START, Tokenizer

logger = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
"""All take the weight decay as L2 in the loss, but AdamW, which takes it from the weights."""

NEXT_TO_WORDS = ("embedding", "bias", "readout")
"""Parameters of the decoder that turn its state into words."""


@dataclass(frozen=True, kw_only=True)
class CaptionedFeatures:
    """One caption beside the features of its image."""

    features: Tensor
    """Encoder output, [P, D], usually half precision."""
    caption: str
    weight: float = 1.0
    """How much this caption counts in the loss, relative to the others."""
    mirrored: Tensor | None = None
    """Features of the image turned left to right, [P, D], where the caption is as true of it."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the decoder is trained."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    inner_learning_rate: float | None = None
    """Of attention and LSTM, where it shall differ: how words are chosen can then be taught without unteaching
    where to look. None means the same for all."""
    label_smoothing: float = 0.1
    dropout: float = 0.3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    """One of OPTIMIZERS."""
    clip_norm: float = 5.0
    averaging: float = 0.0
    """The decoder that is judged and kept is an average of the weights over the steps, in which the past keeps this
    share at each step (Polyak and Juditsky 1992); 0 keeps the last weights."""
    reduced_precision: bool = False
    """Products in bfloat16, where the processor has it: about twice as fast."""
    warmup_steps: int = 100
    patience: int = 3
    """Epochs without a better held-out loss before training stops."""
    seed: int = 0
    budget_s: float = math.inf
    """Training ends when this many seconds have passed, in the middle of an epoch if need be."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        for name in ("dropout", "label_smoothing", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Where a training stands after a step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    """Training loss of the last batch, nats per token."""
    eta_s: float


@dataclass(kw_only=True)
class TrainingRecord:
    """What a training did."""

    train_losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch, nats per token."""
    held_out_losses: list[float] = field(default_factory=list)
    """Held-out loss after each epoch; empty when nothing is held out."""
    best_epoch: int = 0
    """1-based; the decoder is left as it was after this epoch."""
    steps: int = 0
    seconds: float = 0.0


def fit_decoder(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    held_out: Sequence[CaptionedFeatures],
    options: TrainingOptions,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingRecord:
    """Train the decoder in place and leave it at its best epoch by held-out loss.

    Without held-out captions that is the last epoch.

    Raises:
        TrainingError: there is nothing to train on, or the loss stopped being a number.
    """
    if not train:
        raise TrainingError("there is no caption to train on")
    started = time.monotonic()
    record, average = TrainingRecord(), RunningAverage(decoder, options.averaging)
    best = Best(average.decoder)
    batches = Batches(train, tokenizer, options)
    steps = options.epochs * len(batches)
    optimizer = OPTIMIZERS[options.optimizer](parameter_groups(decoder, options), weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_then_cosine(options.warmup_steps, steps))
    decoder.dropout.p = options.dropout
    torch.manual_seed(options.seed)

    for epoch in range(1, options.epochs + 1):
        losses = []
        decoder.train()
        for features, images, tokens, weights in batches:
            with reduced_precision(options.reduced_precision):
                logits = decoder(features, tokens, images)
            loss = caption_loss(logits.float(), tokens, weights, options.label_smoothing)
            update(decoder, optimizer, loss, options.clip_norm)
            schedule.step()
            average.follow()
            losses.append(loss.item())
            record.steps += 1
            elapsed = time.monotonic() - started
            if on_progress:
                eta_s = min(elapsed / record.steps * (steps - record.steps), options.budget_s - elapsed)
                on_progress(
                    TrainingProgress(
                        epoch=epoch,
                        epochs=options.epochs,
                        step=record.steps,
                        steps=steps,
                        loss=losses[-1],
                        eta_s=max(eta_s, 0.0),
                    )
                )
            if elapsed > options.budget_s:
                break
        record.train_losses.append(sum(losses) / len(losses))
        if held_out:
            record.held_out_losses.append(token_loss(average.decoder, tokenizer, held_out))
        best.consider(epoch, record)
        if epoch - best.epoch >= options.patience or time.monotonic() - started > options.budget_s:
            break

    best.restore(decoder)
    record.best_epoch = best.epoch
    record.seconds = time.monotonic() - started
    return record


def parameter_groups(decoder: CaptionDecoder, options: TrainingOptions) -> list[dict[str, Any]]:
    """Return the decoder's parameters with their learning rates: those next to the words, and the inner ones."""
    inner_rate = options.learning_rate if options.inner_learning_rate is None else options.inner_learning_rate
    named = list(decoder.named_parameters())
    return [
        {"params": [value for name, value in named if name.startswith(NEXT_TO_WORDS)], "lr": options.learning_rate},
        {"params": [value for name, value in named if not name.startswith(NEXT_TO_WORDS)], "lr": inner_rate},
    ]


class Best:
    """Remembers the decoder at its best epoch."""

    def __init__(self, decoder: CaptionDecoder) -> None:
        self.epoch = 0
        self._decoder = decoder
        self._loss = math.inf
        self._weights: dict[str, Tensor] = {}

    def consider(self, epoch: int, record: TrainingRecord) -> None:
        loss = record.held_out_losses[-1] if record.held_out_losses else -float(epoch)
        if loss < self._loss:
            self.epoch, self._loss = epoch, loss
            self._weights = copy.deepcopy(self._decoder.state_dict())

    def restore(self, decoder: CaptionDecoder) -> None:
        decoder.load_state_dict(self._weights)
        decoder.eval()


class RunningAverage:
    """A decoder that follows another one's weights slowly; with a decay of 0 it is that other one."""

    def __init__(self, decoder: CaptionDecoder, decay: float) -> None:
        self.decoder = copy.deepcopy(decoder) if decay else decoder
        self._followed, self._decay, self._steps = decoder, decay, 0

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights of one more step; the first ones count more, as there are few."""
        if self.decoder is self._followed:
            return
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        for slow, fast in zip(self.decoder.parameters(), self._followed.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


class Batches:
    """Shuffled batches of captions, anew in each epoch, the same for a seed; an image's captions stay together.

    Yields features [B, P, D] float32, which of them each caption describes [N], tokens [N, T] from start to end
    padded at the right, and weights [N].
    """

    def __init__(self, examples: Sequence[CaptionedFeatures], tokenizer: Tokenizer, options: TrainingOptions) -> None:
        self._examples = examples
        self._tokens = [caption_tokens(tokenizer, example.caption) for example in examples]
        self._images = together(examples)
        self._size = options.batch_size
        self._random = torch.Generator().manual_seed(options.seed)

    def __len__(self) -> int:
        return math.ceil(len(self._examples) / self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        shuffled = [self._images[image] for image in torch.randperm(len(self._images), generator=self._random).tolist()]
        order = [(image, example) for image, examples in enumerate(shuffled) for example in examples]
        for start in range(0, len(order), self._size):
            described, chosen = zip(*order[start : start + self._size], strict=True)
            yield (
                torch.stack([self._view(shuffled[image]) for image in sorted(set(described))]).float(),
                torch.tensor(described) - described[0],
                padded([self._tokens[example] for example in chosen]),
                torch.tensor([self._examples[example].weight for example in chosen]),
            )

    def _view(self, image: Sequence[int]) -> Tensor:
        """Return the features of an image or, half of the time, of its mirrored picture, [P, D]."""
        mirrored = self._examples[image[0]].mirrored
        allowed = mirrored is not None and all(self._examples[example].mirrored is not None for example in image)
        if mirrored is None or not allowed or torch.rand((), generator=self._random) < 0.5:
            return self._examples[image[0]].features
        return mirrored


def together(examples: Sequence[CaptionedFeatures]) -> list[list[int]]:
    """Group the different captions of each image; a caption that is repeated is one of another group each time."""
    groups: dict[tuple[int, int], list[int]] = {}
    repeats: Counter[tuple[int, str]] = Counter()
    for number, example in enumerate(examples):
        caption = (id(example.features), example.caption)
        groups.setdefault((caption[0], repeats[caption]), []).append(number)
        repeats[caption] += 1
    return list(groups.values())


def caption_tokens(tokenizer: Tokenizer, caption: str, *, spelled: bool = False) -> list[int]:
    """Return the token ids of a caption between start and end.

    Args:
        tokenizer: of the decoder.
        caption: any text.
        spelled: write a word outside of the vocabulary in bytes, which a decoder is never taught; else it is the one
            token `SPELL`, which a decoder may learn to expect, but not to write.
    """
    tokens = tokenizer.encode(caption)
    return [START, *(token for token in tokens if spelled or not FIRST_BYTE <= token < FIRST_WORD), END]


def padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return token ids [B, T], padded at the right."""
    longest = max(map(len, sequences))
    return torch.tensor([[*tokens, *[PAD] * (longest - len(tokens))] for tokens in sequences])


def caption_loss(logits: Tensor, tokens: Tensor, weights: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the weighted mean cross-entropy per token, in nats.

    Args:
        logits: what the decoder said of these captions, [M, V].
        tokens: from start to end, [N, T]; padding does not count.
        weights: of each caption, [N].
    """
    losses = nn.functional.cross_entropy(logits, predicted(tokens), reduction="none", label_smoothing=label_smoothing)
    counts = weights.repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))
    return (losses * counts).sum() / counts.sum()


def update(decoder: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float) -> None:
    """Take one step of gradient descent, with the gradient's norm clipped."""
    if not torch.isfinite(loss):
        raise TrainingError("the loss is no longer a number: lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(decoder.parameters(), clip_norm)
    optimizer.step()


def reduced_precision(wanted: bool = True) -> torch.autocast:
    """Products in bfloat16 inside this context, where the processor has it; losses and weights stay in float32."""
    # Without such instructions bfloat16 is slower than float32; torch has no public question for it.
    has_it = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted and has_it)


def warmup_then_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear up from 0, then half a cosine down to 0."""
    warmup = min(warmup_steps, max(1, steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


@torch.inference_mode()
def token_loss(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], *, spelled: bool = False
) -> float:
    """Return the mean negative log-likelihood per token of the captions, in nats.

    Args:
        decoder: is left in evaluation mode.
        tokenizer: of the decoder.
        examples: captions with the features of their images.
        spelled: as in `caption_tokens`; words that the decoder cannot write then cost what they should.

    Raises:
        TrainingError: there are no examples, so there is no mean.
    """
    if not examples:
        raise TrainingError("a loss needs at least one held-out caption")
    decoder.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), 64):
        chosen = examples[start : start + 64]
        tokens = padded([caption_tokens(tokenizer, example.caption, spelled=spelled) for example in chosen])
        logits = decoder(torch.stack([example.features for example in chosen]).float(), tokens)
        words = len(logits)
        total += caption_loss(logits, tokens, torch.ones(len(chosen))).item() * words
        count += words
    return total / count
