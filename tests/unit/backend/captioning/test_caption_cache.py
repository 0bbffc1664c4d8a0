"""Captions of images that were captioned last are kept."""

from backend.captioning.caption_cache import CaptionCache
from backend.protocol.predictions import SuggestedCaption

CAPTIONS = [SuggestedCaption(text="a dog", score=0.5, own_score=0.5)]


def test_captions_are_kept_by_their_key() -> None:
    cache = CaptionCache()

    cache.put(("version", "image"), CAPTIONS)

    assert cache.get(("version", "image")) == CAPTIONS
    assert cache.get(("another version", "image")) is None


def test_those_that_nobody_has_asked_for_longest_go_first() -> None:
    cache = CaptionCache(kept=2)
    cache.put("a", CAPTIONS)
    cache.put("b", CAPTIONS)
    cache.get("a")

    cache.put("c", CAPTIONS)

    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]
