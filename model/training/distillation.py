"""Distillation of an encoder: a network with random weights learns to give the features of a trained one (Romero et al.
2015, https://arxiv.org/abs/1412.6550). It needs images, but neither captions nor labels.

Both networks have the same shape. In the first phase the stages learn apart: each stage reads the output of the
teacher's stage before it, so gradients have a short way. In the second phase the stages learn together: each stage
reads the output of its own network's stage before it.

Shapes:  B images of a batch   S image side   C channels
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.numpy import save
from torch import Tensor, nn

from model.bundle import arrays
from model.caption_files.read import LeftOut, read_names
from model.errors import ImageError, TrainingError
from model.precision import stored
from model.progress import OnProgress, Progress, ignore_progress
from model.store import replaced_file
from model.training.checkpoint import Checkpoint, remove_checkpoint
from model.training.examples import is_held_out
from model.training.optimization import prepare_training, reduced_precision
from model.training.phase import PhaseOptions, Step
from model.training.processes import ALONE, Processes, moved
from model.training.trainer import Trainer, step_reporter
from model.training.training_log import write_training_log
from model.vision.augmentation import Augmentation
from model.vision.encoder import Encoder, build_encoder, freeze
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import READERS, encode_files, read_ahead
from model.vision.images import decode_image, image_key

logger = logging.getLogger(__name__)

ENCODER_FILE = "encoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Length and learning rates of the distillation."""

    apart_epochs: int = 2
    """Passes over all images while the stages learn apart."""
    small_epochs: int = 0
    """Passes over smaller images while the stages learn together."""
    together_epochs: int = 6
    """Passes over images of the encoder's size while the stages learn together."""
    small_size: int | None = None
    """Side of the images of the phases before the last, in pixels: 160 instead of 224 takes half the time (progressive
    resizing, as Tan and Le 2021, https://arxiv.org/abs/2104.00298, section 4). None: the encoder's own size."""
    batch_size: int = 16
    apart_learning_rate: float = 3e-3
    together_learning_rate: float = 1.5e-3
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(crop=0.5, colour=0.3))
    averaging: float = 0.998
    """As in TrainingOptions."""
    warmup_steps: int = 50
    clip_norm: float = 10.0
    held_out_share: int = 50
    """One image in this many is only measured on; the hash of its content decides."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"apart_epochs": 1, "small_epochs": 0, "together_epochs": 1, "batch_size": 2, "held_out_share": 2}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise TrainingError(f"{name} must be {number} or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DistilledEncoder:
    """Result of `captioner distil`."""

    path: Path
    """File of the weights, as `build_encoder` takes it."""
    unexplained: float
    """Share of the variance of the teacher's features that is not explained, on held-out images; 0 is the best."""
    left_out: LeftOut
    """Images that could not be read."""


def distil(
    out: Path,
    *,
    images: Path,
    names: Path | None = None,
    encoder: EncoderSpec,
    weights: Path | str | None,
    stronger: Encoder | None = None,
    options: DistillationOptions,
    on_progress: OnProgress = ignore_progress,
    processes: Processes = ALONE,
) -> DistilledEncoder | None:
    """Train an encoder to give the features of a trained one, and write its weights; only the first process returns.

    While it trains, `out` holds the training log and a checkpoint, from which the same call resumes after a kill.

    Args:
        out: directory of the weights; it must not hold any yet.
        names: file of image names, one per line, to read only these; None reads all files of the directory.
        encoder: the network of teacher and pupil.
        weights: the teacher's, as `build_encoder` takes them.
        stronger: a second teacher, of another network with as many features and regions and the same preprocessing. The
            last stage learns its features instead of the first teacher's.

    Raises:
        BundleError: the encoder is unknown or its weights do not fit.
        TrainingError: too few images can be read, the second teacher's features have another shape, or `out` holds an
            encoder or another training.
    """
    if (out / ENCODER_FILE).exists():
        raise TrainingError(f"{out} holds an encoder already: choose another directory")
    teacher = build_encoder(encoder, weights)
    if stronger and (stronger.regions, stronger.feature_size) != (teacher.regions, teacher.feature_size):
        raise TrainingError(
            f"the second teacher has {stronger.regions} regions of {stronger.feature_size} features, and the encoder "
            f"{teacher.regions} of {teacher.feature_size}: choose one with the same numbers"
        )
    files = [images / name for name in read_names(names)] if names else sorted(filter(Path.is_file, images.iterdir()))
    keys, left_out = _readable(files, on_progress)
    checkpoint = Checkpoint(out, _identity(options, [teacher, *([stronger] if stronger else [])], keys, processes))
    trainer = Trainer(processes, checkpoint, partial(write_training_log, out))
    learned = [file for file, key in keys.items() if not is_held_out(key, options.held_out_share)]
    pupil = distil_encoder(teacher, learned, options, on_progress, trainer, stronger)
    if not processes.is_first:
        return None
    measured = [file for file, key in keys.items() if is_held_out(key, options.held_out_share)]
    unexplained = _unexplained(stronger or teacher, pupil, measured or learned, on_progress)
    _write_weights(out, pupil)
    logger.info("encoder distilled path=%s unexplained=%.3f %s", out, unexplained, left_out.summary())
    return DistilledEncoder(path=out / ENCODER_FILE, unexplained=unexplained, left_out=left_out)


