"""Distillation: an encoder with weights of its own learns to see what another one sees (Romero et al. 2015,
https://arxiv.org/abs/1412.6550); it needs images, but no captions and no labels.

It has the teacher's shape and a random start. First its stages learn apart: each reads what the teacher's stage reads,
and is to say what that says, so that no gradient has far to go. Then they learn together, each reading the one before.

Shapes:  B images of a batch   S image side   C channels
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from model.caption_files.read import LeftOut, read_names
from model.errors import ImageError, TrainingError
from model.precision import stored
from model.progress import OnProgress, Progress, ignore_progress
from model.store import replaced_file
from model.training.checkpoint import Checkpoint, remove_checkpoint
from model.training.examples import is_held_out
from model.training.optimization import reduced_precision
from model.training.processes import ALONE, Processes
from model.training.trainer import Course, Plan, Step
from model.training.training_log import write_training_log
from model.training.training_record import TrainingProgress
from model.vision.augmentation import Augmentation
from model.vision.encoder import Encoder, EncoderSpec, build_encoder, freeze
from model.vision.files import encode_files
from model.vision.images import decode_image, image_key

logger = logging.getLogger(__name__)

ENCODER_FILE = "encoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """How the encoder learns."""

    apart_epochs: int = 2
    """Times each image is seen while the stages learn apart."""
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
    """Of so many images one is only measured on, chosen by its content's hash."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("apart_epochs", 1), ("together_epochs", 1), ("batch_size", 2), ("held_out_share", 2)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DistilledEncoder:
    """What `captioner distil` reports."""

    path: Path
    """Its weights, as `build_encoder` takes them."""
    unexplained: float
    """Share of the teacher's features' variance, on images that were not learned from; 0 is a perfect copy."""
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
    """Teach an encoder of one's own what an encoder with these weights sees, and write its weights.

    Until then `out` holds a checkpoint after each epoch, from which the same call goes on after a kill, and the
    training's record with its curves. Only the first of several processes writes and returns.

    Args:
        out: directory of the weights; it must not hold any yet.
        images: directory of images.
        names: a list of image names, one per line: only these are read. None reads all files of the directory.
        encoder: the network, of teacher and pupil.
        weights: the teacher's, as `build_encoder` takes them.
        options: how long and how fast.
        on_progress: told after each batch.
        processes: train together.

    Raises:
        BundleError: the encoder is unknown or its weights do not fit.
        TrainingError: too few images can be read, or `out` holds weights already, or another training's checkpoint.
    """
    if (out / ENCODER_FILE).exists():
        raise TrainingError(f"{out} holds an encoder already: choose another directory")
    teacher = build_encoder(encoder, weights)
    files = [images / name for name in read_names(names)] if names else sorted(filter(Path.is_file, images.iterdir()))
    keys, left_out = _readable(files, on_progress)
    learned = [file for file, key in keys.items() if not is_held_out(key, options.held_out_share)]
    measured = [file for file, key in keys.items() if is_held_out(key, options.held_out_share)]
    identity: dict[str, str | float | None] = {
        **{name: str(value) for name, value in asdict(options).items()},
        "encoder": f"{encoder.name} {teacher.fingerprint}",
        "images": f"{len(keys)} {hashlib.sha256(repr(sorted(keys.values())).encode()).hexdigest()[:12]}",
        "device": processes.device.type,
        "processes": processes.count,
    }
    course = Course(processes, Checkpoint(out, identity), partial(write_training_log, out))

    def report(phase: str, progress: TrainingProgress) -> None:
        note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f} {progress.eta_s:.0f} s left"
        on_progress(Progress(phase=f"distil {phase}", done=progress.step, total=progress.steps, note=note))

    pupil = distil_encoder(teacher, learned, options, report, course)
    if not processes.is_first:
        return None
    unexplained = _unexplained(teacher, pupil, measured or learned, on_progress)
    with replaced_file(out / ENCODER_FILE) as file:
        file.write(save(stored(pupil.network.state_dict(), "fp16")))
    remove_checkpoint(out)
    logger.info("encoder distilled path=%s unexplained=%.3f %s", out, unexplained, left_out.summary())
    return DistilledEncoder(path=out / ENCODER_FILE, unexplained=unexplained, left_out=left_out)


