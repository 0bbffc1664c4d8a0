"""Vectors of a project's images, by which look-alikes are found, and the decoder's captions of corrected images.

    captioner:vectors:<project>:<space>     hash   image key -> vector in half precision
    captioner:decoded:<project>:<version>   hash   image key -> the decoder's captions as JSON, best first

Both are made again from stored features when they are gone or damaged.

Shapes:  P image regions   D feature size   V length of a vector
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.memory.vectors import VectorSpace
from model.vision.features import FeatureStore
from model.vision.files import in_batches
from worker.feedback.script import key

logger = logging.getLogger(__name__)

KEPT_S = 30 * 24 * 3600
"""What nobody has asked for so long is made again when it is needed."""
DECODER_BATCH = 16
DECODER_CAPTIONS = 3
"""Captions of the decoder, at least, that the memory chooses among."""


class ImageVectors:
    """The images of one project. Safe to share between threads and processes."""

    def __init__(self, redis: Redis, project_id: int, space: VectorSpace, features: FeatureStore) -> None:
        self.space = space
        self._redis, self._project_id, self._features = redis, project_id, features
        self._key = f"{key('vectors', project_id)}:{space.name}"

    def features(self, image_key: str) -> NDArray[np.float16] | None:
        """Return the stored features of an image, [P, D], or None."""
        try:
            return self._features.get(image_key)
        except CaptionerError as problem:
            logger.warning("features not read image_key=%s problem=%s", image_key, problem)
            return None

    def find(self, image_keys: Iterable[str]) -> dict[str, NDArray[np.float16]]:
        """Return the vectors [V] of those images whose features are or were stored; new ones are kept.

        Raises:
            RedisError: Redis does not answer.
        """
        wanted = list(dict.fromkeys(image_keys))
        if not wanted:
            return {}
        stored = self._redis.hmget(self._key, wanted)
        found = {
            image_key: np.frombuffer(cast(bytes, content), np.float16)
            for image_key, content in zip(wanted, stored, strict=True)
            if content is not None and len(content) == 2 * self.space.length
        }
        features = {image_key: self.features(image_key) for image_key in wanted if image_key not in found}
        return found | self.keep({name: values for name, values in features.items() if values is not None})

    def keep(self, features: Mapping[str, NDArray[np.float16]]) -> dict[str, NDArray[np.float16]]:
        """Keep and return the vectors of images with these features [P, D]; raises RedisError as `find` does."""
        if not features:
            return {}
        vectors = dict(zip(features, self.space.vectors(list(features.values())), strict=True))
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(self._key, mapping={name: vector.tobytes() for name, vector in vectors.items()})
            pipeline.expire(self._key, KEPT_S)
            pipeline.execute()
        return vectors

    def decoded(
        self, image_keys: Sequence[str], captioner: Captioner, options: DecodingOptions, most: int | None
    ) -> dict[str, list[str]] | None:
        """Return the decoder's captions of each image with stored features; None when `most` is too few to decode.

        Raises:
            RedisError: Redis does not answer.
        """
        if not image_keys:
            return {}
        stored_key = f"{key('decoded', self._project_id)}:{captioner.version}"
        stored = zip(image_keys, self._redis.hmget(stored_key, list(image_keys)), strict=True)
        texts = {name: captions for name, content in stored if (captions := _parse_texts(content))}
        missing = [name for name in image_keys if name not in texts]
        if most is not None and len(missing) > most:
            return None
        for names in in_batches(missing, DECODER_BATCH):
            features = {name: values for name in names if (values := self.features(name)) is not None}
            if not features:
                continue
            decoded = captioner.caption(np.stack(list(features.values())), options, DECODER_CAPTIONS)
            new = {name: [caption.text for caption in of] for name, of in zip(features, decoded, strict=True)}
            texts |= new
            written = [part for name in new for part in (name, json.dumps(new[name], ensure_ascii=False))]
            self._redis.hset(stored_key, items=written)
            self._redis.expire(stored_key, KEPT_S)
        return texts


def _parse_texts(content: bytes | str | None) -> list[str]:
    """Return the captions of an image; none if they are damaged."""
    try:
        return [str(text) for text in json.loads(content or "[]")]
    except (ValueError, TypeError):
        return []
