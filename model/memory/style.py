"""The wording of a project, learned without training: what annotators write and our captions do not.

The captions of annotators are compared with ours as two sets, never word by word: two people who describe one image
use different words in different places anyway.

    begins with    words that nearly all their captions begin with, and hardly any of ours
    first letter   a small letter or a capital
    last sign      such as a full stop
    word           a word of theirs that the decoder does not expect, for one that it expects and they do not write

    our and their captions -> rules of form -> their captions in our form -> what the decoder expects at their words
                           -> word rules (model/memory/word_pairs.py) that save word edits
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from model.memory.expected_words import Expected
from model.memory.word_pairs import HARDLY, MIN_SUPPORT, WordPair, find_pairs, is_known
from model.metrics.scores import word_edits
from model.metrics.words import metric_words

COMPARED = 128
"""The newest corrections that are compared."""
MIN_SHARE = 0.8
"""Share of the corrections concerned that a rule must suit; the others may be mistakes."""
SLIPS = 1
"""Uses of a word that its replacement survives."""
MAX_BEGINNING = 8
"""Words of the longest beginning that is looked for."""
FEWEST_ONE_WORD = 10
"""Corrections that must show a beginning of one word: with fewer, "The" may be chance."""

Kind = Literal["begins with", "first letter", "last sign", "word"]
SMALL, CAPITAL = "small", "capital"

_ENDING = re.compile(r"[\s.!?;,。！？…]*$")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class StyleRule:
    """One difference between the captions of annotators and ours."""

    kind: Kind
    before: str
    """What our captions have; empty where they lack something."""
    after: str
    """What annotators have."""
    support: int
    """Corrections that show it."""
    applicable: int
    """Corrections that could have shown it."""

    @property
    def name(self) -> str:
        """Stays the same while more corrections come."""
        return f"{self.kind}: {self.after}" if self.kind != "word" else f"word: {self.before} -> {self.after}"

    def __str__(self) -> str:
        what = {
            "word": f'"{self.before}" -> "{self.after}"',
            "begins with": f'begins with "{self.after}"',
            "first letter": f"begins with a {self.after} letter",
            "last sign": f'ends with "{self.after}", not with "{self.before}"',
        }
        return f"{what[self.kind]} ({self.support} of {self.applicable} corrections)"


def find_style(
    theirs: Sequence[str], ours: Sequence[str], expect: Callable[[Sequence[str]], Sequence[Expected]]
) -> tuple[StyleRule, ...]:
    """Return the rules that turn our captions into the wording of theirs.

    Args:
        theirs: captions of annotators, oldest first.
        ours: the decoder's caption of each of these images.
        expect: returns what the decoder expects at the words of captions. It is called once at most, with the newest
            COMPARED of `theirs` in the form of ours.
    """
    theirs, ours = [caption.strip() for caption in theirs[-COMPARED:]], ours[-COMPARED:]
    if len(theirs) < MIN_SUPPORT or not _differ(theirs) or not _is_same_language(theirs, ours):
        return ()
    beginning = _beginning_rule(theirs, ours)
    form = [rule for rule in (beginning, _letter_rule(theirs, ours), _ending_rule(theirs, ours)) if rule]
    bare = [_unbegun(caption, beginning.after) if beginning else caption for caption in theirs]
    letter, ending = _most_common(map(_letter, ours)), _most_common(map(_ending, ours))
    expected = expect([_ended(_with_letter(caption, letter), _ending(caption), ending) for caption in bare])
    return (*_word_rules(bare, ours, expected), *form)


def with_earlier_words(
    rules: Sequence[StyleRule], earlier: Iterable[StyleRule], theirs: Sequence[str]
) -> tuple[StyleRule, ...]:
    """Return the rules and those earlier ones of words that still hold, though few of the newest captions show them.

    An earlier rule is given up when annotators write the word that it replaces more than once.

    Args:
        rules: that the newest captions show.
        earlier: rules that were found before.
        theirs: the newest captions of annotators.
    """
    written = Counter(word for caption in theirs[-COMPARED:] for word in {*_words(caption)})
    taken = {word for rule in rules if rule.kind == "word" for word in (rule.before, rule.after.casefold())}
    earlier_words = [
        rule
        for rule in earlier
        if rule.kind == "word"
        and taken.isdisjoint((rule.before, rule.after.casefold()))
        and written[rule.before] <= SLIPS
    ]
    return (*earlier_words, *rules)


def without_words(rules: Iterable[StyleRule]) -> tuple[StyleRule, ...]:
    """Return the rules of form. Those of words hold only if the captions describe their own images."""
    return tuple(rule for rule in rules if rule.kind != "word")


def restyle(caption: str, rules: Iterable[StyleRule]) -> str:
    """Return the caption in the wording of the rules; a caption that none of them concerns is returned unchanged."""
    of_kind: dict[Kind, list[StyleRule]] = defaultdict(list)
    for rule in rules:
        of_kind[rule.kind].append(rule)
    caption = _replaced(caption, {rule.before: rule.after for rule in of_kind["word"]})
    for rule in of_kind["begins with"]:
        caption = _begun(caption, rule.after)
    for rule in of_kind["first letter"]:
        caption = _with_letter(caption, rule.after)
    for rule in of_kind["last sign"]:
        caption = _ended(caption, rule.before, rule.after)
    return caption


def _differ(captions: Sequence[str]) -> bool:
    """Return False where one caption stands for most images: it shows no wording."""
    return Counter(captions).most_common(1)[0][1] <= len(captions) / 2


def _is_same_language(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Say whether most of their captions share a word with ours."""
    shared = [not {*metric_words(our)}.isdisjoint(metric_words(their)) for our, their in zip(ours, theirs, strict=True)]
    return sum(shared) >= len(shared) / 2


