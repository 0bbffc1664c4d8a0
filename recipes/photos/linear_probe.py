"""How well an encoder tells which words people use for a photo: a linear probe from the mean of its regions.

    python -m recipes.photos.linear_probe --data DIR --weights FILE [FILE ...]

Each is the file of a teacher (`teachers.py`), the `encoder.safetensors` of a mobilenet_v2 that was distilled, or a
bundle, whose encoder is measured. For each of
the 300 most frequent words of the training captions, ridge regression predicts whether any caption of a photo has it.
The number is the mean over the words of the average precision on photos that were not learned from.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from model.bundle import load_bundle
from model.caption_files.read import CaptionedImage
from model.metrics.words import metric_words
from model.training.bundle_options import imagenet_encoder
from model.training.optimization import reduced_precision
from model.vision.encoder import build_encoder
from model.vision.images import decode_image
from recipes.photos.photo_sets import PhotoSets
from recipes.photos.teachers import load_teacher

WORDS = 300
UNUSUAL = 0.5
"""Words in a larger share of the photos, such as "a", are left out."""
BATCH = 32
RIDGES = (0.01, 0.1, 1.0)
"""Relative to the mean variance of the features; the best is reported."""

Numbers = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="linear_probe", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of flickr8k/ and coco-mixed/")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="encoders to compare")
    arguments = parser.parse_args(argv)
    sets = PhotoSets(folder=arguments.data)
    splits = {
        "flickr8k": (sets.flickr8k("train"), sets.flickr8k("dev")),
        "coco-mixed": (sets.coco("train"), sets.coco("dev")),
    }
    print(f"{'encoder':40} " + " ".join(f"{name:>10}" for name in splits))
    for weights in arguments.weights:
        network = _network(weights)
        scores = [probe(network, *split) for split in splits.values()]
        print(f"{weights.name:40} " + " ".join(f"{score:10.3f}" for score in scores), flush=True)
    return 0


def probe(network: nn.Module, learned: Sequence[CaptionedImage], judged: Sequence[CaptionedImage]) -> float:
    """Return the mean average precision of the words, 0 to 1."""
    words = frequent_words(learned)
    features, others = pooled(network, learned), pooled(network, judged)
    mean, scale = features.mean(0), features.std(0) + 1e-6
    features, others = (features - mean) / scale, (others - mean) / scale
    labels, truth = has_words(learned, words), has_words(judged, words)
    covariance, target = features.T @ features / len(features), features.T @ (labels - labels.mean(0)) / len(features)
    best = 0.0
    for ridge in RIDGES:
        weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), target)
        best = max(best, mean_average_precision(others @ weights, truth))
    return best


def frequent_words(images: Sequence[CaptionedImage]) -> list[str]:
    """Return the WORDS most frequent words that are not in most photos."""
    counts = Counter(word for image in images for word in _words(image))
    usual = (word for word, count in counts.most_common() if count < UNUSUAL * len(images))
    return [word for word, _ in zip(usual, range(WORDS), strict=False)]


def has_words(images: Sequence[CaptionedImage], words: Sequence[str]) -> Numbers:
    """Return 1 where a caption of the photo has the word, else 0, [photos, words]."""
    rows = [_words(image) for image in images]
    return np.array([[float(word in row) for word in words] for row in rows])


def mean_average_precision(scores: Numbers, truth: Numbers) -> float:
    """Return the mean over the columns that have a 1 of the average precision of the scores."""
    ranked = np.take_along_axis(truth, np.argsort(-scores, axis=0), axis=0)
    precision = np.cumsum(ranked, axis=0) / np.arange(1, len(ranked) + 1)[:, None]
    found = ranked.sum(0)
    averages = (precision * ranked).sum(0)[found > 0] / found[found > 0]
    return float(averages.mean())


@torch.inference_mode()
def pooled(network: nn.Module, images: Sequence[CaptionedImage]) -> Numbers:
    """Return the mean over the regions of each photo's feature map, [photos, channels]."""
    preprocessing = imagenet_encoder().preprocessing

    def read(image: CaptionedImage) -> torch.Tensor:
        return torch.from_numpy(preprocessing(decode_image(image.file.read_bytes())))

    means = []
    with ThreadPoolExecutor(2) as readers:
        for start in tqdm(range(0, len(images), BATCH), desc="encode", mininterval=5, leave=False):
            pixels = torch.stack([*readers.map(read, images[start : start + BATCH])])
            with reduced_precision():
                grid = network(pixels.contiguous(memory_format=torch.channels_last))
            means.append(grid.float().mean((2, 3)).double().numpy())
    return np.concatenate(means)


def _network(weights: Path) -> nn.Module:
    if not weights.suffix:
        return load_bundle(str(weights)).encoder.network
    if weights.suffix == ".safetensors":
        return build_encoder(imagenet_encoder(), weights).network
    return load_teacher(weights).network


def _words(image: CaptionedImage) -> frozenset[str]:
    return frozenset(word for caption in image.captions for word in metric_words(caption))


if __name__ == "__main__":
    raise SystemExit(main())
