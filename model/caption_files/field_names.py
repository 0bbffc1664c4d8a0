"""Names of text fields that hold something else than captions, such as `notes` and `ocr`, in several languages."""

import re

OTHER_PURPOSE = re.compile(
    r"(?<![^\W\d_])(notes?|remarks?|comments?|feedback|reasons?|reasoning|rationale|justification|explanation|issues?|"
    r"problems?|questions?|answers?|ocr|transcripts?|transcription|transcribed|tags?|keywords?|todo|qa|review|reviewer|"
    r"bemerkung(en)?|anmerkung(en)?|kommentare?|notiz(en)?|hinweise?|begr(ü|ue)ndung|fragen?|antwort(en)?|"
    r"stichw(ort|örter|orte)|remarques?|commentaires?|raisons?|r[ée]ponses?|comentarios?|observaci(ó|o)n(es)?|notas?|"
    r"preguntas?|respuestas?|osservazion[ei]|commenti|commento|opmerking(en)?|uwagi?|komentarz(e)?)(?![^\W\d_])"
    r"|备注|備註|注释|评论|評論|コメント|備考|メモ|비고|메모|댓글|примечани|комментари|замечани",
    re.IGNORECASE,
)
"""Words in such a name, between which there is something else than letters."""


def has_other_purpose(name: str) -> bool:
    """Return True if the name of a field says that it holds something else than captions."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # such as imageNotes
    return OTHER_PURPOSE.search(separated) is not None
