"""What each `captioner` command does: settings and arguments in, one call of the noun's module, lines out.

Every function imports what it needs when it runs, so that no command waits for the imports of another.
"""

import argparse
import getpass
import json
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from model.errors import SettingsError
from worker.settings import Settings, hide_password

if TYPE_CHECKING:
    from model.caption_files.read import CaptionSource
    from model.captioner import Captioner
    from model.training.bundle_options import BundleOptions

DECIDED_BY_THE_BASE = (
    "--encoder",
    "--weights",
    "--image-size",
    "--cell",
    "--layers",
    "--no-attention",
    "--recurrent-regions",
    "--residual",
    "--hidden",
)
"""Options of training that say nothing when it goes on from a bundle."""
KNOWN_WITHOUT_FOLDS = {
    "--captions",
    "--images",
    "--names",
    "--split",
    "--bundle",
    "--project",
    "--features",
    "--strict",
    "--no-java",
    "--json",
    "--gallery",
    "--gallery-images",
}
"""Options of `evaluate` that say something when it trains nothing."""


def serve(_: argparse.Namespace) -> int:
    from backend import wsgi

    wsgi.serve(Settings.from_env())
    return 0


def worker(arguments: argparse.Namespace) -> int:
    if arguments.alive:
        from worker.queue.heartbeats import is_worker_alive

        return 0 if is_worker_alive(Settings.from_env().redis_url) else 1
    from worker.__main__ import main

    queues = ["--queues", *arguments.queues] if arguments.queues else []
    return main([*queues, *(["--burst"] if arguments.burst else [])])


def demo(arguments: argparse.Namespace) -> int:
    from backend.demo import check, product

    if arguments.check:
        return check.check_demo(arguments.setup_seconds)
    if arguments.no_label_studio:
        return product.run_without_label_studio()
    return product.run_demo(arguments.photos, arguments.setup_seconds)


def doctor(arguments: argparse.Namespace) -> int:
    from backend.doctor.examination import examine
    from worker.audit import write_once

    settings = Settings.from_env()
    if arguments.repair:
        write_once(settings.redis_url, _who(arguments), "repair asked for")
    return examine(settings, repair=arguments.repair)


def caption(arguments: argparse.Namespace) -> int:
    from model.decoders.search import DecodingOptions
    from model.progress import ProgressDisplay
    from model.vision.files import caption_files

    settings = Settings.from_env()
    captioner = _captioner(settings, arguments)
    alternatives = arguments.alternatives or settings.alternatives
    options = DecodingOptions(beam_size=settings.beam_size, alternatives=alternatives)
    unreadable = 0
    with ProgressDisplay() as show:
        for captioned in caption_files(captioner, arguments.images, options, on_progress=show):
            unreadable += captioned.problem is not None
            if arguments.json:
                print(json.dumps(captioned.to_json(), ensure_ascii=False))
            elif captioned.problem is not None:
                print(f"{captioned.file}: {captioned.problem}", file=sys.stderr)
            else:
                for written in captioned.captions:
                    print(f"{captioned.file}: {written.text} ({written.score:.0%})")
    return 1 if unreadable else 0


def train(arguments: argparse.Namespace) -> int:
    from model.bundle import load_bundle
    from model.caption_files.read import CaptionSource
    from model.progress import ProgressDisplay, ignore_progress
    from model.store import Store
    from model.training.bundle_options import fine_tuning_options, imagenet_encoder
    from model.training.bundle_training import train_bundle
    from model.training.processes import join_processes

    base, recipe = None, None
    if arguments.base is not None:
        _refuse_what_the_base_decides(arguments)
        base, recipe = load_bundle(arguments.base), fine_tuning_options()
    held_out = None
    if arguments.held_out_captions or arguments.held_out_images or arguments.held_out_names or arguments.held_out_split:
        held_out = CaptionSource(
            captions=arguments.held_out_captions or arguments.captions,
            images=arguments.held_out_images or arguments.images,
            names=arguments.held_out_names,
            split=arguments.held_out_split,
        )
    with join_processes(arguments.device) as processes, ProgressDisplay() as show:
        trained = train_bundle(
            arguments.out,
            train=_caption_source(arguments),
            held_out=held_out,
            encoder=None if base else imagenet_encoder(arguments.encoder, arguments.image_size),
            weights=None if base or arguments.weights == "none" else arguments.weights,
            base=base,
            options=_bundle_options(arguments, name=arguments.name, recipe=recipe),
            features=Store(arguments.features) if arguments.features else None,
            strict=arguments.strict,
            on_progress=show if processes.is_first else ignore_progress,
            processes=processes,
        )
    if trained is None:  # the first process has the rest to do and to say
        return 0
    print((trained.comparison or trained.evaluation).table())
    print(trained.left_out.summary())
    print(f"{trained.version} is in {trained.path}; CAPTION_BUNDLE={trained.path} uses it")
    return 0


