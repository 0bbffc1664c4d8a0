"""The labeling config of a project: which text areas hold the captions of which images."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import LabelConfigError, TaskError

INSIDE_TASK = "data:,sha256="
"""How a stored reference to a `data:` image begins; its bytes are in the task in Label Studio only."""

# lxml refuses text that declares an encoding.
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


@dataclass(frozen=True, kw_only=True)
class CaptionControl:
    """A TextArea that describes an Image: one caption per task."""

    from_name: str
    """The TextArea's name."""
    to_name: str
    """The Image's name."""
    image_field: str
    """Where the task's data name the image: a key, or a path such as `shop.photos[0].url`."""


def parse_caption_controls(label_config: str) -> tuple[CaptionControl, ...]:
    """Return the caption controls of a labeling config, in its order; at least one.

    Raises:
        LabelConfigError: the config cannot be parsed, or no TextArea describes an Image.
    """
    interface = _parse(label_config)
    controls = tuple(control for tag in interface.controls if (control := _caption_control(tag)))
    if not controls:
        raise LabelConfigError(
            'the labeling config needs a TextArea whose toName is an Image with value="$field", '
            f"found {_inventory(interface)}"
        )
    return controls


def has_captions(label_config: str) -> bool:
    """Say whether a labeling config has a caption control."""
    try:
        return bool(parse_caption_controls(label_config))
    except LabelConfigError:
        return False


def read_image_ref(task_data: Mapping[str, Any], control: CaptionControl) -> str:
    """Return the address or path of the task's image, in one of the forms that docs/label-studio.md lists.

    Raises:
        TaskError: the field is missing or holds no text.
    """
    value: Any = task_data.get(control.image_field)
    if value is None:
        value = _walk(task_data, control.image_field)
    if not isinstance(value, str) or not value.strip():
        fields = ", ".join(sorted(map(str, task_data))) or "none"
        raise TaskError(f"the task's data have no image reference at {control.image_field!r}, its fields: {fields}")
    return value.strip()


def compact_image_ref(image_ref: str) -> str:
    """Return the reference as it is stored and compared: a `data:` URL by its hash, others unchanged."""
    if not image_ref.startswith("data:") or image_ref.startswith(INSIDE_TASK):
        return image_ref
    return INSIDE_TASK + hashlib.sha256(image_ref.encode()).hexdigest()


def _parse(label_config: str) -> Any:
    if not label_config.strip():
        raise LabelConfigError("the labeling config is empty, a TextArea that describes an Image is expected")
    # Imported here, because it takes 0.8 s; a backend imports it beside its first requests.
    from label_studio_sdk.label_interface import LabelInterface

    try:
        return LabelInterface(_XML_DECLARATION.sub("", label_config, count=1))
    except Exception as cause:  # the SDK raises errors of many kinds, plain Exception among them
        raise LabelConfigError(f"the labeling config is not valid: {cause}") from cause


def _caption_control(tag: Any) -> CaptionControl | None:
    # A perRegion text area describes a part that somebody marked, not the image;
    # a name with {{idx}} is a template of many tags.
    if tag.tag != "TextArea" or tag.attr.get("perRegion") == "true" or "{{" in tag.name:
        return None
    for image in tag.objects:
        if image.tag == "Image" and (image.value or "").startswith("$"):
            return CaptionControl(from_name=tag.name, to_name=image.name, image_field=image.value[1:])
    return None


def _inventory(interface: Any) -> str:
    """Say in words which tags a config has: `TextArea "c" -> "t"; Text "t" value="$text"`."""
    tags = [f'{tag.tag} "{tag.name}" -> "{",".join(tag.to_name)}"' for tag in interface.controls]
    tags += [f'{tag.tag} "{tag.name}" value="{tag.value}"' for tag in interface.objects]
    return "; ".join(tags) or "no tag with a name"


def _walk(value: Any, path: str) -> Any:
    """Follow `shop.photos[0].url` through dicts and lists; None where it leads nowhere."""
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
