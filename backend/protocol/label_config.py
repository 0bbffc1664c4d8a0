"""The labeling config of a project: which text areas hold the captions of which images.

A caption is a text about a whole image. By default each TextArea of an Image holds one, except those of marked regions
and those whose name says that they hold something else (`notes`, `ocr`). `captions="true"` in a TextArea chooses it.
Then only those that are chosen hold captions. `captions="false"` leaves it out. Label Studio keeps the attribute.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape as escape_markup

from model.caption_files.field_names import has_other_purpose
from model.errors import LabelConfigError, TaskError

logger = logging.getLogger(__name__)

CHOICE = "captions"
"""Attribute of a TextArea by which an owner says whether it holds captions."""
INSIDE_TASK = "data:,sha256="
"""How a stored reference to a `data:` image begins; its bytes are in the task in Label Studio only."""
CONFIGS_KEPT = 256
WAY_OUT = f'{CHOICE}="true" in a TextArea says that it holds captions'

GOOD_CONFIG = """<View style="display: flex; gap: 24px; align-items: flex-start">
  <View style="flex: 2; min-width: 0">
    <Image name="image" value="${field}" defaultZoom="fit"/>
  </View>
  <View style="flex: 1; min-width: 240px">
    <Header value="Describe the image:"/>
    <TextArea name="{control}" toName="image" rows="5" maxSubmissions="1" editable="true"/>
  </View>
</View>"""

# lxml refuses text that declares an encoding.
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_FIELD = re.compile(r"\$[^$/:?]+")
_VARIABLE = re.compile(r"\$([\w\[\].{}]+)")


@dataclass(frozen=True, kw_only=True)
class CaptionControl:
    """A TextArea that describes an Image: one caption per task."""

    from_name: str
    """The TextArea's name."""
    to_name: str
    """The Image's name."""
    image_field: str
    """Where the task's data name the image: a key, or a path such as `shop.photos[0].url`."""
    address: str = ""
    """The Image's value where there is more in it than the field: `https://pictures.example.org/$file`."""


@dataclass(frozen=True, kw_only=True)
class CaptionFields:
    """The text areas of a labeling config."""

    controls: tuple[CaptionControl, ...]
    """Those that hold captions, in the order of the config."""
    others: frozenset[str]
    """Names of those that hold something else."""
    unsupported: tuple[str, ...]
    """Sentences on what could have a caption and gets none."""


def good_label_config(image_field: str = "image", control: str = "caption") -> str:
    """Return a labeling config with the picture and its caption side by side, so that both are in view.

    Args:
        image_field: key of the image in the tasks' data.
        control: name of the text area.
    """
    return GOOD_CONFIG.format(field=_quoted(image_field), control=_quoted(control))


def parse_caption_controls(label_config: str) -> tuple[CaptionControl, ...]:
    """Return the caption controls of a labeling config, in its order; at least one.

    Raises:
        LabelConfigError: the config cannot be parsed, or no TextArea holds captions of an Image.
    """
    return parse_caption_fields(label_config).controls


@lru_cache(maxsize=CONFIGS_KEPT)
def parse_caption_fields(label_config: str) -> CaptionFields:
    """Return all text areas of a labeling config; at least one holds captions.

    Raises:
        LabelConfigError: the config cannot be parsed, or no TextArea holds captions of an Image.
    """
    interface = _parse(label_config)
    areas = [tag for tag in interface.controls if tag.tag == "TextArea"]
    chosen = [tag for tag in areas if _attribute(tag, CHOICE) == "true"]
    controls = tuple(control for tag in chosen or areas if (control := _caption_control(tag, is_chosen=bool(chosen))))
    unsupported = tuple(_unsupported(label_config, interface))
    if not controls:
        reasons = "; " + "; ".join(unsupported) if unsupported else f", found {_inventory(interface)}"
        raise LabelConfigError(
            'the labeling config needs a TextArea whose toName is an Image with value="$field"' + reasons
        )
    if unsupported:
        logger.warning("labeling config has fields without captions reason=%s", "; ".join(unsupported))
    names = {control.from_name for control in controls}
    return CaptionFields(
        controls=controls,
        others=frozenset(tag.name for tag in areas if tag.name not in names),
        unsupported=unsupported,
    )


def has_captions(label_config: str) -> bool:
    """Say whether a labeling config has a caption control."""
    try:
        return bool(parse_caption_controls(label_config))
    except LabelConfigError:
        return False


