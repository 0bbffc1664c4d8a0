"""Commands that train: train, distil."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backend.commands import shared_options as shared
from backend.commands.training_options import bundle_options, recipe_defaults, training_options
from model.errors import SettingsError

if TYPE_CHECKING:
    from model.caption_files.read import CaptionSource
    from model.vision.encoder_spec import EncoderSpec

MORE_ABOUT_TRAIN = """captioner train --captions my.csv --images pictures --from photos --out mine

`torchrun --nproc-per-node N -m backend.cli train ...` trains in N processes, each on its own GPU if there is one.
--features lets them share the work of encoding.

The same command continues an interrupted training after its last complete epoch. training.json and curves.png in DIR
show the progress."""


def _take_the_defaults_of_fine_tuning(context: click.Context, _: click.Parameter, base: str | None) -> str | None:
    if base is not None:
        from model.training.bundle_options import fine_tuning_options

        context.default_map = recipe_defaults(fine_tuning_options())
    return base


held_out = functools.partial(
    shared.option, section="Held-out images (without these options a tenth of the images, always the same)"
)


@shared.command(MORE_ABOUT_TRAIN)
@shared.option(
    "--from",
    "base",
    metavar="BUNDLE",
    is_eager=True,
    callback=_take_the_defaults_of_fine_tuning,
    help="Continue from a bundle (scenes, photos or a directory) with its encoder, vocabulary and decoder, and print "
    "what became better. --epochs is then 15 by default, --reward-epochs 0, --batch-size 32, --min-count 2, "
    "--dropout 0.3.",
)
@shared.option("--out", type=shared.PATH, required=True, metavar="DIR", help="Directory of the new bundle.")
@shared.option("--name", default="photos", help="Versions are called NAME-<8 hex digits>.")
@shared.device
@shared.features
@shared.strict
@shared.captions_source()
@held_out("--held-out-captions", type=shared.PATH, metavar="FILE", help="Default: the same file.")
@held_out("--held-out-images", type=shared.PATH, metavar="DIR", help="Default: the same directory.")
@held_out("--held-out-names", type=shared.PATH, metavar="FILE", help="Names of images, one a line.")
@held_out("--held-out-split", metavar="SPLIT", help="Part of a Karpathy file.")
@training_options
def train(
    source: "CaptionSource",
    base: str | None,
    out: Path,
    name: str,
    device: str | None,
    features: str | None,
    strict: bool,
    encoder: "EncoderSpec",
    weights: str,
    **training: Any,
) -> int:
    """Make a bundle from captioned images."""
    from model.bundle import load_bundle
    from model.progress import ProgressDisplay, ignore_progress
    from model.store import Store
    from model.training.bundle_options import fine_tuning_options
    from model.training.bundle_training import train_bundle
    from model.training.processes import join_processes

    if base:
        _refuse_options_of_the_network(base)
    start = load_bundle(base) if base else None
    with join_processes(device) as processes, ProgressDisplay() as show:
        trained = train_bundle(
            out,
            train=source,
            held_out=_held_out(source, training),
            encoder=None if base else encoder,
            weights=None if base or weights == "none" else weights,
            base=start,
            options=bundle_options(training, name=name, recipe=fine_tuning_options() if base else None),
            features=Store(features) if features else None,
            strict=strict,
            on_progress=show if processes.is_first else ignore_progress,
            processes=processes,
        )
    if trained is None:  # the first process does and prints the rest
        return 0
    print((trained.comparison or trained.evaluation).table())
    print(trained.left_out.summary())
    print(f"{trained.version} is in {trained.path}; CAPTION_BUNDLE={trained.path} uses it")
    return 0


def _refuse_options_of_the_network(base: str) -> None:
    if written := ", ".join(shared.written_options(shared.ENCODER, shared.NETWORK)):
        raise SettingsError(
            f"--from continues with the encoder and the decoder of {base}: leave out {written}, or leave out --from to "
            "start a new network"
        )


def _held_out(source: "CaptionSource", written: dict[str, Any]) -> "CaptionSource | None":
    from model.caption_files.read import CaptionSource

    captions, images, names, split = (written[f"held_out_{name}"] for name in ("captions", "images", "names", "split"))
    if not (captions or images or names or split):
        return None
    return CaptionSource(captions=captions or source.captions, images=images or source.images, names=names, split=split)


@shared.command("captioner distil --images pictures --weights DEFAULT --out encoder")
@shared.option(
    "--images", type=shared.PATH, required=True, metavar="DIR", help="Directory of images. They need no captions."
)
@shared.names
@shared.option("--out", type=shared.PATH, required=True, metavar="DIR", help="Directory of encoder.safetensors.")
@shared.encoder(section="Options")
@shared.option("--epochs-apart", type=shared.count, default=2, metavar="N", help="Passes that train each stage alone.")
@shared.option("--epochs", type=shared.count, default=6, metavar="N", help="Passes that train all stages together.")
@shared.seed
@shared.device
def distil(
    images: Path,
    names: Path | None,
    out: Path,
    encoder: "EncoderSpec",
    weights: str,
    epochs_apart: int,
    epochs: int,
    seed: int,
    device: str | None,
) -> int:
    """Teach a new encoder to see like another encoder.

    The new encoder starts with random weights.
    """
    from model.progress import ProgressDisplay, ignore_progress
    from model.training.distillation import DistillationOptions
    from model.training.distillation import distil as distil_weights
    from model.training.processes import join_processes

    with join_processes(device) as processes, ProgressDisplay() as show:
        distilled = distil_weights(
            out,
            images=images,
            names=names,
            encoder=encoder,
            weights=weights,
            options=DistillationOptions(apart_epochs=epochs_apart, together_epochs=epochs, seed=seed),
            on_progress=show if processes.is_first else ignore_progress,
            processes=processes,
        )
    if distilled is None:  # the first process does and prints the rest
        return 0
    print(distilled.left_out.summary())
    print(f"{distilled.unexplained:.1%} of the features' variance on unseen images is not explained")
    print(f"the encoder is in {distilled.path}; captioner train --weights {distilled.path} uses it")
    return 0
