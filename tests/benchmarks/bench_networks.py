"""Compares decoders, optimizers, vocabularies and rewards, each trained on the same features of the same photos.

    make bench-networks ARGS="--captions Flickr8k.token.txt --images images --train train.txt --dev dev.txt
        --test test.txt --weights mobilenet_v2.pth --features store"

Every finished row is printed and appended to `--rows`. A run with the same settings skips the rows that are there, so
after a kill the same command continues. All decoders train for the same number of epochs without mirrored images, at
a learning rate that suits the optimizer. Each keeps the epoch with the lowest loss on the dev images. Rewards follow
where the row says so.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from model.caption_files.read import CaptionSource
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.metrics.faults import Usage, caption_faults, caption_words
from model.metrics.scores import measure
from model.progress import ProgressDisplay
from model.store import Store
from model.torch_captioner import TorchCaptioner, prefer_fast_products
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.cross_validation import caption_examples, measure_examples
from model.training.examples import CaptionedExample, ExampleReader
from model.training.fitting import fit_captions
from model.training.rewards import SelfCriticalOptions
from model.vision.encoder import Encoder, as_stored, build_encoder
from model.vision.trainable_stages import split_encoder

COLUMNS = "decoder                             parameters  dev CIDEr-D  BLEU-1  BLEU-4  CIDEr-D  faults  minutes"
REWARDS = SelfCriticalOptions(epochs=2)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row of the table."""

    decoder: str
    network: dict[str, Any] = field(default_factory=dict)
    """BundleOptions that differ from those of one LSTM layer with attention."""
    optimizer: str = "adamw"
    learning_rate: float = 2e-3


CONTESTANTS = (
    Contestant(decoder="tanh RNN", network={"cell": "rnn"}),
    Contestant(decoder="GRU", network={"cell": "gru"}),
    Contestant(decoder="LSTM"),
    Contestant(decoder="LSTM with peepholes", network={"cell": "peephole"}),
    Contestant(decoder="LSTM without attention", network={"attention": False}),
    Contestant(decoder="LSTM, 2 layers", network={"layers": 2}),
    Contestant(decoder="LSTM, 3 layers, residual", network={"layers": 3, "residual": True}),
    Contestant(decoder="LSTM, recurrent regions", network={"recurrent_regions": True}),
    Contestant(decoder="Transformer, 2 layers", network={"cell": "transformer", "layers": 2}, learning_rate=1e-3),
    Contestant(decoder="LSTM, all words", network={"min_count": 1}),
    Contestant(decoder="LSTM, words seen 10 times", network={"min_count": 10}),
    Contestant(decoder="LSTM, rewarded", network={"self_critical": REWARDS}),
    Contestant(
        decoder="LSTM, rewarded, faults punished", network={"self_critical": replace(REWARDS, fault_penalty=0.5)}
    ),
    Contestant(
        decoder="GRU, rewarded, faults punished",
        network={"cell": "gru", "self_critical": replace(REWARDS, fault_penalty=0.5)},
    ),
    Contestant(decoder="LSTM by SGD with momentum", optimizer="sgd", learning_rate=0.3),
    Contestant(decoder="LSTM by Adagrad", optimizer="adagrad", learning_rate=0.02),
    Contestant(decoder="LSTM by RMSprop", optimizer="rmsprop", learning_rate=1e-3),
    Contestant(decoder="LSTM by Adam", optimizer="adam"),
)
"""The row `LSTM` is trained by AdamW."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """The photos that every decoder learns from and is measured on."""

    encoder: Encoder
    train: list[CaptionedExample]
    dev: list[CaptionedExample]
    test: list[CaptionedExample]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    prefer_fast_products()
    chosen = [entry for entry in CONTESTANTS if not arguments.only or entry.decoder in arguments.only]
    with ProgressDisplay() as show:
        photos = read_photos(arguments, show)
        counts = f"{len(photos.train)} photos to learn from, {len(photos.dev)} dev, {len(photos.test)} test"
        print(f"{counts}; {arguments.epochs} epochs, hidden {arguments.hidden}\n{COLUMNS}", flush=True)
        rows = []
        for contestant in chosen:
            settings = settings_of(contestant, photos, arguments)
            row = known_row(arguments.rows, settings)
            if row is None:
                try:
                    row = {**measure_row(contestant, photos, arguments, show), "settings": settings}
                except TrainingError as error:
                    print(f"{contestant.decoder:34} {error}", flush=True)
                    continue
                append_row(arguments.rows, row)
            print(line(row), flush=True)
            rows.append(row)
    print(json.dumps({"bars": bars(rows)}))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_networks", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--captions", type=Path, required=True, help="captions file, as `captioner train` takes it")
    parser.add_argument("--images", type=Path, required=True, help="directory of the images")
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", type=Path, required=True, help="list of image names, one per line")
    parser.add_argument("--encoder", default="mobilenet_v2", help="torchvision network (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (%(default)s)")
    parser.add_argument("--weights", required=True, help="of the encoder, as `captioner train` takes them")
    parser.add_argument("--features", required=True, help="directory that keeps the images' features between runs")
    parser.add_argument("--rows", type=Path, default=Path(".bench/networks.jsonl"), help="finished rows (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="%(default)s")
    parser.add_argument("--hidden", type=int, default=256, help="%(default)s")
    parser.add_argument("--beam", type=int, default=3, help="%(default)s")
    parser.add_argument("--limit", type=int, help="photos to learn from, and a fifth as many to measure on (all)")
    names = [contestant.decoder for contestant in CONTESTANTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="DECODER", help=f"of: {'; '.join(names)}")
    return parser.parse_args(argv)


def read_photos(arguments: argparse.Namespace, show: ProgressDisplay) -> Photos:
    encoder = as_stored(build_encoder(imagenet_encoder(arguments.encoder, arguments.size), arguments.weights))
    reader = ExampleReader(encoder, features=Store(arguments.features), on_progress=show)

    def read(train: Path, held_out: Path) -> tuple[list[CaptionedExample], list[CaptionedExample]]:
        learned, measured = (
            CaptionSource(captions=arguments.captions, images=arguments.images, names=names)
            for names in (train, held_out)
        )
        return reader.read(learned, measured, 2)

    train, dev = read(arguments.train, arguments.dev)
    _, test = read(arguments.dev, arguments.test)
    few = None if arguments.limit is None else max(2, arguments.limit // 5)
    return Photos(encoder=encoder, train=train[: arguments.limit], dev=dev[:few], test=test[:few])


def settings_of(contestant: Contestant, photos: Photos, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return everything that a row depends on, in the form that is read back from JSON."""
    return {
        **asdict(contestant),
        "epochs": arguments.epochs,
        "hidden": arguments.hidden,
        "beam": arguments.beam,
        "photos": [len(photos.train), len(photos.dev), len(photos.test)],
        "encoder": f"{arguments.encoder} {photos.encoder.fingerprint}",
    }