# Form


def _beginning_rule(theirs: Sequence[str], ours: Sequence[str]) -> StyleRule | None:
    """Return the beginning that saves most word edits."""
    best, most = None, 0
    for beginning in _common_beginnings(theirs):
        support = sum(_begins(their, beginning) for their in theirs)
        least = MIN_SUPPORT if " " in beginning else FEWEST_ONE_WORD
        # "there is a" would become "there is a a man": its last word belongs to what comes after the beginning.
        if support < least or any(_share_begun(ours, words) > HARDLY for words in (beginning, beginning.split()[-1])):
            continue
        saved = [
            _saved_by_beginning(our, _begun(our, beginning), their) for our, their in zip(ours, theirs, strict=True)
        ]
        if _helps(saved) and sum(saved) > most:
            most = sum(saved)
            best = StyleRule(kind="begins with", before="", after=beginning, support=support, applicable=len(theirs))
    return best


def _saved_by_beginning(our: str, begun: str, their: str) -> int:
    """Return the saved word edits. Our captions are cut, because their length does not depend on their beginning."""
    old, new, words = metric_words(our), metric_words(begun), metric_words(their)
    return word_edits(old[: len(words)], words) - word_edits(new[: len(words)], words)


def _common_beginnings(captions: Sequence[str]) -> Iterator[str]:
    """Yield the words that most captions begin with, the shortest beginning first. What comes after them must vary."""
    for count in range(1, MAX_BEGINNING + 1):
        beginnings = [" ".join(caption.split(" ")[:count]) for caption in captions]
        most_common = _most_common(map(str.casefold, beginnings))
        begun = [
            (beginning, caption[len(beginning) :])
            for beginning, caption in zip(beginnings, captions, strict=True)
            if beginning.casefold() == most_common and len(caption) > len(beginning)
        ]
        if len(begun) < MIN_SHARE * len(captions) or len({rest for _, rest in begun}) <= len(begun) / 2:
            return
        yield _most_common(beginning for beginning, _ in begun)


def _letter_rule(theirs: Sequence[str], ours: Sequence[str]) -> StyleRule | None:
    """Return the case of the letter that their captions begin with, where ours begin with the other."""
    return _opposite("first letter", [*map(_letter, ours)], [*map(_letter, theirs)])


def _ending_rule(theirs: Sequence[str], ours: Sequence[str]) -> StyleRule | None:
    """Return the signs that their captions end with, or none, where ours end with others."""
    return _opposite("last sign", [*map(_ending, ours)], [*map(_ending, theirs)])


def _opposite(kind: Kind, ours: Sequence[str], theirs: Sequence[str]) -> StyleRule | None:
    """Return a rule if nearly all of ours are the same and nearly all of theirs are the same, but not as ours."""
    before, after = _most_common(ours), _most_common(theirs)
    concerned = [their for our, their in zip(ours, theirs, strict=True) if our == before]
    support = concerned.count(after)
    if before == after or len(concerned) < (1 - HARDLY) * len(ours):
        return None
    if support < max(MIN_SUPPORT, (1 - HARDLY) * len(concerned)):
        return None
    return StyleRule(kind=kind, before=before, after=after, support=support, applicable=len(concerned))


