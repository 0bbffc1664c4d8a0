"""Writes a page that shows images, captions, references, and the attention for each word.

The page is one HTML file. Its images are small JPEGs inside it, and it fetches nothing.
"""

import base64
import io
import os
import random
from html import escape
from pathlib import Path
from string import Template

from model.attention import grid_columns, hexadecimal
from model.errors import CaptionFileError
from model.metrics.evaluation import Evaluation, JudgedCaption
from model.vision.images import decode_image

THUMBNAIL = (480, 360)
"""Largest width and height of an image on the page, in pixels."""
MAX_IMAGES = 100

_TEMPLATE = Path(__file__).parent / "templates" / "gallery.html"


def write_gallery(path: Path, evaluation: Evaluation, *, max_images: int = MAX_IMAGES) -> int:
    """Write the page of an evaluation and return the number of images on it.

    Args:
        path: the HTML file; an existing file is replaced.
        evaluation: captions with their references, scores and attention.
        max_images: of more images a random sample of this size is shown, always the same one.

    Raises:
        CaptionFileError: the file cannot be written, or an image can no longer be read.
    """
    chosen = list(evaluation.captions)
    random.Random(0).shuffle(chosen)
    chosen = chosen[:max_images]
    metrics = evaluation.metrics
    page = Template(_TEMPLATE.read_text("utf-8")).substitute(
        title=escape(f"Captions of {evaluation.version}"),
        scores="\n".join(_score(name, score) for name, score in evaluation.scores()),
        edits=f"Words to edit until the nearest reference is reached: {metrics.word_edits:.1f} a caption "
        f"({metrics.word_error_rate:.0%}); none in {metrics.unedited:.1%} of the captions.",
        shown=f"{len(chosen)} of {metrics.images} images, drawn at random."
        if len(chosen) < metrics.images
        else f"All {metrics.images} images.",
        cards="\n".join(map(_card, chosen)),
    )
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(page, "utf-8")
        os.replace(beside, path)
    except OSError as cause:
        raise CaptionFileError(f"cannot write the gallery {path}: {cause}") from cause
    return len(chosen)


def _score(name: str, score: float | None) -> str:
    value = "-" if score is None else f"{100 * score:.1f}"
    return f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>"


def _card(judged: JudgedCaption) -> str:
    scores = judged.metrics
    references = "".join(f"<li>{escape(reference)}</li>" for reference in judged.references)
    edits = "no edits" if scores.edits == 0 else f"{scores.edits} edit{'s' if scores.edits > 1 else ''}"
    return (
        f'<article data-cider="{scores.cider_d:.4f}" data-edits="{scores.edits}" '
        f'data-columns="{grid_columns(judged.attention)}">\n'
        f'<div class="picture"><img alt="{escape(judged.caption)}" src="{_thumbnail(judged.file)}">'
        "<canvas hidden></canvas></div>\n"
        f"<h2>{_words(judged)}</h2>\n"
        f'<p class="soft">{escape(judged.file.name)} · CIDEr-D {100 * scores.cider_d:.0f} · {edits} '
        f"to the nearest reference ({scores.reference_words} words)</p>\n"
        f"<ul>{references}</ul>\n</article>"
    )


def _words(judged: JudgedCaption) -> str:
    """Return a button for each word. The Tab key reaches the first, the arrow keys the others."""
    weights = [hexadecimal(row) for row in judged.attention]
    shown = [pair for pair in zip(judged.tokens, weights, strict=True) if pair[0] != "<glue>"]
    return " ".join(
        f'<button type="button" tabindex="{0 if at == 0 else -1}" data-attention="{row}">{escape(token)}</button>'
        for at, (token, row) in enumerate(shown)
    ) or escape(judged.caption or "(no words)")


def _thumbnail(file: Path) -> str:
    """Return the image as a small JPEG in a data URL."""
    try:
        image = decode_image(file.read_bytes())
    except OSError as cause:
        raise CaptionFileError(f"cannot show {file}: {cause}") from cause
    image.thumbnail(THUMBNAIL)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
