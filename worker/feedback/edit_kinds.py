"""Kinds of edits, found from the words that an edit adds and removes: a heuristic with a small lexicon.

It knows words and no grammar. A word that is in no list counts as an object; verbs do so, too. Words that only moved or
changed their ending count as wording, so "two dogs and a cat" changed to "a dog and two cats" is wording. Words are
those of `metric_words`: without case and punctuation, and single characters in Chinese.
"""

from collections import Counter
from functools import lru_cache
from typing import Literal, get_args

from model.metrics.words import Words

EditKind = Literal["object", "attribute", "count", "relation", "background", "wording"]
EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)

_LEXICON: dict[EditKind, str] = {  # the first list that names a word has it
    "count": """
        one two three four five six seven eight nine ten eleven twelve dozen single pair couple few several many some
        multiple both each every all no group crowd bunch lot numerous
        一 二 兩 两 三 四 五 六 七 八 九 十 百 几 幾 多 群 對 对 雙 双 每
    """,
    "attribute": """
        red orange yellow green blue purple pink violet brown tan beige black white gray grey gold golden silver blond
        blonde dark light bright pale colorful colourful colored coloured multicolored striped spotted plaid checkered
        small little tiny large big huge giant tall short long wide narrow thin thick fat old young elderly new ancient
        modern wooden metal metallic steel stone brick plastic leather wool cotton glass paper concrete furry fluffy
        hairy wet dry dirty clean shiny empty full open closed broken happy sad smiling round square rectangular
        triangular curly bald male female
        紅 红 橙 黃 黄 綠 绿 藍 蓝 紫 粉 棕 褐 黑 白 灰 金 銀 银 彩 色 大 小 高 矮 短 胖 瘦 新 舊 旧 老 圓 圆 方
        木 鐵 铁
    """,
    "relation": """
        above below under underneath beneath over behind beside besides between among amongst around across along
        against near nearby inside outside within through past toward towards away off onto into up down left right
        front back top bottom middle center centre side next opposite adjacent
        上 下 左 右 前 後 后 裡 里 內 内 外 旁 邊 边 間 间 中
    """,
    "background": """
        background backdrop foreground scene sky cloud cloudy sun sunset sunrise sunny shade shadow grass grassy field
        meadow lawn garden yard park forest wood woodland tree bush leaves hill mountain cliff rock rocky desert sand
        sandy beach shore coast sea ocean lake river stream pond pool water wave snow snowy ice icy mud muddy dirt
        ground floor ceiling wall fence road street sidewalk pavement path trail track town city building house room
        kitchen indoor indoors outdoor outdoors night day
        背 景 天 空 雲 云 草 地 田 野 樹 树 林 山 沙 灘 滩 海 河 湖 水 雪 冰 路 街 牆 墙 屋 室
    """,
    "wording": """
        a an the this that these those it its he she they his her their him them who which what there here is are was
        were be been being am do does did has have had having will would can could may might and or but as while with
        without of to for from by at in on than so very just also then 's n't 're 've 'll
        的 了 着 著 過 过 是 有 在 和 與 与 跟 同 及 也 都 就 正 被 把 向 這 这 那
        個 个 隻 只 條 条 張 张 位 名 件 匹 頭 头 輛 辆 種 种
    """,
}
_KIND_OF = {word: kind for kind in reversed(_LEXICON) for word in _LEXICON[kind].split()}
_PLACES = {"in", "on", "at", "在"}
"""These are relations only when another relation replaces them: not where "in a shirt" is added."""

_ENDINGS = (("ies", "y"), ("ied", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))
_SHORTEST_STEM = 3
_IRREGULAR = {
    "ran": "run",
    "sat": "sit",
    "stood": "stand",
    "held": "hold",
    "wore": "wear",
    "rode": "ride",
    "swam": "swim",
    "threw": "throw",
    "caught": "catch",
    "took": "take",
    "went": "go",
    "lay": "lie",
    "lying": "lie",
    "ate": "eat",
    "men": "man",
    "women": "woman",
    "children": "child",
}


def edit_kinds(before: Words, after: Words) -> tuple[EditKind, ...]:
    """Return the kinds of an edit, in the order of EDIT_KINDS; at least `wording`."""
    removed, added = _apart_from_endings(Counter(before) - Counter(after), Counter(after) - Counter(before))
    kinds = {_kind(word) for word in removed + added}
    if any(_is_place(word) for word in removed) and any(_is_place(word) for word in added):
        kinds.add("relation")
    return tuple(kind for kind in EDIT_KINDS if kind in kinds - {"wording"}) or ("wording",)


def _apart_from_endings(removed: Counter[str], added: Counter[str]) -> tuple[list[str], list[str]]:
    """Leave out each removed word of which another form was added, and that form."""
    left, right = [], list(added.elements())
    for word in removed.elements():
        twin = next((other for other in right if _forms(word) & _forms(other)), None)
        if twin is None:
            left.append(word)
        else:
            right.remove(twin)
    return left, right


def _kind(word: str) -> EditKind:
    kinds = (_KIND_OF[form] for form in (word, *sorted(_forms(word))) if form in _KIND_OF)
    return next(kinds, "object")


def _is_place(word: str) -> bool:
    return word in _PLACES or _kind(word) == "relation"


@lru_cache(maxsize=4096)
def _forms(word: str) -> frozenset[str]:
    """Return the word and the words that it may be a form of: for `running` these are `run`, `runn` and `runne`."""
    stems = {
        word.removesuffix(ending) + instead
        for ending, instead in _ENDINGS
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM
    }
    undoubled = {stem[:-1] for stem in stems if stem[-1] == stem[-2]}
    return frozenset({word, _IRREGULAR.get(word, word)} | stems | undoubled)
