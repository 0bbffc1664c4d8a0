"""The feature store: half precision, by image content and encoder, shared by processes."""

import io
import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import StoreError
from model.store import Store
from model.vision.features import FeatureStore

KEY = "ab" + "0" * 62
PATH = f"features/0123456789ab/ab/{KEY}.npy"


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    return FeatureStore(Store(tmp_path), "0123456789ab")


@pytest.mark.parametrize("is_turned", [False, True])
def test_features_come_back_in_half_precision(features: FeatureStore, is_turned: bool) -> None:
    values = np.random.default_rng(0).standard_normal((8, 49), np.float32).T
    values = values if is_turned else np.ascontiguousarray(values)

    features.put(KEY, values)

    assert _got(features).dtype == np.float16
    assert np.array_equal(_got(features), values.astype(np.float16))
    assert features.store.list() == [PATH]


def test_features_of_another_encoder_are_not_found(features: FeatureStore) -> None:
    features.put(KEY, np.zeros((4, 2), np.float32))

    assert FeatureStore(features.store, "ba9876543210").get(KEY) is None
    assert (features.has(KEY), FeatureStore(features.store, "ba9876543210").has(KEY)) == (True, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not numpy",
        b"PK\x03\x04 a zip",
        npy(np.zeros((4, 2), np.float16))[:-3],
        npy(np.zeros((4, 2), np.float16))[:20],
        npy(np.zeros((4, 2), np.float32)),
        npy(np.zeros(4, np.float16)),
        npy(np.array([{"an": "object"}], dtype=object)),
        pickle.dumps({"an": "object"}),
    ],
)
def test_a_damaged_file_is_reported_and_kept_and_counts_as_missing(
    features: FeatureStore, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    features.store.write(PATH, content)

    with caplog.at_level(logging.WARNING):
        assert features.get(KEY) is None

    assert f"features damaged path={PATH}" in caplog.text
    assert features.store.read(PATH) == content


def test_computing_again_mends_a_damaged_file(features: FeatureStore) -> None:
    features.store.write(PATH, b"damaged")

    features.put(KEY, np.ones((4, 2), np.float32))

    assert np.array_equal(_got(features), np.ones((4, 2), np.float16))


@pytest.mark.parametrize("values", [np.full((1, 1), 1e6), np.full((1, 1), np.nan), np.zeros((1, 2, 3))])
def test_features_that_cannot_be_kept_are_refused(features: FeatureStore, values: NDArray[Any]) -> None:
    with pytest.raises(StoreError, match="features"):
        features.put(KEY, values)


def _put_and_get(location: str) -> None:
    features = FeatureStore(Store(location), "0123456789ab")
    for number in range(40):
        key = f"{number:064x}"
        stored = features.get(key)
        assert stored is None or np.array_equal(stored, np.full((16, 64), number))
        features.put(key, np.full((16, 64), number, np.float32))


def test_several_processes_share_one_store(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_put_and_get, args=(str(tmp_path),)) for _ in range(2)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(Store(tmp_path).list("features/0123456789ab")) == 40


def _got(features: FeatureStore) -> NDArray[np.float16]:
    stored = features.get(KEY)
    assert stored is not None
    return stored
