"""Teacher-forced training of the decoder on stored features.

Shapes:  B batch   T tokens   P regions   D feature size   V vocabulary
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from model.captioner import Captioner
from model.decoders.base import CaptionDecoder, predicted
from model.decoders.search import DecodingOptions, beam_search
from model.errors import TrainingError
from model.metrics.cider import CiderD
from model.metrics.scores import bleu
from model.metrics.words import Words, metric_words
from model.tokenizer import END, FIRST_BYTE, FIRST_WORD, PAD, START, Tokenizer, cut
from model.training.optimization import AFTER, reduced_precision
from model.training.processes import ALONE, Processes
from model.training.trainer import Course, Plan, Step
from model.training.training_record import HeldOutMetrics, TrainingProgress, TrainingRecord

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
"""All take the weight decay as L2 in the loss, but AdamW, which takes it from the weights."""

NO_WEIGHT = torch.finfo(torch.float32).tiny

MOST_PROBABLE = DecodingOptions(beam_size=1)

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
    views: tuple[Tensor, ...] = ()
    """Features of other views of the image, of which the caption is as true, [P, D] each."""
    paraphrases: tuple[str, ...] = ()
    """The same in words that a decoder may know already; what it expects there can be kept (self_distillation.py)."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the decoder is trained."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    inner_learning_rate: float | None = None
    """Of attention and LSTM, where it shall differ: how words are chosen can then be taught without unteaching
    where to look. None means the same for all."""
    encoder_learning_rate: float = 1e-4
    """Of the encoder's stages that are taught too, if any."""
    encoder_after: float = 0.4
    """Share of the steps before they are: a decoder that knows nothing yet would spoil them (Vinyals et al. 2016,
    https://arxiv.org/abs/1609.06647)."""
    label_smoothing: float = 0.1
    dropout: float = 0.3
    feature_dropout: float | None = None
    """Of the features, where it shall differ; None means the same."""
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
        for name in ("dropout", "feature_dropout", "label_smoothing", "averaging"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise TrainingError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


def fit_decoder(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    held_out: Sequence[CaptionedFeatures],
    options: TrainingOptions,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    course: Course | None = None,
    expected: Sequence["ExpectedWords | None"] = (),
) -> TrainingRecord:
    """Train the decoder in place, on its device, and leave it at its best epoch by held-out loss.

    Without held-out captions that is the last epoch.

    Args:
        decoder: any weights.
        tokenizer: of the decoder.
        train: captions to learn.
        held_out: captions to measure on after each epoch; may be empty.
        options: how long and how fast.
        on_progress: told after each step.
        course: the training that this is a phase of; None for one that nothing else belongs to.
        expected: of each caption to learn, what to expect in the place of its words; empty for none.

    Raises:
        TrainingError: there is nothing to train on, or the loss stopped being a number.
    """
    if not train:
        raise TrainingError("there is no caption to train on")
    course = course or Course()
    plan = Plan(
        phase="captions",
        epochs=options.epochs,
        warmup_steps=options.warmup_steps,
        averaging=options.averaging,
        clip_norm=options.clip_norm,
        seed=options.seed,
        patience=options.patience,
        budget_s=options.budget_s,
    )
    decoder.dropout.p = options.dropout
    decoder.feature_dropout.p = options.dropout if options.feature_dropout is None else options.feature_dropout
    optimizer = OPTIMIZERS[options.optimizer](parameter_groups(decoder, options), weight_decay=options.weight_decay)
    lessons = TeacherForcing(decoder, Batches(train, tokenizer, options, course.processes), options, expected)
    measure = HeldOut(tokenizer, held_out).measure if held_out else None
    return course.learn(plan, decoder, optimizer, lessons, measure, on_progress)


class TeacherForcing:
    """Steps that make the captions of a batch likelier."""

    def __init__(
        self,
        decoder: CaptionDecoder,
        batches: "Batches",
        options: TrainingOptions,
        expected: Sequence["ExpectedWords | None"] = (),
    ) -> None:
        self.order = batches.order
        self._decoder, self._batches, self._options, self._expected = decoder, batches, options, expected

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Step]:
        device, options = self._decoder.device, self._options
        self._decoder.train()
        for *batch, numbers in self._batches:
            features, images, tokens, weights = (values.to(device) for values in batch)
            with reduced_precision(options.reduced_precision, device):
                logits = self._decoder(features.float(), tokens, images)
            expected = [self._expected[number] for number in numbers] if self._expected else ()
            loss = caption_loss(logits.float(), tokens, weights, options.label_smoothing, expected)
            yield Step(loss=loss, weight=float(token_weights(batch[2], batch[3]).sum()))


