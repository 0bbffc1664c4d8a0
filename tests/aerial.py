"""Drawn pictures of a kind that no bundle was trained on: what a plane would see."""

import random

from PIL import Image, ImageDraw

WORDS = {
    "fields": "an aerial view of green fields and a narrow road",
    "pond": "an aerial view of a round pond in the desert",
    "houses": "an aerial view of many houses with orange roofs",
}
KINDS = list(WORDS)
SIZE = 256


def draw(kind: str, number: int) -> Image.Image:
    """Draw what a plane would see; no two pictures are the same."""
    chance = random.Random(number)
    ground = {"fields": (96, 140, 60), "pond": (214, 190, 140), "houses": (120, 120, 118)}[kind]
    picture = Image.effect_noise((SIZE, SIZE), 60).convert("RGB")
    picture = Image.blend(picture, Image.new("RGB", (SIZE, SIZE), ground), 0.7)
    pen = ImageDraw.Draw(picture)
    if kind == "fields":
        for _ in range(6):
            at = chance.randrange(SIZE)
            pen.line([(at, 0), (at + chance.randrange(-40, 40), SIZE)], fill=(60, 100, 40), width=9)
        pen.line([(0, chance.randrange(SIZE)), (SIZE, chance.randrange(SIZE))], fill=(230, 230, 220), width=5)
    elif kind == "pond":
        left, top, wide = chance.randrange(20, 90), chance.randrange(20, 90), chance.randrange(90, 140)
        pen.ellipse([left, top, left + wide, top + wide], fill=(30, 90, 150), outline=(70, 110, 60), width=5)
    else:
        for _ in range(40):
            left, top = chance.randrange(SIZE), chance.randrange(SIZE)
            pen.rectangle([left, top, left + 22, top + 16], fill=(220, 110, 40), outline=(90, 40, 20), width=2)
    return picture