def read_image_ref(task_data: Mapping[str, Any], control: CaptionControl) -> str:
    """Return the address or path of the task's image, in one of the forms that docs/label-studio.md lists.

    Raises:
        TaskError: the field is missing or holds no text; in a longer address, it may also hold a number.
    """
    value = _value(task_data, control.image_field)
    if control.address and isinstance(value, str | int | float) and not isinstance(value, bool):
        found = {name: _value(task_data, name) for name in _VARIABLE.findall(control.address)}
        image_ref = _VARIABLE.sub(lambda name: "" if found[name[1]] is None else str(found[name[1]]), control.address)
    else:
        image_ref = value if isinstance(value, str) else ""
    image_ref = image_ref.strip()
    if not image_ref:
        fields = ", ".join(sorted(map(str, task_data))) or "none"
        raise TaskError(f"the task's data have no image reference at {control.image_field!r}, its fields: {fields}")
    return "data:" + image_ref[5:] if image_ref[:5].lower() == "data:" else image_ref


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


def _caption_control(tag: Any, *, is_chosen: bool) -> CaptionControl | None:
    """Return the caption control that a TextArea is, or None.

    Args:
        tag: the TextArea.
        is_chosen: its owner says that it holds captions.
    """
    # A text area per region describes a part that somebody marked, not the image; a name with {{idx}} is a template of
    # many tags.
    if _is_per_region(tag) or "{{" in tag.name or _attribute(tag, CHOICE) == "false":
        return None
    if not is_chosen and has_other_purpose(tag.name):
        return None
    for image in tag.objects:
        # The SDK takes a valueList for the value.
        is_one_picture = image.tag == "Image" and not _attribute(image, "valuelist")
        value = (image.value or "").strip() if is_one_picture else ""
        if _FIELD.fullmatch(value):
            return CaptionControl(from_name=tag.name, to_name=image.name, image_field=value[1:])
        if variable := _VARIABLE.search(value):
            return CaptionControl(from_name=tag.name, to_name=image.name, image_field=variable[1], address=value)
    return None


def _is_per_region(tag: Any) -> bool:
    """Say whether a TextArea is about marked regions. Label Studio's page reads attributes in any case."""
    return _attribute(tag, "perregion") not in {"", "false"}


def _attribute(tag: Any, name: str) -> str:
    """Return the value of an attribute in small letters, whatever the case of its name; "" where there is none."""
    values = (str(value) for key, value in tag.attr.items() if str(key).lower() == name)
    return next(values, "").strip().lower()


def _unsupported(label_config: str, interface: Any) -> Iterator[str]:
    """Yield a sentence for each text area or image that may surprise its owner by having no caption."""
    if re.search(r"<\s*Repeater\b", label_config):
        yield (
            "a Repeater makes its tags in the page, for each item of a task, and they get no captions: write one Image "
            "and one TextArea for each picture, or import one task for each picture"
        )
    images = {image.name: image for image in interface.objects if image.tag == "Image"}
    for tag in interface.controls:
        if tag.tag != "TextArea" or _is_per_region(tag) or "{{" in tag.name or _attribute(tag, CHOICE) == "false":
            continue
        for image in (images[name] for name in tag.to_name if name in images):
            if _attribute(image, "valuelist"):
                yield (
                    f"Image {image.name!r} shows several pictures (valueList), and a caption is made for one: TextArea "
                    f"{tag.name!r} gets none; use an Image with value for each picture"
                )
            elif _attribute(tag, CHOICE) != "true" and has_other_purpose(tag.name):
                yield f"TextArea {tag.name!r} is not taken for a caption because of its name; {WAY_OUT}"


def _inventory(interface: Any) -> str:
    """Say in words which tags a config has: `TextArea "c" -> "t"; Text "t" value="$text"`."""
    tags = [f'{tag.tag} "{tag.name}" -> "{",".join(tag.to_name)}"' for tag in interface.controls]
    tags += [f'{tag.tag} "{tag.name}" value="{tag.value}"' for tag in interface.objects]
    return "; ".join(tags) or "no tag with a name"


def _quoted(text: str) -> str:
    """Return a text as it stands between quotation marks in XML."""
    return escape_markup(text, {'"': "&quot;"})


def _value(task_data: Mapping[str, Any], field: str) -> Any:
    """Return the value of a key, or of a path where there is no such key."""
    value = task_data.get(field)
    return _walk(task_data, field) if value is None else value


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