def parameter_groups(decoder: CaptionDecoder, options: TrainingOptions) -> list[dict[str, Any]]:
    """Return the decoder's parameters with their learning rates: next to the words, inner ones, and the encoder's."""
    inner_rate = options.learning_rate if options.inner_learning_rate is None else options.inner_learning_rate
    own, encoder = own_and_encoder(decoder)
    return [
        {"params": [value for name, value in own if name.startswith(NEXT_TO_WORDS)], "lr": options.learning_rate},
        {"params": [value for name, value in own if not name.startswith(NEXT_TO_WORDS)], "lr": inner_rate},
        *([{"params": encoder, "lr": options.encoder_learning_rate, AFTER: options.encoder_after}] if encoder else []),
    ]


def own_and_encoder(decoder: CaptionDecoder) -> tuple[list[tuple[str, nn.Parameter]], list[nn.Parameter]]:
    """Return the decoder's own parameters by name, and those of the encoder's stages that are taught with it."""
    tail = [] if decoder.tail is None else list(decoder.tail.parameters())
    within = {id(value) for value in tail}
    return [(name, value) for name, value in decoder.named_parameters() if id(value) not in within], tail


class Batches:
    """Shuffled batches of captions, anew in each epoch, the same for a seed; an image's captions stay together.

    Yields of each batch this process's share: features [B, P, D] as they are stored, which of them each caption
    describes [N], tokens [N, T] from start to end padded at the right, weights [N], and which captions of all these
    are. Where a batch has too few images for all processes, the others get one of them with weights of 0.
    """

    def __init__(
        self,
        examples: Sequence[CaptionedFeatures],
        tokenizer: Tokenizer,
        options: TrainingOptions,
        processes: Processes = ALONE,
    ) -> None:
        self.order = torch.Generator().manual_seed(options.seed)
        self._examples = examples
        self._tokens = [caption_tokens(tokenizer, example.caption) for example in examples]
        self._images = together(examples)
        self._size = options.batch_size
        self._processes = processes

    def __len__(self) -> int:
        return math.ceil(len(self._examples) / self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, list[int]]]:
        shuffled = [self._images[image] for image in torch.randperm(len(self._images), generator=self.order).tolist()]
        ordered = [(image, example) for image, examples in enumerate(shuffled) for example in examples]
        for start in range(0, len(ordered), self._size):
            batch = ordered[start : start + self._size]
            images = sorted({image for image, _ in batch})
            # of all images, as all processes draw alike
            views = {image: draw_view([self._examples[e] for e in shuffled[image]], self.order) for image in images}
            own = self._processes.share(images)
            places = {image: place for place, image in enumerate(own or images[:1])}
            chosen = [(places[image], example) for image, example in batch if image in places]
            weights = torch.tensor([self._examples[example].weight for _, example in chosen])
            yield (
                torch.stack([views[image] for image in places]),
                torch.tensor([place for place, _ in chosen]),
                padded([self._tokens[example] for _, example in chosen]),
                weights if own else torch.zeros_like(weights),
                [example for _, example in chosen],
            )


def draw_view(captions: Sequence[CaptionedFeatures], order: torch.Generator) -> Tensor:
    """Return the features of an image or of one of its views that is true of all these captions of it, [P, D]."""
    views = min((caption.views for caption in captions), key=len)
    number = int(torch.randint(len(views) + 1, (), generator=order)) if views else 0
    return views[number - 1] if number else captions[0].features


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


def caption_loss(
    logits: Tensor,
    tokens: Tensor,
    weights: Tensor,
    label_smoothing: float = 0.0,
    expected: Sequence["ExpectedWords | None"] = (),
) -> Tensor:
    """Return the weighted mean cross-entropy per token, in nats.

    Args:
        logits: what the decoder said of these captions, [M, V].
        tokens: from start to end, [N, T]; padding does not count.
        weights: of each caption, [N].
        label_smoothing: share of the probability that is to be spread over all words.
        expected: of each caption, what to expect in the place of its words; None, or none at all, for the words.
    """
    losses = nn.functional.cross_entropy(logits, predicted(tokens), reduction="none", label_smoothing=label_smoothing)
    if any(expected):
        lengths = (tokens[:, 1:] != PAD).sum(dim=1).tolist()
        starts = accumulate(lengths, initial=0)
        known = [
            (start + words.places, words.probabilities) for start, words in zip(starts, expected, strict=False) if words
        ]
        places = torch.cat([found for found, _ in known]).to(logits.device)
        probabilities = torch.cat([found for _, found in known]).to(logits.device).float()  # [K, V of before]
        said = logits[places].log_softmax(dim=1)[:, : probabilities.shape[1]]
        losses = losses.index_copy(0, places, -(probabilities * said).sum(dim=1))
    counts = token_weights(tokens, weights)
    return (losses * counts).sum() / counts.sum().clamp(min=NO_WEIGHT)


