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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
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
from model.training.optimization import reduced_precision
from model.training.phase import PhaseOptions, Step
from model.training.processes import ALONE, Processes
from model.training.trainer import Trainer, step_reporter
from model.training.training_log import write_training_log
from model.vision.augmentation import Augmentation
from model.vision.encoder import Encoder, build_encoder, freeze
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import encode_files
from model.vision.images import decode_image, image_key

logger = logging.getLogger(__name__)

ENCODER_FILE = "encoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Length and learning rates of the distillation."""

    apart_epochs: int = 2
    """Passes over all images while the stages learn apart."""
    together_epochs: int = 6
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
        for name, least in (("apart_epochs", 1), ("together_epochs", 1), ("batch_size", 2), ("held_out_share", 2)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")


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

    Raises:
        BundleError: the encoder is unknown or its weights do not fit.
        TrainingError: too few images can be read, or `out` holds an encoder or another training.
    """
    if (out / ENCODER_FILE).exists():
        raise TrainingError(f"{out} holds an encoder already: choose another directory")
    teacher = build_encoder(encoder, weights)
    files = [images / name for name in read_names(names)] if names else sorted(filter(Path.is_file, images.iterdir()))
    keys, left_out = _readable(files, on_progress)
    checkpoint = Checkpoint(out, _identity(options, teacher, keys, processes))
    trainer = Trainer(processes, checkpoint, partial(write_training_log, out))
    learned = [file for file, key in keys.items() if not is_held_out(key, options.held_out_share)]
    pupil = distil_encoder(teacher, learned, options, on_progress, trainer)
    if not processes.is_first:
        return None
    measured = [file for file, key in keys.items() if is_held_out(key, options.held_out_share)]
    unexplained = _unexplained(teacher, pupil, measured or learned, on_progress)
    _write_weights(out, pupil)
    logger.info("encoder distilled path=%s unexplained=%.3f %s", out, unexplained, left_out.summary())
    return DistilledEncoder(path=out / ENCODER_FILE, unexplained=unexplained, left_out=left_out)


def distil_encoder(
    teacher: Encoder,
    files: Sequence[Path],
    options: DistillationOptions,
    on_progress: OnProgress = ignore_progress,
    trainer: Trainer | None = None,
) -> Encoder:
    """Return a frozen encoder of the teacher's shape that has learned to give its features.

    Args:
        teacher: stays as it is.
        trainer: of the training that this is; None makes one that writes nothing.

    Raises:
        TrainingError: the images do not fill a batch, or the loss is no longer a number.
    """
    if len(files) < options.batch_size:
        raise TrainingError(f"distillation needs {options.batch_size} images or more, got {len(files)}")
    trainer = trainer or Trainer()
    torch.manual_seed(options.seed)
    pupil = build_encoder(teacher.spec).requires_grad_(True)
    teacher.to(trainer.processes.device), pupil.to(trainer.processes.device)
    trainer.processes.start_alike(pupil)
    for name, epochs, rate in (
        ("apart", options.apart_epochs, options.apart_learning_rate),
        ("together", options.together_epochs, options.together_learning_rate),
    ):
        phase = PhaseOptions.of(options, phase=name, epochs=epochs)
        views = Views(teacher, files, options, trainer.processes)
        batches = StageImitation(teacher, pupil, views, together=name == "together")
        optimizer = torch.optim.AdamW(pupil.parameters(), rate, weight_decay=1e-5)
        trainer.run_phase(phase, pupil, optimizer, batches, None, step_reporter(f"distil {name}", on_progress))
    teacher.cpu()
    return freeze(pupil.cpu())


def _identity(
    options: DistillationOptions, teacher: Encoder, keys: dict[Path, str], processes: Processes
) -> dict[str, str | float | None]:
    """Return everything that the weights depend on, by names for users."""
    return {
        **{name: str(value) for name, value in asdict(options).items()},
        "encoder": f"{teacher.spec.name} {teacher.fingerprint}",
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

    def __init__(self, teacher: Encoder, pupil: Encoder, views: "Views", *, together: bool) -> None:
        self.order = views.order
        self._teacher, self._pupil, self._views, self._together = teacher, pupil, views, together

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[Step]:
        self._pupil.train()
        for images in self._views:
            yield Step(loss=self._loss(images), weight=float(len(images)))

    def _loss(self, images: Tensor) -> Tensor:
        """Return the sum of the stages' unexplained variances; in the phase `together` the last stage counts most."""
        pairs = list(zip(stages(self._teacher.network), stages(self._pupil.network), strict=True))
        target = own = images
        unexplained = []
        with reduced_precision(True, images.device):
            for teacher, pupil in pairs:
                own = pupil(own if self._together else target)
                with torch.no_grad():
                    target = teacher(target)
                unexplained.append(unexplained_variance(own, target))
        return unexplained[-1] + (0.2 if self._together else 1.0) * sum(unexplained[:-1], torch.zeros(()))


class Views:
    """Batches [B, 3, S, S] of random views, new in each epoch. A last batch that is not full is skipped."""

    def __init__(
        self, encoder: Encoder, files: Sequence[Path], options: DistillationOptions, processes: Processes
    ) -> None:
        self.order = torch.Generator().manual_seed(options.seed)
        self._files, self._options, self._processes = files, options, processes
        self._preprocessing = encoder.spec.preprocessing

    def __len__(self) -> int:
        return len(self._files) // self._options.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        size = self._options.batch_size
        shuffled = torch.randperm(len(self._files), generator=self.order).tolist()
        numbers = torch.randint(2, 2**31, (len(self._files),), generator=self.order).tolist()
        batches = [shuffled[start : start + size] for start in range(0, len(self) * size, size)]
        shares = [[(self._files[i], numbers[i]) for i in self._processes.share(batch)] for batch in batches]
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(self._read, shares[0])
            for following in [*shares[1:], None]:
                images = reading.result()
                if following:  # The next batch is read while this one is learned from.
                    reading = reader.submit(self._read, following)
                yield images.to(self._processes.device)

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
