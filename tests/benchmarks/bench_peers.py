"""Measures decoding, encoding and training beside peers: same sizes, same weights, captions compared.

    python -m tests.benchmarks.bench_peers [--only decoding encoding training] [--flickr8k DIR]

Beside: a plain attention LSTM in PyTorch, this product's decoder in torch (as in 2f7b206, but for the search), and text
decoders of transformers, which are installed into .bench/peers. With --flickr8k the captions of the test photos in 8
bits are compared with those in single precision.

Shapes:  B images   P regions   D feature size
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import arrays, load_bundle
from model.captioned_features import CaptionedFeatures
from model.decoders.recurrent import AttentionDecoder
from model.decoders.search import DecodingOptions, WordDecoder, beam_search
from model.decoders.sizes import DecoderSizes
from model.manifest import bundle_path
from model.metrics.cider import CiderD
from model.metrics.words import metric_words
from model.runtime.onnx_decoder import OnnxDecoder
from model.runtime.serving_bundle import ServingBundle
from model.tokenizer import END, Tokenizer, caption_tokens
from model.torch_captioner import prefer_fast_products
from model.training.batches import padded
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from model.vision.files import encode_files
from model.vision.trunks import feature_trunk
from tests.benchmarks.peers.plain_reference import PlainReference

BEAMS, WORDS = 3, 20
OPTIONS = DecodingOptions(beam_size=BEAMS, max_tokens=WORDS)
PEERS = Path(".bench/peers")
SIZES = {
    "published: 14x14x512, 512, 10,000 words": (196, DecoderSizes(vocabulary=10_000, features=512)),
    "photos: 7x7x1280, 2 layers, 3,474 words": (
        49,
        DecoderSizes(vocabulary=3474, features=1280, attention=256, layers=2),
    ),
}
MEASURED_S = 4.0
BATCH = 64
"""Captions of a training step."""
PARTS = ("decoding", "encoding", "training")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_peers", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--flickr8k", type=Path, help="directory of Flickr8k, to compare captions of its test photos")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    prefer_fast_products()  # tutorials could use this setting too
    print(f"{os.cpu_count()} cores, {cpu_name()}, {torch.backends.cpu.get_cpu_capability()}")
    bars: dict[str, tuple[float, float, bool]] = {}
    if "decoding" in arguments.only:
        bars |= measure_decoding()
    if "encoding" in arguments.only:
        bars |= measure_encoding()
    if "training" in arguments.only:
        bars |= measure_training()
    if arguments.flickr8k:
        bars |= compare_captions(arguments.flickr8k)
    report = {
        name: {"value": round(value, 3), "bar": bar, "holds": value >= bar if at_least else value <= bar}
        for name, (value, bar, at_least) in bars.items()
    }
    print(json.dumps({"bars": report}))


def measure_decoding() -> dict[str, tuple[float, float, bool]]:
    peers = transformers_rates((1, 32))
    fastest = max(rate for name, rate in peers.items() if name.endswith("/32"))
    print(f"\n{'captions per second, beam 3, 20 words':44} {'batch':>5} {'rate':>8} {'x plain':>8} {'x torch':>8}")
    for name, rate in peers.items():
        print(f"{name.partition('/')[0]:44} {name.partition('/')[2]:>5} {rate:8.1f}")
    bars: dict[str, tuple[float, float, bool]] = {}
    for title, (regions, sizes) in SIZES.items():
        rates = decoding_rates(regions, sizes)
        print(title)
        for (name, batch), rate in rates.items():
            torch_rate = rates["our decoder in torch", batch]
            row = f"{rate:8.1f} {rate / rates['plain reference', 1]:8.1f} {rate / torch_rate:8.1f}"
            print(f"  {name:42} {batch:5} {row}")
        key = title.partition(":")[0]
        one, many = rates["8 bits", 1], rates["8 bits", 32]
        bars |= {
            f"{key}_batch_1_x_plain": (one / rates["plain reference", 1], 25.0, True),
            f"{key}_batch_1_x_torch": (one / rates["our decoder in torch", 1], 8.0, True),
            f"{key}_batch_32_x_fastest_peer": (many / fastest, 10.0, True),
            f"{key}_batch_32_x_torch": (many / rates["our decoder in torch", 32], 4.0, True),
        }
    return bars


def decoding_rates(regions: int, sizes: DecoderSizes) -> dict[tuple[str, int], float]:
    """Return captions per second by name and batch. Stops if single precision writes other captions than torch."""
    decoder = AttentionDecoder(sizes).eval()
    with torch.no_grad():
        for values in decoder.parameters():
            values.mul_(2.0)  # random weights hardly prefer a word; so near ties are rare
        decoder.bias[END] = -1e9  # no caption ends early
    weights = arrays(decoder)
    features = np.random.default_rng(0).normal(size=(32, regions, sizes.features)).astype(np.float32)
    plain = PlainReference(decoder)
    single, integers = OnnxDecoder(sizes, weights, "float32"), OnnxDecoder(sizes, weights)
    compare(features[:8], plain, decoder, single)
    rates = {("plain reference", 1): per_second(lambda: plain.caption(torch.from_numpy(features[0]), BEAMS, WORDS), 1)}
    decoders: dict[str, WordDecoder] = {
        "our decoder in torch": decoder,
        "single precision": single,
        "8 bits": integers,
    }
    for name, made in decoders.items():
        for batch in (1, 32):
            rates[name, batch] = per_second(lambda m=made, b=batch: search(m, features[:b]), batch)  # type: ignore[misc]
    return rates


def compare(features: NDArray[np.float32], plain: PlainReference, ours: WordDecoder, single: WordDecoder) -> None:
    """Stop unless the plain reference, torch and single precision write the same captions."""
    expected = [tuple(plain.caption(torch.from_numpy(image), BEAMS, WORDS)) for image in features]
    for name, decoder in {"torch": ours, "single precision": single}.items():
        written = [hypotheses[0].token_ids for hypotheses in beam_search(decoder, features, OPTIONS)]
        if written != expected:
            raise SystemExit(f"{name} writes other captions than the plain reference")


def search(decoder: WordDecoder, features: NDArray[np.float32]) -> None:
    """Caption images; those of a batch in two threads, as the backend does."""
    if len(features) == 1 or not isinstance(decoder, OnnxDecoder):
        beam_search(decoder, features, OPTIONS)
        return
    halves = np.array_split(features, os.cpu_count() or 1)
    with ThreadPoolExecutor(len(halves)) as threads:
        list(threads.map(lambda half: beam_search(decoder, half, OPTIONS), halves))


def measure_encoding() -> dict[str, tuple[float, float, bool]]:
    """Compare the encoder of the photos bundle with torchvision's network in eager mode."""
    bundle = ServingBundle(bundle_path("photos"))
    theirs = feature_trunk(bundle.encoder.spec.name, None).eval()
    theirs.load_state_dict(load_bundle("photos").encoder.network.state_dict())
    pixels = np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        grid = theirs(torch.from_numpy(pixels)).flatten(2).transpose(1, 2).numpy()
    error = float(np.abs(bundle.encoder.encode(list(pixels)) - grid).max() / np.abs(grid).max())
    print(f"\n{'images per second':44} {'batch':>5} {'rate':>8}")
    rates = {}
    for batch in (1, 8):
        images = pixels[:batch]
        rates["torchvision", batch] = per_second(lambda: eager(theirs, images), batch)  # noqa: B023
        rates["ours", batch] = per_second(lambda: encode(bundle, images), batch)  # noqa: B023
    for (name, batch), rate in rates.items():
        print(f"{name:44} {batch:5} {rate:8.1f}")
    return {
        "encoder_batch_1_x_eager": (rates["ours", 1] / rates["torchvision", 1], 3.0, True),
        "encoder_batch_8_x_eager": (rates["ours", 8] / rates["torchvision", 8], 5.0, True),
        "encoder_relative_error": (error, 1e-3, False),
    }


