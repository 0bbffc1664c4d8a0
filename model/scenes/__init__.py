"""The `scenes` bundle's world: draw small scenes, describe them, and check what a caption says of them."""

from model.scenes.checking import wrong_facts
from model.scenes.drawing import draw_scene, draw_scenes
from model.scenes.scene import Background, Group, Item, Scene, sample_scene
from model.scenes.wording import write_captions

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