def known_row(rows: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row that was measured before; skip a line that a kill cut off."""
    lines = rows.read_text("utf-8").splitlines() if rows.exists() else []
    for text in filter(None, lines):
        try:
            row: dict[str, Any] = json.loads(text)
        except ValueError:
            print(f"{rows}: a broken line is skipped: {text[:40]}", file=sys.stderr)
            continue
        if row["settings"] == settings:
            return row
    return None


def append_row(rows: Path, row: dict[str, Any]) -> None:
    """Append the row on a new line, even after a line that a kill cut off."""
    rows.parent.mkdir(parents=True, exist_ok=True)
    with rows.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(row)}")


def measure_row(
    contestant: Contestant, photos: Photos, arguments: argparse.Namespace, show: ProgressDisplay
) -> dict[str, Any]:
    started = time.monotonic()
    recipe = BundleOptions(
        hidden=arguments.hidden, layers=1, taught_stages=0, views=1, self_critical=SelfCriticalOptions(epochs=0)
    )
    training = replace(
        recipe.training,
        epochs=arguments.epochs,
        patience=arguments.epochs,
        dropout=0.3,
        optimizer=contestant.optimizer,
        learning_rate=contestant.learning_rate,
    )
    options = replace(recipe, training=training, **contestant.network)
    below, stages = split_encoder(photos.encoder, 0)
    tokenizer, decoder, record = fit_captions(photos.train, photos.dev, below, stages, options, show)
    captioner = TorchCaptioner(photos.encoder, decoder, tokenizer, contestant.decoder)
    decoding = DecodingOptions(beam_size=arguments.beam)
    dev = measure_examples(captioner, stages, photos.dev, decoding, show)
    captions = caption_examples(captioner, stages, photos.test, decoding, show)
    test = measure(captions, [example.image.captions for example in photos.test])
    usage = Usage.of(caption_words(caption) for example in photos.train for caption in example.image.captions)
    return {
        "decoder": contestant.decoder,
        "parameters": sum(value.numel() for value in decoder.parameters()),
        "dev_cider_d": dev.cider_d,
        "test": asdict(test),
        "faults": fmean(bool(caption_faults(caption_words(caption), usage)) for caption in captions),
        "minutes": (time.monotonic() - started) / 60,
        "training": record,
    }


def line(row: dict[str, Any]) -> str:
    test = row["test"]
    metrics = f"{100 * test['bleu_1']:7.1f} {100 * test['bleu_4']:7.1f} {100 * test['cider_d']:8.1f}"
    start = f"{row['decoder']:34} {row['parameters']:11,} {100 * row['dev_cider_d']:12.1f}"
    return f"{start} {metrics} {row['faults']:7.1%} {row['minutes']:8.1f}"


def bars(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | bool]]:
    """Return the CIDEr-D of the LSTM divided by that of the LSTM without attention; empty unless both were measured."""
    scores = {row["decoder"]: row["test"]["cider_d"] for row in rows}
    plain = scores.get("LSTM without attention")
    if "LSTM" not in scores or not plain:
        return {}
    times = round(scores["LSTM"] / plain, 3)
    return {"attention_x_none_cider_d": {"value": times, "bar": 1.0, "holds": times > 1.0}}


if __name__ == "__main__":
    main()
