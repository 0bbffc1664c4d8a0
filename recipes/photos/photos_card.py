"""The model card of the `photos` bundle, and the pictures on it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from model.bundle import Bundle
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
"""Sample pictures of scikit-image, scikit-learn and matplotlib, and whose they are."""


def model_card(bundle: Bundle, full: Evaluation, smaller: Evaluation, pictures: Sequence[str]) -> str:
    """Return the card as Markdown, with the numbers of this training.

    Args:
        bundle: as it is shipped.
        full: what the bundle scored before it was stored in 8 bits.
        smaller: what it scores now, on the same photos.
        pictures: names of the pictures in `gallery.jpg`, in order; without any there is none.
    """
    before = dict(full.scores())
    rows = "\n".join(
        f"| {name} | {_percent(before.get(name))} | {_percent(score)} |" for name, score in smaller.scores()
    )
    record, training = bundle.record, bundle.record["training"]
    return f"""# Model card: {bundle.version}

The default captioner: it writes a first draft, in English, of what a photo of people, animals and their everyday
surroundings shows. People are to correct it; every correction teaches it.

## Data and terms

Trained on the {record["train_images"]:,} training photos of Flickr8k with five captions each (M. Hodosh, P. Young and
J. Hockenmaier 2013, https://doi.org/10.1613/jair.3994). That data set is for non-commercial research and education,
so these weights are for research use too. No photo of it and no list of its captions is in this bundle:
`replay.safetensors` holds
what the encoder makes of {len(bundle.replay)} of the photos, bundle.json what the decoder wrote about them, which
retraining rehearses.

## Model

{record["encoder"]} at 224 pixels, random at first: it learned to see what the same network with ImageNet's weights sees
in the training photos, cropped, mirrored and recoloured (`model/training/distillation.py`). On its grid of 7 x 7
regions two LSTM layers with attention and {training["vocabulary"]:,} words learned the captions, then were rewarded for
CIDEr-D and BLEU-4 of whole captions; the encoder's last stages learned with them. Weights are stored in 8 bits.
The same recipe on ImageNet's own weights, which are not ours to ship, reaches CIDEr-D 57.8
(tests/benchmarks/RESULTS.md).

## Training

    {record["command"]}

Its part that is `captioner train` took {record["seconds"] / 60:.0f} minutes ({training["device"]}), with torch
{record["torch"]}.

## Numbers

{smaller.metrics.images} test photos of Flickr8k, five references each, beam 5, in per cent:

| | half precision | as it is, 8 bits |
|---|---|---|
{rows}

Words to edit until the nearest reference is reached: {smaller.metrics.word_edits:.1f} a caption; none in
{smaller.metrics.unedited:.1%} of the captions. `captioner evaluate` prints all of it.
{_gallery_section(pictures)}
## Limits

- It names what Flickr8k's people wrote about most: dogs, children, sports, streets, snow, water. Other things it calls
  by one of these, with the same confidence: a cat is a dog to it.
- It guesses gender, age and colours and is often wrong; it says nothing about who somebody is.
- It cannot read, and misses what is small: a region is a seventh of the picture's width.
- Some captions break off ("in a red."): the metrics that it was rewarded by hardly mind.
- It squashes a picture to a square; very long ones suffer.
- Whatever bias is in captions of photos that people chose to share in 2013 is in it too.
"""


def draw_gallery(path: Path, captioned: Sequence[CaptionedFile]) -> None:
    """Draw pictures with their captions on one sheet, as a JPEG."""
    # Only this draws; imported here, matplotlib costs a serving process neither time nor memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(captioned) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, found in zip(figure.axes, captioned, strict=False):
        axes.imshow(decode_image(found.file.read_bytes()))
        axes.set_title(textwrap.fill(found.captions[0].text, 38), fontsize=12)
    with replaced_file(path) as file:
        figure.savefig(file, format="jpg", dpi=70)


def _gallery_section(pictures: Sequence[str]) -> str:
    if not pictures:
        return ""
    owners = "; ".join(f"{name}: {CREDITS.get(name, 'ours')}" for name in pictures)
    return f"""
Pictures of another kind than it learned from, each with the caption it wrote; little of it is right:

![captions](gallery.jpg)

{owners}.
"""


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
