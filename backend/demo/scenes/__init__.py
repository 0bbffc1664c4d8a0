"""The drawn world of the `scenes` bundle: draw small scenes, describe them, and check captions of them."""

from backend.demo.scenes.checking import wrong_facts
from backend.demo.scenes.drawing import draw_scene, draw_scenes
from backend.demo.scenes.scene import Background, Group, Item, Scene, sample_scene
from backend.demo.scenes.wording import write_captions

__all__ = [
    "Background",
    "Group",
    "Item",
    "Scene",
    "draw_scene",
    "draw_scenes",
    "sample_scene",
    "write_captions",
    "wrong_facts",
]