def distil_encoder(
    teacher: Encoder,
    files: Sequence[Path],
    options: DistillationOptions,
    on_progress: OnProgress = ignore_progress,
    trainer: Trainer | None = None,
    stronger: Encoder | None = None,
) -> Encoder:
    """Return a frozen encoder of the teacher's shape that has learned to give its features.

    Args:
        teacher: stays as it is.
        trainer: of the training that this is; None makes one that writes nothing.
        stronger: as in `distil`.

    Raises:
        TrainingError: the images do not fill a batch, or the loss is no longer a number.
    """
    if len(files) < options.batch_size:
        raise TrainingError(f"distillation needs {options.batch_size} images or more, got {len(files)}")
    trainer = trainer or Trainer()
    torch.manual_seed(options.seed)
    pupil = build_encoder(teacher.spec).requires_grad_(True)
    prepare_training(pupil.network, trainer.processes.device)
    full = teacher.spec.preprocessing.size
    start_near(pupil, teacher, stronger, next(iter(Views(teacher, files, options, ALONE, full))))
    for network in (teacher, pupil, *([stronger] if stronger else [])):
        network.to(trainer.processes.device)
    trainer.processes.start_alike(pupil)
    small = options.small_size or full
    for name, epochs, rate, size in (
        ("apart", options.apart_epochs, options.apart_learning_rate, small),
        ("small", options.small_epochs, options.together_learning_rate, small),
        ("together", options.together_epochs, options.together_learning_rate, full),
    ):
        if epochs == 0:
            continue
        phase = PhaseOptions.of(options, phase=name, epochs=epochs)
        views = Views(teacher, files, options, trainer.processes, size)
        hints = None if name == "together" and stronger else teacher
        batches = StageImitation(pupil, views, hints, stronger, together=name != "apart")
        optimizer = torch.optim.AdamW(pupil.parameters(), rate, weight_decay=1e-5)
        trainer.run_phase(phase, pupil, optimizer, batches, None, step_reporter(f"distil {name}", on_progress))
    teacher.cpu()
    if stronger:
        stronger.cpu()
    distilled = build_encoder(teacher.spec)
    distilled.load_state_dict(pupil.cpu().state_dict())
    return freeze(distilled)


def _identity(
    options: DistillationOptions, teachers: Sequence[Encoder], keys: dict[Path, str], processes: Processes
) -> dict[str, str | float | None]:
    """Return everything that the weights depend on, by names for users."""
    return {
        **{name: str(value) for name, value in asdict(options).items()},
        "encoder": " ".join(f"{teacher.spec.name} {teacher.fingerprint}" for teacher in teachers),
        "images": f"{len(keys)} {hashlib.sha256(repr(sorted(keys.values())).encode()).hexdigest()[:12]}",
        "device": processes.device.type,
        "processes": processes.count,
    }


def _write_weights(out: Path, pupil: Encoder) -> None:
    with replaced_file(out / ENCODER_FILE) as file:
        file.write(save(stored(arrays(pupil.network), "fp16")))
    remove_checkpoint(out)


def _readable(files: Sequence[Path], on_progress: OnProgress) -> tuple[dict[Path, str], LeftOut]:
    """Return the readable images, each with the hash of its content, and the unreadable ones."""
    keys, left_out = {}, LeftOut()
    for done, file in enumerate(files, 1):
        try:
            content = file.read_bytes()
            decode_image(content)
            keys[file] = image_key(content)
        except (OSError, ImageError) as problem:
            left_out.add("unreadable images", f"{file.name}: {problem}")
        on_progress(Progress(phase="read images", done=done, total=len(files)))
    return keys, left_out


def _unexplained(teacher: Encoder, pupil: Encoder, files: Sequence[Path], on_progress: OnProgress) -> float:
    """Return the share of the variance of the teacher's features that the pupil's features do not explain."""
    sums = torch.zeros(4, dtype=torch.float64)
    both = encode_files(teacher, files, on_progress=on_progress), encode_files(pupil, files)
    for target_file, own in zip(*both, strict=True):
        if target_file.features is not None and own.features is not None:
            target = torch.from_numpy(target_file.features).double()
            difference = (target - torch.from_numpy(own.features)).square().sum()
            sums += torch.stack([difference, target.square().sum(), target.sum(), torch.tensor(target.numel())])
    difference, squares, total, count = sums
    return float(difference / (squares - total * total / count))