def distil_encoder(
    teacher: Encoder,
    files: Sequence[Path],
    options: DistillationOptions,
    on_progress: Callable[[str, TrainingProgress], None] | None = None,
    course: Course | None = None,
) -> Encoder:
    """Return a frozen encoder of the teacher's shape that has learned to see like it.

    Args:
        teacher: is left as it was.
        files: images that can be read.
        options: how long and how fast.
        on_progress: told the phase (`apart`, `together`) and where it stands, after each step.
        course: the training that this is; None for one that is not kept.

    Raises:
        TrainingError: there is not one batch of images, or the loss stopped being a number.
    """
    if len(files) < options.batch_size:
        raise TrainingError(f"distillation needs {options.batch_size} images or more, got {len(files)}")
    course = course or Course()
    device = course.processes.device
    torch.manual_seed(options.seed)
    pupil = build_encoder(teacher.spec).requires_grad_(True)
    teacher.to(device), pupil.to(device)
    course.processes.start_alike(pupil)
    for phase, epochs, rate in (
        ("apart", options.apart_epochs, options.apart_learning_rate),
        ("together", options.together_epochs, options.together_learning_rate),
    ):
        plan = Plan(
            phase=phase,
            epochs=epochs,
            warmup_steps=options.warmup_steps,
            averaging=options.averaging,
            clip_norm=options.clip_norm,
            seed=options.seed,
        )
        lessons = Lessons(
            teacher, pupil, Views(teacher, files, options, course.processes), together=phase == "together"
        )
        told = (lambda progress, phase=phase: on_progress(phase, progress)) if on_progress else None
        optimizer = torch.optim.AdamW(pupil.parameters(), rate, weight_decay=1e-5)
        course.learn(plan, pupil, optimizer, lessons, None, told)
    teacher.cpu()
    return freeze(pupil.cpu())


def _readable(files: Sequence[Path], on_progress: OnProgress) -> tuple[dict[Path, str], LeftOut]:
    """Return the images that can be read, each with the hash of its content, and the others."""
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
    """Return the share of the variance of the teacher's features that the pupil's leave."""
    sums = torch.zeros(4, dtype=torch.float64)
    both = encode_files(teacher, files, on_progress=on_progress), encode_files(pupil, files)
    for taught, own in zip(*both, strict=True):
        if taught.features is not None and own.features is not None:
            target = taught.features.double()
            difference = (target - own.features).square().sum()
            sums += torch.stack([difference, target.square().sum(), target.sum(), torch.tensor(target.numel())])
    difference, squares, total, count = sums
    return float(difference / (squares - total * total / count))


class Lessons:
    """Steps in which the pupil's stages come to say what the teacher's say."""

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
        """Return the sum of what the stages leave unexplained; where they learn together the last one counts most."""
        learning = list(zip(stages(self._teacher.network), stages(self._pupil.network), strict=True))
        taught = own = images
        unexplained = []
        with reduced_precision(True, images.device):
            for teacher, pupil in learning:
                own = pupil(own if self._together else taught)
                with torch.no_grad():
                    taught = teacher(taught)
                unexplained.append(unexplained_variance(own, taught))
        return unexplained[-1] + (0.2 if self._together else 1.0) * sum(unexplained[:-1], torch.zeros(()))


class Views:
    """Views of images in batches [B, 3, S, S], other ones in each epoch; what fills no batch at its end is left."""

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
            coming = reader.submit(self._read, shares[0])
            for following in [*shares[1:], None]:
                images = coming.result()
                if following:  # is read while this one is learned from
                    coming = reader.submit(self._read, following)
                yield images.to(self._processes.device)

    def _read(self, chosen: Sequence[tuple[Path, int]]) -> Tensor:
        views = []
        for file, number in chosen:
            content = file.read_bytes()
            view = self._options.augmentation.view(decode_image(content), image_key(content), number)
            views.append(self._preprocessing(view))
        return torch.stack(views).contiguous(memory_format=torch.channels_last)


def stages(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that follow each other; one that is not made so is one part."""
    return list(network.children()) if isinstance(network, nn.Sequential) else [network]


def unexplained_variance(own: Tensor, taught: Tensor) -> Tensor:
    """Return the mean squared difference of feature maps [B, C, h, w], of each channel relative to its variance."""
    own, taught = own.float(), taught.float()
    variance = taught.var(dim=(0, 2, 3))
    variance = variance.clamp(min=0.05 * float(variance.mean()) + 1e-6).view(1, -1, 1, 1)
    return ((own - taught).square() / variance).mean()
