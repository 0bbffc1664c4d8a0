"""Keeps the features in the model store within KEEP_FEATURES_GB, a part at a time, beside everything else.

captioner:features-tidied   text   number of parts that were looked at so far, by all workers together
"""

import logging
import threading

from redis import Redis
from redis.exceptions import RedisError

from model.errors import StoreError
from model.store import Store
from model.vision.features import PARTS, prune_features
from worker.feedback.feedback_store import FeedbackStore
from worker.redis_client import connect
from worker.settings import Settings

logger = logging.getLogger(__name__)

TIDIED_KEY = "captioner:features-tidied"
LOOK_EVERY_S = 30.0
"""A worker looks at all parts in two hours."""
GB = 10**9


def tidy_features_beside(settings: Settings) -> None:
    """Remove the oldest features beyond the bound for as long as this process lives, in a thread of its own."""
    threading.Thread(target=_tidy_on, args=(settings,), name="features", daemon=True).start()


def _tidy_on(settings: Settings) -> None:
    redis, pause = connect(settings.redis_url), threading.Event()
    while True:
        pause.wait(LOOK_EVERY_S)
        try:
            tidy_next_part(redis, settings)
        except (RedisError, StoreError) as problem:
            logger.warning("features not tidied problem=%s", problem)
        except Exception:
            logger.exception("features not tidied")  # a single odd record must not end the thread


def tidy_next_part(redis: Redis, settings: Settings) -> int:
    """Look at the next part; return the number of files that were removed.

    Features of corrected images stay, because trainings read them and their images may be gone.

    Raises:
        RedisError: Redis does not answer.
        StoreError: the model store cannot be read or written.
    """
    part = (int(redis.incr(TIDIED_KEY)) - 1) % PARTS

    def corrected() -> set[str]:
        feedback = FeedbackStore(redis)
        records = (record for project_id in feedback.known_projects() for record in feedback.newest_first(project_id))
        keys = (record.image_key for record in records if record.image_key is not None)
        return {image_key for image_key in keys if image_key.startswith(f"{part:02x}")}

    removed = prune_features(Store(settings.model_store), part, settings.keep_features_gb * GB, corrected)
    if removed:
        logger.info("features removed part=%s files=%s bound_gb=%s", part, removed, settings.keep_features_gb)
    return removed