def _begins(caption: str, beginning: str) -> bool:
    return caption.casefold().startswith(beginning.casefold() + " ")


def _share_begun(captions: Sequence[str], beginning: str) -> float:
    return sum(_begins(caption, beginning) for caption in captions) / len(captions)


def _begun(caption: str, beginning: str) -> str:
    if _begins(caption, beginning):
        return caption
    is_new_sentence = not beginning[-1].isalnum()
    return f"{beginning} {caption if is_new_sentence else _with_letter(caption, SMALL)}"


def _unbegun(caption: str, beginning: str) -> str:
    return caption[len(beginning) + 1 :] if _begins(caption, beginning) else caption


def _letter(caption: str) -> str:
    """Return the case of the first letter; empty for a caption that begins with something else."""
    return (CAPITAL if caption[0].isupper() else SMALL if caption[0].islower() else "") if caption else ""


def _with_letter(caption: str, letter: str) -> str:
    first = caption[:1]
    return {CAPITAL: first.upper(), SMALL: first.lower()}.get(letter, first) + caption[1:]


def _ending(caption: str) -> str:
    """Return the signs that end the caption, with the spaces around them."""
    match = _ENDING.search(caption)
    return match[0] if match else ""


def _ended(caption: str, before: str, after: str) -> str:
    return caption[: len(caption) - len(before)] + after if _ending(caption) == before else caption


# Words


def _word_rules(theirs: Sequence[str], ours: Sequence[str], expected: Sequence[Expected]) -> list[StyleRule]:
    """Return a rule for each word that stands for another; no word is in two rules."""
    if not is_known(expected):
        return []
    rules: list[StyleRule] = []
    our_captions = Counter(word for our in ours for word in {*_words(our)})
    pairs = sorted(find_pairs(expected, our_captions), key=lambda pair: -pair.there)
    while rule := _next_rule(pairs, theirs, ours, {rule.before for rule in rules}):
        rules.append(rule)
        pairs = [pair for pair in pairs if {pair.before, pair.after}.isdisjoint((rule.before, rule.after.casefold()))]
    return rules


def _next_rule(
    pairs: Iterable[WordPair], theirs: Sequence[str], ours: Sequence[str], replaced: Collection[str]
) -> StyleRule | None:
    """Return the first reliable rule. Each word of ours is tried with the word at whose places it is expected most."""
    tried: set[str] = set()
    for pair in pairs:
        if pair.before in tried:
            continue
        tried.add(pair.before)
        if not (pair.is_reliable and pair.is_likeliest(replaced)):
            continue
        rule = _word_rule(pair, theirs)
        saved = _saved_edits(theirs, ours, [restyle(our, [rule]) for our in ours])
        if rule.support >= MIN_SHARE * rule.applicable and _helps(saved):
            return rule
    return None


def _word_rule(pair: WordPair, theirs: Sequence[str]) -> StyleRule:
    forms = [_WORD.findall(caption) for caption in theirs]
    with_after = [{*_words(caption)} for caption in theirs]
    support = sum(pair.after in words for words in with_after)
    # A word at the beginning has a capital for another reason.
    spelled = [word for words in forms for word in words[1:] if word.casefold() == pair.after]
    return StyleRule(
        kind="word",
        before=pair.before,
        after=_most_common(spelled) if spelled else pair.after,
        support=support,
        applicable=support + sum(pair.before in words and pair.after not in words for words in with_after),
    )


def _saved_edits(theirs: Sequence[str], ours: Sequence[str], restyled: Sequence[str]) -> list[int]:
    """Return for each image by how many word edits our caption comes nearer to theirs."""
    return [_edits(our, their) - _edits(new, their) for their, our, new in zip(theirs, ours, restyled, strict=True)]


def _helps(saved: Sequence[int]) -> bool:
    """Say whether word edits are saved in nearly all corrections in which the number changes."""
    better, worse = sum(edits > 0 for edits in saved), sum(edits < 0 for edits in saved)
    return better > 0 and better >= MIN_SHARE * (better + worse)


def _replaced(caption: str, words: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        word = words.get(match[0].casefold())
        return match[0] if word is None else _with_letter(word, CAPITAL) if match[0][0].isupper() else word

    return _WORD.sub(replace, caption) if words else caption


def _words(caption: str) -> list[str]:
    return _WORD.findall(caption.casefold())


def _edits(our: str, their: str) -> int:
    return word_edits(metric_words(our), metric_words(their))


def _most_common(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]
