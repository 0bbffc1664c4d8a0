"""The model card of the `photos` bundle, and its pictures."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from model.bundle import Bundle
from model.metrics.comparison import Comparison
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

TEXT = """# Model card: {version}

The default captioner. It writes a first draft, in English, of a caption for a photo of people, animals and their
everyday surroundings. People must correct it, and every correction teaches it.

## Data and terms

It was trained on the {images:,} training photos of Flickr8k with five captions each (M. Hodosh, P. Young and
J. Hockenmaier 2013, https://doi.org/10.1613/jair.3994). That data set is for non-commercial research and education,
so these weights are for research use too. The bundle contains no photo of it and no list of its captions.
`replay.safetensors` holds the encoder's features of {replay} of the photos, and bundle.json the captions that the
decoder wrote for them. Retraining repeats these so that the decoder does not forget them.

## Model

The encoder is {encoder} at 224 pixels. It started with random weights and learned to give the same features as the same
network with ImageNet's weights, on the training photos, cropped, mirrored and recoloured
(`model/training/distillation.py`). Two LSTM layers with attention over its 7 x 7 regions and {vocabulary:,} words
learned the captions, then were rewarded for CIDEr-D and BLEU-4 of whole captions. The encoder's last stages were
trained with them. Weights are stored in 8 bits.
The same recipe with ImageNet's own weights, which we may not ship, reaches CIDEr-D 57.8 (tests/benchmarks/RESULTS.md).

## Training

    {command}

The part that is `captioner train` took {minutes:.0f} minutes ({device}), with torch {torch}.

## Numbers

{test_images} test photos of Flickr8k, five references each, beam 5, in per cent:

| | half precision | as it is, 8 bits |
|---|---|---|
{rows}

Words to edit until the nearest reference is reached: {word_edits:.1f} a caption; none in {unedited:.1%} of the
captions. `captioner evaluate` prints all metrics.
{gallery}
## Limits

- It names what people wrote about most in Flickr8k: dogs, children, sports, streets, snow, water. It calls other things
  by one of these names, with the same confidence: it calls a cat a dog.
- It guesses gender, age and colours and is often wrong. It does not know who somebody is.
- It cannot read, and it misses small things: a region is a seventh of the picture's width.
- Some captions end too early ("in a red."), because the metrics that rewarded it hardly count that.
- It squashes a picture to a square, so very long pictures give worse captions.
- It has the bias of captions of photos that people chose to share in 2013.
"""

GALLERY = """
Pictures of another kind than it learned from, each with the caption it wrote; little of it is right:

![captions](gallery.jpg)

{credits}.
"""


def model_card(bundle: Bundle, scores: Comparison, pictures: Sequence[str]) -> str:
    """Return the card as Markdown, with the numbers of this training.

    Args:
        bundle: as it is shipped.
        scores: on the same photos, before and after it was stored in 8 bits.
        pictures: names of the pictures in `gallery.jpg`, in order; empty if there is no gallery.
    """
    record, training, metrics = bundle.record, bundle.record["training"], scores.after.metrics
    before = dict(scores.before.scores())
    rows = [f"| {name} | {_percent(before.get(name))} | {_percent(after)} |" for name, after in scores.after.scores()]
    owners = "; ".join(f"{name}: {CREDITS.get(name, 'ours')}" for name in pictures)
    return TEXT.format(
        version=bundle.version,
        images=record["train_images"],
        replay=len(bundle.replay),
        encoder=record["encoder"],
        vocabulary=training["vocabulary"],
        command=record["command"],
        minutes=record["seconds"] / 60,
        device=training["device"],
        torch=record["torch"],
        test_images=metrics.images,
        rows="\n".join(rows),
        word_edits=metrics.word_edits,
        unedited=metrics.unedited,
        gallery=GALLERY.format(credits=owners) if pictures else "",
    )


def draw_gallery(path: Path, captioned: Sequence[CaptionedFile]) -> None:
    """Draw pictures with their captions on one sheet, as a JPEG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(captioned) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, picture in zip(figure.axes, captioned, strict=False):
        axes.imshow(decode_image(picture.file.read_bytes()))
        axes.set_title(textwrap.fill(picture.captions[0].text, 38), fontsize=12)
    with replaced_file(path) as file:
        figure.savefig(file, format="jpg", dpi=70)


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
