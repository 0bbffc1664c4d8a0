"""The model card of the `photos` bundle, and its pictures."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.bundle import Bundle
from model.first_score import FirstScore
from model.metrics.evaluation import Evaluation
from model.store import replaced_file
from model.vision.files import CaptionedFile
from model.vision.images import decode_image

COLUMNS = 3
CREDITS = {
    "astronaut.png": "Eileen Collins, NASA, public domain",
    "camera.png": "Lav Varshney, CC0",
    "chelsea.png": "Stefan van der Walt, CC0",
    "china.jpg": "danielbuechele, CC BY 2.0",
    "coffee.png": "Rachel Michetti, CC0",
    "flower.jpg": "vultilion, CC BY 2.0",
    "grace_hopper.jpg": "James S. Davis, US Navy, public domain",
    "rocket.jpg": "SpaceX, public domain",
}
"""Sample pictures of scikit-image, scikit-learn and matplotlib, with their owners."""


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """Scores of the bundle on the test photos of one set."""

    name: str
    """Of the set."""
    before: Evaluation | None
    """Before it was stored in 8 bits, if that was measured."""
    after: Evaluation
    """As it is stored."""
    faulty: float
    """Share of its captions that have a fault (`model/metrics/faults.py`), as it is stored."""
    right: float
    """Share of its captions whose main things are right (`model/metrics/main_things.py`)."""
    score_error: float
    """Expected calibration error of their scores, 0 to 1."""
    people_loss: float
    """Negative log-likelihood of people's captions of the dev photos at the bundle's temperature, nats per token."""


TEXT = """# Model card: {version}

The default captioner. It writes a first draft, in English, of a caption for a photo of everyday life: people, animals,
food, rooms, traffic, sports. People must correct it, and every correction teaches it.

## Data and terms

It was trained on {images:,} photos: the training photos of Flickr8k with five captions each (M. Hodosh, P. Young and
J. Hockenmaier 2013, https://doi.org/10.1613/jair.3994), and photos of COCO with one to five captions each (X. Chen and
others 2015, https://arxiv.org/abs/1504.00325). Flickr8k is for non-commercial research and education. COCO's captions
are CC BY 4.0, and its photos have the licences of their owners, some of them non-commercial. So these weights are for
research use too. The bundle contains no photo of them and no list of their captions. `replay.safetensors` holds the
encoder's features of {replay} of the photos, and bundle.json the captions that the decoder wrote for them. Retraining
repeats these so that the decoder does not forget them.

## Model

The encoder is {encoder} at 224 pixels. It started with random weights and learned to give the same features as
{teacher} with ImageNet's weights, on all photos but those for testing, cropped, mirrored and recoloured
(`model/training/distillation.py`). Two LSTM layers with attention over its 7 x 7 regions and {vocabulary:,} words
learned the captions, then were rewarded for CIDEr-D and BLEU-4 of whole captions, and punished for captions that loop,
break off or name the same thing twice. The rewards started twice at a high learning rate. The encoder's last stages
were trained with the decoder. Weights are stored in 8 bits.

## Training

    {command}

The two trainings after the encoder took {minutes:.0f} minutes ({device}), with torch {torch}.

## Numbers

Beam 5, in per cent; in brackets before the weights were stored in 8 bits:

{rows}

`captioner evaluate` prints all metrics. The score of a suggestion is the probability that its main things are right:
what it is about, and what that does, are in one of people's captions (`model/metrics/main_things.py`). A fault is a
loop, a broken end, or the same thing twice ("a man and a man"), as `model/metrics/faults.py` finds it. The decoder is
too sure of itself. Divided by the temperature {temperature:g}, its logits expect people's captions best.
{gallery}
## Limits

- It names what people wrote about most in its photos: people, dogs, sports, streets, rooms, food, traffic. It calls
  other things by one of these names. Aerial photos, flowers and products in a shop are strange to it; their suggestions
  have a low score.
- It guesses gender, age and colours and is often wrong. It does not know who somebody is.
- It cannot read, and it misses small things: a region is a seventh of the picture's width.
- It squashes a picture to a square, so very long pictures give worse captions.
- It has the bias of captions of photos that people chose to share in 2013.
"""

GALLERY = """
Pictures that were not chosen for their captions, each with the caption that it wrote and its score; right and wrong:

![captions](gallery.jpg)

{credits}.
"""


def model_card(bundle: Bundle, scores: Sequence[SetScores], pictures: Sequence[str]) -> str:
    """Return the card as Markdown, with the numbers of this training.

    Args:
        bundle: as it is shipped.
        scores: on the test photos of each set.
        pictures: names of the pictures in `gallery.jpg`, in order; empty if there is no gallery.
    """
    record, training = bundle.record, bundle.record["training"]
    owners = "; ".join(f"{name}: {CREDITS.get(name, 'ours')}" for name in pictures)
    return TEXT.format(
        version=bundle.version,
        images=record["train_images"],
        replay=len(bundle.replay),
        encoder=record["encoder"],
        teacher=record["teacher"],
        temperature=bundle.temperature,
        vocabulary=training["vocabulary"],
        command=record["command"],
        minutes=record["seconds"] / 60,
        device=training["device"],
        torch=record["torch"],
        rows="\n".join(_table(scores)),
        gallery=GALLERY.format(credits=owners) if pictures else "",
    )


def _table(scores: Sequence[SetScores]) -> Iterator[str]:
    """Yield the lines of a table with a column for each set."""
    titles = [f"{of_set.name}, {of_set.after.metrics.images} photos" for of_set in scores]
    yield f"| | {' | '.join(titles)} |"
    yield f"|---|{'---|' * len(scores)}"
    before = [dict(of_set.before.scores()) if of_set.before else {} for of_set in scores]
    for row in zip(*(of_set.after.scores() for of_set in scores), strict=True):
        cells = (
            _percent(after) + (f" ({_percent(values[name])})" if values.get(name) is not None else "")
            for (name, after), values in zip(row, before, strict=True)
        )
        yield f"| {row[0][0]} | {' | '.join(cells)} |"
    edits = (f"{of_set.after.metrics.word_edits:.1f}" for of_set in scores)
    yield f"| words to edit until the nearest reference is reached | {' | '.join(edits)} |"
    yield f"| captions with a fault | {' | '.join(f'{of_set.faulty:.1%}' for of_set in scores)} |"
    yield f"| captions whose main things are right | {' | '.join(f'{of_set.right:.1%}' for of_set in scores)} |"
    yield f"| calibration error of their scores | {' | '.join(f'{of_set.score_error:.1%}' for of_set in scores)} |"
    losses = (f"{of_set.people_loss:.2f}" for of_set in scores)
    yield f"| nats a token for people's captions of the dev photos | {' | '.join(losses)} |"


def draw_gallery(path: Path, captioned: Sequence[CaptionedFile], score: FirstScore | None) -> None:
    """Draw pictures with their captions and scores on one sheet, as a JPEG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(captioned) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, picture in zip(figure.axes, captioned, strict=False):
        axes.imshow(decode_image(picture.file.read_bytes()))
        best = picture.captions[0]
        title = textwrap.fill(best.text, 38)
        if score is not None and picture.features is not None:
            position = score.familiar.position(picture.features)
            title += f" ({score.score(best.score, best.text, position):.0%})"
        axes.set_title(title, fontsize=12)
    with replaced_file(path) as file:
        figure.savefig(file, format="jpg", dpi=70)


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
