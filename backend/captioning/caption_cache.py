"""The decoder's captions of the images that were captioned last, so that a page that is opened again costs no decoding.

A caption follows from the image, the version and the options of the search. So nothing is ever out of date: another
version or another setting has entries of its own, and the memory chooses among the captions afterwards.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from backend.protocol.predictions import SuggestedCaption

KEPT = 10_000
"""Images; they take about 20 MB."""

Captions = Sequence[SuggestedCaption]


class CaptionCache:
    """Captions by image; safe to share between threads."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._captions: OrderedDict[Hashable, Captions] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Captions | None:
        with self._lock:
            if key in self._captions:
                self._captions.move_to_end(key)
            return self._captions.get(key)

    def put(self, key: Hashable, captions: Captions) -> None:
        """Keep captions, and forget those that nobody has asked for longest."""
        with self._lock:
            self._captions[key] = captions
            self._captions.move_to_end(key)
            while len(self._captions) > self._kept:
                self._captions.popitem(last=False)