def distil(arguments: argparse.Namespace) -> int:
    from model.progress import ProgressDisplay, ignore_progress
    from model.training.bundle_options import imagenet_encoder
    from model.training.distillation import DistillationOptions
    from model.training.distillation import distil as distil_weights
    from model.training.processes import join_processes

    with join_processes(arguments.device) as processes, ProgressDisplay() as show:
        distilled = distil_weights(
            arguments.out,
            images=arguments.images,
            names=arguments.names,
            encoder=imagenet_encoder(arguments.encoder, arguments.image_size),
            weights=arguments.weights,
            options=DistillationOptions(
                apart_epochs=arguments.epochs_apart, together_epochs=arguments.epochs, seed=arguments.seed
            ),
            on_progress=show if processes.is_first else ignore_progress,
            processes=processes,
        )
    if distilled is None:  # the first process has the rest to do and to say
        return 0
    print(distilled.left_out.summary())
    print(f"{distilled.unexplained:.1%} of the features' variance on unseen images is not explained")
    print(f"the encoder is in {distilled.path}; captioner train --weights {distilled.path} uses it")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from model.caption_files.read import read_captions
    from model.decoders.search import DecodingOptions
    from model.metrics.evaluation import evaluate, unreadable_images
    from model.metrics.gallery import write_gallery
    from model.progress import ProgressDisplay
    from model.store import Store
    from model.vision.features import FeatureStore

    settings = Settings.from_env()
    if arguments.folds is not None:
        return _cross_validate(settings, arguments)
    if written := sorted(arguments.written - KNOWN_WITHOUT_FOLDS):
        raise SettingsError(f"{', '.join(written)}: without --folds nothing is trained; add it, or leave these out")
    if arguments.gallery and not arguments.gallery.parent.is_dir():
        raise SettingsError(f"--gallery {arguments.gallery}: there is no directory {arguments.gallery.parent}")
    captioned = read_captions(_caption_source(arguments), strict=arguments.strict)
    captioner = _captioner(settings, arguments)
    seen = FeatureStore(Store(arguments.features), captioner.encoder.fingerprint) if arguments.features else None
    with ProgressDisplay() as show:
        evaluation = evaluate(
            captioner,
            captioned.images,
            DecodingOptions(beam_size=settings.beam_size),
            java=arguments.java,
            strict=arguments.strict,
            features=seen,
            on_progress=show,
        )
    captioned.left_out.add_all(unreadable_images(evaluation.unreadable))
    if arguments.json:
        record = evaluation.to_json() | {"left_out": captioned.left_out.cases}
        print(json.dumps(record, ensure_ascii=False, indent=1))
    else:
        print(evaluation.table())
        print(captioned.left_out.summary())
    if arguments.gallery:
        shown = write_gallery(arguments.gallery, evaluation, max_images=arguments.gallery_images)
        print(f"{arguments.gallery} is written (images: {shown}); open it in a browser", file=sys.stderr)
    return 0


