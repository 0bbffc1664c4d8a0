"""Cuts captions into the words that metrics compare, as the reference implementation does, but without Java.

English is cut as the PTBTokenizer of pycocoevalcap 1.2 cuts it (Penn Treebank rules of Stanford CoreNLP 3.4.1, lower
case, without its list of punctuation): "A dog's ball, isn't it?" becomes `a dog 's ball is n't it`. Other signs, such
as `&`, `!!` and brackets (`-lrb-`), stay words. The rules were derived from the tokenizer's outputs. All 39,455
captions of Flickr8k are cut in the same way. Markup, emoticons and phone numbers are not.

Each Chinese, Japanese or Korean character is a word, and their punctuation is removed, so that Chinese captions are
compared by characters as for Flickr8k-CN (Li et al. 2016, https://doi.org/10.1145/2911996.2912049). The reference
implementation takes a whole Chinese sentence for a word.
"""

import re
import unicodedata

Words = tuple[str, ...]

_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\u2fdf\u3000-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)

_REMOVED = set("'\"`.?!,:;-")
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_RENAMED = _BRACKETS | {"£": "#", "€": "$", "½": "1/2", "¼": "1/4", "¾": "3/4"}
_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "‹": "'", "›": "'", "“": '"', "”": '"', "«": '"', "»": '"'}
    | {"…": "...", "–": " - ", "—": " - ", "―": " - "}
)

_ABBREVIATIONS = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    mr mrs ms dr drs prof sen rep atty lt col gen messrs gov adm rev maj sgt cpl pvt mt capt st ste ave pres lieut
    hon brig cmdr pfc spc supt det jr sr esq etc al vs inc co corp ltd plc assn univ intl bros bldg ext ph ph\\.d tel
    cf est dept blvd rd ft sq calif conn fla ind kan ky md mich minn mo mont neb nev okla tenn vt va wis wyo ala
    ariz colo ga
"""
_CAPITAL_ABBREVIATIONS = "Miss Mass Ill La Ore Pa Tex Wash Ark Del"

_L = r"[^\W\d_]"  # a letter
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S*\w
    | [\w.+-]+@\w+(?:\.\w+)+
    | [@\#][A-Za-z]\w*
    | (?<![\w-])(?i:{"|".join(_ABBREVIATIONS.split())})\.(?!\w)       # mr.  etc.
    | (?<![\w-])(?:{"|".join(_CAPITAL_ABBREVIATIONS.split())})\.(?!\w)
    | (?<!\w)(?i:nos?)\.(?=\s*\d)                                     # no. 5
    | (?<![\w'])(?:{_L}\.)+(?!\w)                                     # u.s.  p.
    | {_L}+(?:\.{_L}+)+                                               # e.g  statefarm.com
    | [A-Z]+(?:&[A-Z]+)+                                              # AT&T
    | \d+(?:[.,:]\d+)+ | (?<!\d)\.\d+                                 # 1,000  10:30  .5
    | (?i: {_L}+?(?=n't(?!\w)) | n't(?!\w) | '(?:s|m|d|re|ve|ll)(?!\w)   # do n't  she 'll
         | (?<!\w)(?: can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | gim(?=me\b) | lem(?=me\b) )
         | '(?: t(?=is\b|was\b) | n' | (?:n|em|cause|till?)(?!\w) ) | (?<!\w)'(?:[2-9]0s|\d\d)(?!\w)
         | (?<!\w)(?: y'(?=all\b) | c'mon\b | (?:ol|somethin)'(?!\w) ) )
    | (?:[dlnosA-HJ-XZ]'{_L}{{2,}} | {_L}*[aeiouyAEIOUY]'[aeiouA-Z]{_L}+)   # o'clock  s'mores  hallowe'en
    | \w+(?:[-/]\w+)*                                                 # t-shirt  and/or  2-year-old
    | [?!]{{2,}}
    | [^\w\s]
    """,
    re.VERBOSE,
)


def metric_words(text: str) -> Words:
    """Return the words that are compared, in lower case."""
    plain = unicodedata.normalize("NFC", text).translate(_PLAIN)
    tokens: list[str] = _TOKEN.findall(_CJK.sub(_apart, plain))
    return tuple(_RENAMED.get(token, token.lower()) for token in tokens if token not in _REMOVED)


def _apart(character: re.Match[str]) -> str:
    return f" {character[0]} " if character[0].isalnum() else " "