def eager(network: torch.nn.Module, images: NDArray[np.float32]) -> None:
    with torch.inference_mode():
        network(torch.from_numpy(images))


def encode(bundle: ServingBundle, images: NDArray[np.float32]) -> None:
    """Encode images; several in two threads, as the backend does."""
    halves = np.array_split(images, min(len(images), os.cpu_count() or 1))
    with ThreadPoolExecutor(len(halves)) as threads:
        list(threads.map(lambda half: bundle.encoder.encode(list(half)), halves))


def measure_training() -> dict[str, tuple[float, float, bool]]:
    """Compare steps of teacher forcing on stored features: the replayed captions of the photos bundle."""
    replay = load_bundle("photos").replay[:BATCH]
    tokenizer = load_bundle("photos").tokenizer
    print(f"\n{f'captions per second in training, batch {BATCH}':44} {'rate':>8} {'x plain':>8}")
    bars: dict[str, tuple[float, float, bool]] = {}
    for title, (regions, sizes) in SIZES.items():
        noise = torch.randn(len(replay), regions, sizes.features).half()
        examples = [replace(example, features=noise[place]) for place, example in enumerate(replay)]
        rates = {}
        for name, train in {"plain reference": train_plainly, "ours": train_ours}.items():
            decoder = AttentionDecoder(sizes)
            rates[name] = per_second(lambda: train(decoder, tokenizer, examples), BATCH)  # noqa: B023
        print(title)
        for name, rate in rates.items():
            print(f"  {name:42} {rate:8.1f} {rate / rates['plain reference']:8.1f}")
        bars[f"{title.partition(':')[0]}_training_x_plain"] = rates["ours"] / rates["plain reference"], 8.0, True
    return bars