def export(arguments: argparse.Namespace) -> int:
    from model.caption_files.read import read_captions
    from model.decoders.search import DecodingOptions
    from model.export import evaluate_export, export_bundle
    from model.metrics.evaluation import unreadable_images
    from model.progress import ProgressDisplay

    settings = Settings.from_env()
    if (arguments.captions is None) != (arguments.images is None):
        raise SettingsError("--captions and --images go together: give both, or neither for sizes only")
    captioned = read_captions(_caption_source(arguments), strict=arguments.strict) if arguments.captions else None
    exported = export_bundle(arguments.bundle or settings.caption_bundle, arguments.precision, arguments.out)
    print(exported.size_table())
    if captioned:
        options = DecodingOptions(beam_size=settings.beam_size)
        with ProgressDisplay() as show:
            evaluation = evaluate_export(exported, captioned.images, options, strict=arguments.strict, on_progress=show)
        captioned.left_out.add_all(unreadable_images(evaluation.after.unreadable))
        print(evaluation.table())
        print(captioned.left_out.summary())
    print(f"{exported.after_version} is in {exported.after}; CAPTION_BUNDLE={exported.after} uses it")
    return 0


def versions(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from backend.captioning.promotion import open_registry, version_lines

    registry = open_registry(Settings.from_env())
    if arguments.json:
        found = [asdict(version) for version in registry.versions(arguments.project)]
        serving = registry.serving(arguments.project)
        print(json.dumps({"serving": serving, "bundle": registry.base_version, "versions": found}, indent=1))
    else:
        print("\n".join(version_lines(registry, arguments.project)))
    return 0


def promote(arguments: argparse.Namespace) -> int:
    from backend.captioning.promotion import promote_version

    print(promote_version(Settings.from_env(), arguments.project, arguments.version, by=_who(arguments)))
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    from backend.captioning.promotion import roll_back

    print(roll_back(Settings.from_env(), arguments.project, by=_who(arguments)))
    return 0


def user(arguments: argparse.Namespace) -> int:
    from backend.admin.users import remove_user, write_user
    from worker.audit import write_once

    settings, name = Settings.from_env(), arguments.name
    if arguments.remove:
        remove_user(settings, name)
        write_once(settings.redis_url, _who(arguments), "user removed", name=name)
        print(f"{name} can sign in no more")
        return 0
    is_known = write_user(settings, name, arguments.role, _ask_password(name))
    done = "user changed" if is_known else "user added"
    write_once(settings.redis_url, _who(arguments), done, name=name, role=arguments.role)
    print(f"{name} can sign in at /admin/login as {arguments.role}")
    return 0


def ledger(arguments: argparse.Namespace) -> int:
    from redis import RedisError

    from backend.commands.ledger_report import csv_lines, ledger_json, ledger_lines
    from model.store import Store
    from worker.feedback.ledger_records import LedgerRecords
    from worker.feedback.score_calibration import read_calibration
    from worker.feedback.totals import read_ledger
    from worker.redis_client import connect

    settings = Settings.from_env()
    try:
        with connect(settings.redis_url) as redis:
            if arguments.csv:
                sys.stdout.writelines(csv_lines(LedgerRecords(redis).records(arguments.project)))
                return 0
            found = read_ledger(redis, arguments.project)
    except RedisError as cause:
        raise SettingsError(
            f"no Redis answers at {hide_password(settings.redis_url)} ({cause}); start it, or set REDIS_URL"
        ) from cause
    calibration = read_calibration(Store(settings.model_store), arguments.project)
    if arguments.json:
        print(json.dumps(ledger_json(found, calibration), indent=1))
    else:
        print("\n".join(ledger_lines(found, calibration, with_arms=settings.hide_suggestions_share > 0)))
    return 0


def _ask_password(name: str) -> str:
    """Ask for it twice on a terminal; elsewhere it is the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("the same again: ") != password:
        raise SettingsError("the two passwords differ; nothing was changed")
    return password


def _who(arguments: argparse.Namespace) -> str:
    """Return how the audit log names whoever runs this command."""
    return f"captioner {arguments.run.__name__} (command line)"


def _cross_validate(settings: Settings, arguments: argparse.Namespace) -> int:
    from model.decoders.search import DecodingOptions
    from model.progress import ProgressDisplay
    from model.store import Store
    from model.training.bundle_options import imagenet_encoder
    from model.training.cross_validation import cross_validate

    for option in ("bundle", "project", "gallery"):
        if getattr(arguments, option) is not None:
            raise SettingsError(f"--folds trains decoders of its own: leave out --{option}")
    options = replace(_bundle_options(arguments, name="fold"), decoding=DecodingOptions(beam_size=settings.beam_size))
    with ProgressDisplay() as show:
        found = cross_validate(
            _caption_source(arguments),
            folds=arguments.folds,
            encoder=imagenet_encoder(arguments.encoder, arguments.image_size),
            weights=None if arguments.weights == "none" else arguments.weights,
            options=options,
            features=Store(arguments.features) if arguments.features else None,
            strict=arguments.strict,
            on_progress=show,
        )
    if arguments.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        print(found.table())
        print(found.left_out.summary())
    return 0


def _caption_source(arguments: argparse.Namespace) -> "CaptionSource":
    from model.caption_files.read import CaptionSource

    return CaptionSource(
        captions=arguments.captions, images=arguments.images, names=arguments.names, split=arguments.split
    )


def _refuse_what_the_base_decides(arguments: argparse.Namespace) -> None:
    written = [option for option in DECIDED_BY_THE_BASE if option in arguments.written]
    if written:
        raise SettingsError(
            f"--from goes on with the encoder and the decoder of {arguments.base}: leave out {', '.join(written)}, or "
            "leave out --from to begin with nothing"
        )


def _bundle_options(
    arguments: argparse.Namespace, *, name: str, recipe: "BundleOptions | None" = None
) -> "BundleOptions":
    """Return what the options of training say, with defaults of a recipe, if there is one, in place of their own."""
    from model.training.bundle_options import BundleOptions
    from model.vision.augmentation import Augmentation

    if recipe is None:
        recipe = BundleOptions()
    else:
        arguments = _with_defaults(arguments, recipe)
    return BundleOptions(
        name=name,
        hidden=arguments.hidden,
        layers=arguments.layers,
        cell=arguments.cell,
        attention=arguments.attention,
        recurrent_regions=arguments.recurrent_regions,
        residual=arguments.residual,
        min_count=arguments.min_count,
        taught_stages=arguments.taught_stages,
        views=arguments.views,
        augmentation=Augmentation(crop=arguments.crop, rotation=arguments.rotation, colour=arguments.colour),
        training=replace(
            recipe.training,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            dropout=arguments.dropout,
            optimizer=arguments.optimizer,
            weight_decay=arguments.weight_decay,
            learning_rate=arguments.learning_rate,
            budget_s=math.inf if arguments.budget_s is None else arguments.budget_s,
            seed=arguments.seed,
        ),
        self_critical=replace(recipe.self_critical, epochs=arguments.reward_epochs, seed=arguments.seed),
    )


def _with_defaults(arguments: argparse.Namespace, recipe: "BundleOptions") -> argparse.Namespace:
    """Return the arguments with the recipe's values for options that were not written."""
    training = recipe.training
    defaults = {
        "--min-count": recipe.min_count,
        "--epochs": training.epochs,
        "--batch-size": training.batch_size,
        "--dropout": training.dropout,
        "--optimizer": training.optimizer,
        "--weight-decay": training.weight_decay,
        "--learning-rate": training.learning_rate,
        "--reward-epochs": recipe.self_critical.epochs,
    }
    unwritten = {
        option.removeprefix("--").replace("-", "_"): value
        for option, value in defaults.items()
        if option not in arguments.written
    }
    return argparse.Namespace(**(vars(arguments) | unwritten))


def _captioner(settings: Settings, arguments: argparse.Namespace) -> "Captioner":
    """Return the bundle's captioner, or the one that serves `--project`."""
    from model.bundle import load_bundle
    from model.captioner import prefer_fast_products
    from model.registry import ModelRegistry
    from model.store import Store

    prefer_fast_products()
    bundle = load_bundle(arguments.bundle or settings.caption_bundle)
    if arguments.project is None:
        return bundle.captioner()
    registry = ModelRegistry(Store(settings.model_store), bundle.version)
    return registry.load(arguments.project, registry.serving(arguments.project), bundle)