class StageImitation:
    """Steps that bring the output of the pupil's stages nearer to that of the teacher's."""

    def __init__(
        self, pupil: Encoder, views: "Views", teacher: Encoder | None, stronger: Encoder | None, *, together: bool
    ) -> None:
        """Choose who teaches: the stages learn from `teacher`, and the last one from `stronger` if there is one."""
        self.order = views.order
        self._pupil, self._views, self._teacher, self._stronger = pupil, views, teacher, stronger
        self._together = together

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[Step]:
        self._pupil.train()
        for images in self._views:
            with reduced_precision(True, images.device):
                loss = self._loss(images)
            yield Step(loss=loss, weight=float(len(images)))

    def _loss(self, images: Tensor) -> Tensor:
        """Return the sum of the stages' unexplained variances; in the phase `together` the last stage counts most."""
        own, hints = images, Tensor()
        unexplained = []
        for number, stage in enumerate(stages(self._pupil.network)):
            own = stage(own if self._together or number == 0 else hints)
            if self._teacher:
                with torch.no_grad():
                    hints = stages(self._teacher.network)[number](hints if number else images)
                unexplained.append(unexplained_variance(own, hints))
        if self._stronger:
            with torch.no_grad():
                target = self._stronger.network(images)
            unexplained[-1:] = [unexplained_variance(own, target)]
        return unexplained[-1] + (0.2 if self._together else 1.0) * sum(unexplained[:-1], torch.zeros(()))


@torch.no_grad()
def start_near(pupil: Encoder, teacher: Encoder, stronger: Encoder | None, images: Tensor) -> None:
    """Give the last normalisation of each stage of a pupil the mean and half the deviation of its target's channels.

    Without this the first hundreds of steps learn little else.

    Args:
        images: a batch of views.
    """
    hints = images
    for own, of_teacher in zip(stages(pupil.network), stages(teacher.network), strict=True):
        before, hints = hints, of_teacher(hints)
        added = hints - before if getattr(own, "use_res_connect", False) else hints
        if stronger and own is stages(pupil.network)[-1]:
            added = stronger.network(images)
        norms = [part for part in own.modules() if isinstance(part, nn.BatchNorm2d)]
        if norms and norms[-1].num_features == added.shape[1]:
            deviation, mean = torch.std_mean(added, dim=(0, 2, 3))
            norms[-1].weight.copy_(deviation / 2)
            norms[-1].bias.copy_(mean)


class Views:
    """Batches [B, 3, S, S] of random views, new in each epoch. A last batch that is not full is skipped."""

    def __init__(
        self,
        encoder: Encoder,
        files: Sequence[Path],
        options: DistillationOptions,
        processes: Processes,
        size: int,
    ) -> None:
        self.order = torch.Generator().manual_seed(options.seed)
        self._files, self._options, self._processes = files, options, processes
        self._preprocessing = replace(encoder.spec.preprocessing, size=size)

    def __len__(self) -> int:
        return len(self._files) // self._options.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        size = self._options.batch_size
        shuffled = torch.randperm(len(self._files), generator=self.order).tolist()
        numbers = torch.randint(2, 2**31, (len(self._files),), generator=self.order).tolist()
        batches = [shuffled[start : start + size] for start in range(0, len(self) * size, size)]
        shares = [[(self._files[i], numbers[i]) for i in self._processes.share(batch)] for batch in batches]
        device = self._processes.device
        for images in read_ahead(self._read, shares, 1 if device.type == "cpu" else READERS):
            yield from moved([images], device)

    def _read(self, chosen: Sequence[tuple[Path, int]]) -> Tensor:
        views = []
        for file, number in chosen:
            content = file.read_bytes()
            view = self._options.augmentation.view(decode_image(content), image_key(content), number)
            views.append(torch.from_numpy(self._preprocessing(view)))
        return torch.stack(views).contiguous(memory_format=torch.channels_last)


def stages(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a sequential network; any other network is one part."""
    return list(network.children()) if isinstance(network, nn.Sequential) else [network]


def unexplained_variance(own: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of feature maps [B, C, h, w], relative to the variance of each channel."""
    own, target = own.float(), target.float()
    variance = target.var(dim=(0, 2, 3))
    variance = variance.clamp(min=0.05 * float(variance.mean()) + 1e-6).view(1, -1, 1, 1)
    return ((own - target).square() / variance).mean()
