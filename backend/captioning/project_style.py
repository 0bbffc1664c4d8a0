"""The wording of each project, found anew whenever its memory is judged (model/memory/style.py).

captioner:style-off:<project>    hash   name of a rule that a person switched off -> anything
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from backend.protocol.predictions import SuggestedCaption
from model.captioner import Captioner
from model.memory.expected_words import Expected, expect_words
from model.memory.index import Row
from model.memory.style import COMPARED, StyleRule, find_style, restyle, with_earlier_words
from worker.feedback.layout import run
from worker.feedback.script import key

KEPT = 4 * COMPARED
"""Captions whose expected words are kept. So the next judgement reads only the new corrections with the decoder."""


def read_switched_off(redis: Redis, project_id: int) -> frozenset[str]:
    """Return the names of the rules that people have switched off; raises RedisError."""
    names = redis.hkeys(_key(project_id))
    return frozenset(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def switch_rule(redis: Redis, project_id: int, name: str, *, is_off: bool) -> None:
    """Switch a rule off or on, in all fields; the same again does no harm. Raises RedisError."""
    if is_off:
        redis.hset(_key(project_id), name, 1)
    else:
        redis.hdel(_key(project_id), name)
    # Only now: a suggestion of the new generation counts as one that follows the switch.
    run(redis, project_id, "reword")


class ProjectStyle:
    """The wording of one project. Not safe to share between threads."""

    def __init__(self, redis: Redis, project_id: int, features: Callable[[str], NDArray[np.float16] | None]) -> None:
        """Keep what is needed to read corrections.

        Args:
            redis: knows which rules are switched off.
            project_id: of the project.
            features: returns the stored features of an image, [P, D], or None.
        """
        self._redis, self._project_id, self._features = redis, project_id, features
        self._switched_off: frozenset[str] = frozenset()
        self._expected: OrderedDict[tuple[str, str, str], Expected] = OrderedDict()

    def find(
        self,
        rows: Sequence[Row],
        decoded: Mapping[str, Sequence[str]],
        captioner: Captioner,
        earlier: Iterable[StyleRule] = (),
    ) -> tuple[StyleRule, ...]:
        """Return the rules that corrections show, and earlier ones that they do not contradict.

        Args:
            rows: the corrections, oldest first.
            decoded: the decoder's captions by image key, best first. Other images are left out.
            captioner: of the serving version.
            earlier: rules that this version had before.
        """
        used = [row for row in rows if row.image_key in decoded][-COMPARED:]
        keys = [row.image_key for row in used]

        def expect(captions: Sequence[str]) -> list[Expected]:
            return self._expect(captioner, list(zip(keys, captions, strict=True)))

        theirs = [row.caption for row in used]
        rules = find_style(theirs, [decoded[image_key][0] for image_key in keys], expect)
        return with_earlier_words(rules, earlier, theirs)

    def refresh(self) -> None:
        """Ask which rules people have switched off; raises RedisError where Redis does not answer."""
        self._switched_off = read_switched_off(self._redis, self._project_id)

    def restyle(self, captions: Sequence[SuggestedCaption], rules: Iterable[StyleRule]) -> list[SuggestedCaption]:
        """Return captions in the wording of the rules that are not switched off, each text once."""
        used = [rule for rule in rules if rule.name not in self._switched_off]
        restyled = [replace(caption, text=restyle(caption.text, used)) for caption in captions]
        return list({caption.text: caption for caption in reversed(restyled)}.values())[::-1]

    def _expect(self, captioner: Captioner, captions: Sequence[tuple[str, str]]) -> list[Expected]:
        """Return what the decoder expects at the words of the captions, each with the key of its image.

        Nothing is expected of an image whose features are gone.
        """
        version = captioner.version
        remembered = {caption: self._expected.get((version, *caption)) for caption in captions}
        features = {
            caption: values
            for caption, expected in remembered.items()
            if expected is None and (values := self._features(caption[0])) is not None
        }
        new = expect_words(captioner, list(features.values()), [text for _, text in features])
        self._expected |= {(version, *caption): words for caption, words in zip(features, new, strict=True)}
        expected = [self._expected.get((version, *caption), ()) for caption in captions]
        while len(self._expected) > KEPT:
            self._expected.popitem(last=False)
        return expected


def _key(project_id: int) -> str:
    return key("style-off", project_id)