def train_plainly(decoder: AttentionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]) -> None:
    """Take a step as tutorials do: in single precision, the captions sorted by length."""
    decoder.train()
    optimizer = torch.optim.Adam(decoder.parameters(), 4e-4)
    captions = [(caption_tokens(tokenizer, example.caption), example.features) for example in examples]
    captions.sort(key=lambda caption: -len(caption[0]))
    tokens = padded([read for read, _ in captions])
    features = torch.stack([features for _, features in captions]).float()
    loss = PlainReference(decoder).loss(features, tokens, [len(read) - 1 for read, _ in captions])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
    optimizer.step()


def train_ours(decoder: AttentionDecoder, tokenizer: Tokenizer, examples: Sequence[CaptionedFeatures]) -> None:
    """Take a step as a retraining does."""
    options = TrainingOptions(
        epochs=1, batch_size=BATCH, dropout=0.0, label_smoothing=0.0, learning_rate=4e-4, reduced_precision=True
    )
    fit_decoder(decoder, tokenizer, examples, [], options)


def compare_captions(flickr8k: Path) -> dict[str, tuple[float, float, bool]]:
    """Compare captions of the test photos in 8 bits with those in single precision by torch."""
    ours, theirs = ServingBundle(bundle_path("photos")).captioner(), load_bundle("photos").captioner()
    names = (flickr8k / "Flickr_8k.testImages.txt").read_text().split()
    files = [flickr8k / "images" / name for name in names if (flickr8k / "images" / name).exists()]
    captions = []
    for captioner in (ours, theirs):
        features = np.stack([f.features for f in encode_files(captioner.encoder, files) if f.features is not None])
        batches = [features[start : start + 32] for start in range(0, len(features), 32)]
        written = [of for batch in batches for of in captioner.caption(batch, DecodingOptions())]
        captions.append([of_image[0].text for of_image in written])
    lines = [line.split("\t") for line in (flickr8k / "Flickr8k.token.txt").read_text().splitlines()]
    references: dict[str, list[Any]] = {file.name: [] for file in files}
    for name, caption in lines:
        if (image := name.partition("#")[0]) in references:
            references[image].append(metric_words(caption))
    cider = CiderD(list(references.values()))
    scores = [
        100 * float(np.mean([cider.score(at, metric_words(text)) for at, text in enumerate(of)])) for of in captions
    ]
    differ = float(np.mean([a != b for a, b in zip(*captions, strict=True)]))
    print(
        f"\n{len(files)} test photos: {differ:.2%} of the captions differ, CIDEr-D {scores[0]:.2f} and {scores[1]:.2f}"
    )
    return {
        "captions_that_differ": (differ, 0.01, False),
        "cider_d_difference": (abs(scores[0] - scores[1]), 0.2, False),
    }


def transformers_rates(batches: Sequence[int]) -> dict[str, float]:
    """Return captions per second of transformers' decoders, by name and batch."""
    if not (PEERS / "transformers").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(PEERS), "transformers"]
        subprocess.run(command, check=True)
    script = Path(__file__).parent / "peers" / "transformers_decoders.py"
    command = [sys.executable, str(script), str(BEAMS), str(WORDS), *map(str, batches)]
    environ = os.environ | {"PYTHONPATH": str(PEERS.absolute())}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peers could not be measured: {done.stderr.strip()}")
    rates: dict[str, float] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return rates


def per_second(work: Callable[[], object], images: int) -> float:
    """Return images per second of `work`, after one warm-up."""
    work()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_S:
        work()
        rounds += 1
    return images * rounds / (time.perf_counter() - began)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
