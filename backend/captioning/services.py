"""What lives as long as the process and is shared by its requests."""

import threading
from dataclasses import dataclass

from redis import Redis

from backend.captioning.serving_versions import ServingCaptioners
from backend.images.task_images import PictureReader
from backend.metrics import Metrics
from backend.sync.new_projects import Newcomers
from model.store import Store
from worker.feedback.corrections import CorrectionInbox
from worker.feedback.ledger_records import LedgerRecords
from worker.feedback.suggestions import SuggestionLog
from worker.settings import Settings

EXTENSION = "captioner"


@dataclass(frozen=True, kw_only=True)
class CaptioningParts:
    """What lives as long as the process; kept in `app.extensions`, because Label Studio's objects live one request."""

    settings: Settings
    redis: Redis
    store: Store
    captioners: ServingCaptioners
    pictures: PictureReader
    newcomers: Newcomers
    metrics: Metrics
    seats: threading.Semaphore
    """One for each thread that may compute at the same time."""

    @property
    def inbox(self) -> CorrectionInbox:
        return CorrectionInbox(self.redis)

    @property
    def suggestions(self) -> SuggestionLog:
        return SuggestionLog(self.redis)

    @property
    def ledger(self) -> LedgerRecords:
        return LedgerRecords(self.redis)