def token_weights(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return how much each predicted token counts [M], by the weights of its caption [N]."""
    return weights.repeat_interleave((tokens[:, 1:] != PAD).sum(dim=1))


@dataclass(frozen=True, kw_only=True)
class ExpectedWords:
    """What a decoder expects at some places of one caption: targets of distillation (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531)."""

    places: Tensor
    """Among the predicted tokens of the caption, [K]."""
    probabilities: Tensor
    """Of the words that the decoder knows, [K, V], half precision."""


class HeldOut:
    """Captions that are not learned from, to measure a decoder on; a few seconds each time."""

    def __init__(self, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], images: int = 200) -> None:
        """Choose what is measured on.

        Args:
            tokenizer: of the decoders.
            examples: captions; those of one image share its features. All count in the loss.
            images: the decoder writes captions of this many of them at most, always the same.
        """
        self._tokenizer, self._examples = tokenizer, examples
        groups = together(examples)
        written = groups[:: math.ceil(len(groups) / images)]
        self._features = [examples[group[0]].features for group in written]
        self._people = [[metric_words(examples[number].caption) for number in group] for group in written]
        self._cider = CiderD(self._people)

    def measure(self, decoder: CaptionDecoder) -> HeldOutMetrics:
        """Leaves the decoder in evaluation mode."""
        loss = token_loss(decoder, self._tokenizer, self._examples)
        captions = self._write(decoder)
        scores = [self._cider.score(image, caption) for image, caption in enumerate(captions)]
        return HeldOutMetrics(loss, sum(scores) / len(scores), bleu(captions, self._people)[-1])

    def _write(self, decoder: CaptionDecoder) -> list[Words]:
        captions = []
        for start in range(0, len(self._features), 64):
            features = torch.stack(self._features[start : start + 64]).to(decoder.device).float()
            for best, *_ in beam_search(decoder, features, MOST_PROBABLE):
                captions.append(metric_words(self._tokenizer.decode(best.token_ids)))
        return captions


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
    words = sum(len(caption_tokens(tokenizer, example.caption, spelled=spelled)) - 1 for example in examples)
    return sum(caption_losses(decoder, tokenizer, examples, spelled=spelled)) / words


@torch.inference_mode()
def caption_losses(
    decoder: CaptionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures], *, spelled: bool = False
) -> list[float]:
    """Return the negative log-likelihood of each caption with its end, in nats; arguments as in `token_loss`."""
    decoder.eval()
    losses: list[float] = []
    for start in range(0, len(examples), 64):
        chosen = examples[start : start + 64]
        tokens = padded([caption_tokens(tokenizer, example.caption, spelled=spelled) for example in chosen])
        tokens = tokens.to(decoder.device)
        seen = {id(example.features): example.features for example in chosen}  # once for all captions of an image
        places = {image: place for place, image in enumerate(seen)}
        images = torch.tensor([places[id(example.features)] for example in chosen], device=decoder.device)
        logits = decoder(torch.stack(list(seen.values())).to(decoder.device).float(), tokens, images)
        of_tokens = nn.functional.cross_entropy(logits, predicted(tokens), reduction="none")
        lengths = (tokens[:, 1:] != PAD).sum(dim=1).tolist()
        losses += [part.sum().item() for part in torch.split(of_tokens, lengths)]
    return losses


def word_losses(captioner: Captioner, examples: Sequence[CaptionedFeatures]) -> tuple[float, ...]:
    """Return the negative log-likelihood of each caption in nats per word, its end counted as one.

    Per word and not per token: a vocabulary with new words cuts the same caption into fewer tokens.
    """
    losses = caption_losses(captioner.decoder, captioner.tokenizer, examples, spelled=True)
    return tuple(loss / (1 + sum(1 for _ in cut(one.caption))) for loss, one in zip(losses, examples, strict=True))
