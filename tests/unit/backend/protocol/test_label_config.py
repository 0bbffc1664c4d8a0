"""Which text areas hold captions of which images."""

import re

import pytest

from backend.protocol.label_config import (
    CaptionControl,
    compact_image_ref,
    good_label_config,
    parse_caption_controls,
    parse_caption_fields,
    read_image_ref,
)
from model.errors import LabelConfigError, TaskError

PLAIN = """<View><Image name="image" value="$captioning"/><Header value="Describe the image:"/>
<TextArea name="caption" toName="image" placeholder="Enter description here..." rows="5" maxSubmissions="1"/></View>"""


def test_the_template_has_one_caption_control() -> None:
    assert parse_caption_controls(PLAIN) == (
        CaptionControl(from_name="caption", to_name="image", image_field="captioning"),
    )


def test_tags_may_be_named_anything_and_stand_beside_other_controls() -> None:
    config = """<?xml version="1.0" encoding="UTF-8"?>
    <View><Text name="story" value="$story"/><TextArea name="summary" toName="story"/>
      <Image name="Bild links" value="$left"/><Image name="右" value="$pair.right"/>
      <TextArea name="说明" toName="右"/><TextArea name="Beschreibung" toName="Bild links"/>
      <RectangleLabels name="boxes" toName="右"><Label value="dog"/></RectangleLabels>
      <TextArea name="part" toName="右" perRegion="true"/></View>"""

    controls = parse_caption_controls(config)

    assert [(c.from_name, c.to_name, c.image_field) for c in controls] == [
        ("说明", "右", "pair.right"),
        ("Beschreibung", "Bild links", "left"),
    ]


@pytest.mark.parametrize(
    ("config", "tags"),
    [
        (
            '<View><Text name="t" value="$text"/><TextArea name="c" toName="t"/></View>',
            'TextArea "c" -> "t"; Text "t" value="$text"',
        ),
        ('<View><Image name="i" value="$x"/></View>', 'Image "i" value="$x"'),
        (
            '<View><Image name="i" value="$x"/><TextArea name="c" toName="j"/></View>',
            'TextArea "c" -> "j"; Image "i" value="$x"',
        ),
        ("<View/>", "no tag with a name"),
    ],
)
def test_a_config_that_cannot_be_captioned_is_refused_with_what_was_found(config: str, tags: str) -> None:
    with pytest.raises(LabelConfigError) as caught:
        parse_caption_controls(config)

    assert str(caught.value).endswith(f"found {tags}")


@pytest.mark.parametrize("config", ["", "  ", "<View><Image", "no xml at all"])
def test_a_config_that_is_no_xml_is_refused(config: str) -> None:
    with pytest.raises(LabelConfigError):
        parse_caption_controls(config)


def test_an_entity_in_the_config_is_not_expanded_from_a_file() -> None:
    config = """<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/hostname">]>
    <View><Image name="i" value="&x;"/><TextArea name="c" toName="i"/></View>"""

    with pytest.raises(LabelConfigError):
        parse_caption_controls(config)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("captioning", {"captioning": "/data/upload/1/a.png"}),
        ("a.b", {"a.b": "/data/upload/1/a.png"}),
        ("shop.photos[1].url", {"shop": {"photos": [{}, {"url": "/data/upload/1/a.png"}]}}),
    ],
)
def test_the_image_reference_is_read_by_key_or_path(field: str, data: dict[str, object]) -> None:
    control = CaptionControl(from_name="c", to_name="i", image_field=field)

    assert read_image_ref(data, control) == "/data/upload/1/a.png"


@pytest.mark.parametrize("data", [{}, {"image": 5}, {"image": None}, {"image": "  "}, {"image": ["a.png"]}])
def test_a_task_without_an_image_reference_is_an_error_of_that_task(data: dict[str, object]) -> None:
    control = CaptionControl(from_name="c", to_name="i", image_field="image")

    with pytest.raises(TaskError, match="no image reference at 'image'"):
        read_image_ref(data, control)


def test_an_image_inside_the_task_is_stored_by_its_hash_only() -> None:
    reference = "data:image/png;base64," + "A" * 100_000

    compact = compact_image_ref(reference)

    assert compact.startswith("data:,sha256=")
    assert len(compact) < 100
    assert compact == compact_image_ref(reference)
    assert compact != compact_image_ref(reference + "A")
    assert compact_image_ref(compact) == compact
    assert compact_image_ref("/data/upload/1/a.png") == "/data/upload/1/a.png"


def controls_of(*tags: str) -> list[str]:
    config = f'<View><Image name="image" value="$image"/>{"".join(tags)}</View>'
    return [control.from_name for control in parse_caption_controls(config)]


CAPTION = '<TextArea name="caption" toName="image"/>'


@pytest.mark.parametrize("spelling", ["perRegion", "perregion", "PerRegion"])
@pytest.mark.parametrize("value", ["true", "True"])
def test_a_text_area_per_region_holds_no_captions_however_it_is_spelled(spelling: str, value: str) -> None:
    assert controls_of(CAPTION, f'<TextArea name="part" toName="image" {spelling}="{value}"/>') == ["caption"]


def test_a_text_area_that_is_not_per_region_holds_captions() -> None:
    assert controls_of('<TextArea name="caption" toName="image" perRegion="false"/>') == ["caption"]


@pytest.mark.parametrize(
    "name",
    ["notes", "Notes", "imageNotes", "my_note_2", "remarks", "Anmerkung", "comentarios", "备注", "ocr", "answer1"],
)
def test_a_field_whose_name_says_something_else_holds_no_captions(name: str) -> None:
    assert controls_of(CAPTION, f'<TextArea name="{name}" toName="image"/>') == ["caption"]


@pytest.mark.parametrize("name", ["description", "alt_text", "Bildbeschreibung", "说明", "title", "denoted", "t1"])
def test_any_other_field_of_a_whole_image_holds_captions(name: str) -> None:
    assert controls_of(CAPTION, f'<TextArea name="{name}" toName="image"/>') == ["caption", name]


def test_the_owner_can_choose_the_fields_that_hold_captions() -> None:
    notes = '<TextArea name="notes" toName="image" captions="true"/>'
    assert controls_of(CAPTION, notes) == ["notes"]
    assert controls_of('<TextArea name="title" toName="image" captions="false"/>', CAPTION) == ["caption"]


def test_a_config_with_remarks_only_is_refused_with_the_way_out() -> None:
    with pytest.raises(LabelConfigError, match=r"'notes' is not taken for a caption .* captions=\"true\""):
        controls_of('<TextArea name="notes" toName="image"/>')


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ('<Image name="i" valueList="$images"/><TextArea name="c" toName="i"/>', r"several pictures \(valueList\)"),
        (
            '<Repeater on="$images" indexFlag="{{idx}}"><Image name="p_{{idx}}" value="$images[{{idx}}].url"/>'
            '<TextArea name="c_{{idx}}" toName="p_{{idx}}"/></Repeater>',
            "a Repeater makes its tags in the page",
        ),
    ],
)
def test_several_pictures_in_a_tag_are_refused_with_the_reason(tags: str, reason: str) -> None:
    with pytest.raises(LabelConfigError, match=reason):
        parse_caption_fields(f"<View>{tags}</View>")

    beside = f'<View>{tags}<Image name="one" value="$one"/><TextArea name="of_one" toName="one"/></View>'
    fields = parse_caption_fields(beside)
    assert [control.from_name for control in fields.controls] == ["of_one"]
    assert re.search(reason, fields.unsupported[0])


def test_an_address_may_have_a_fixed_beginning() -> None:
    config = '<View><Image name="i" value="http://pictures/$album/$file?s=1"/><TextArea name="c" toName="i"/></View>'
    (control,) = parse_caption_controls(config)

    assert read_image_ref({"album": "a", "file": "b.jpg"}, control) == "http://pictures/a/b.jpg?s=1"
    with pytest.raises(TaskError, match="no image reference at 'album', its fields: file"):
        read_image_ref({"file": "b.jpg"}, control)


def test_a_number_may_stand_in_an_address() -> None:
    config = '<View><Image name="i" value="http://host/$id/$page.x/$more"/><TextArea name="c" toName="i"/></View>'
    (control,) = parse_caption_controls(config)

    assert read_image_ref({"id": 123, "page": {"x": 0}}, control) == "http://host/123/0/"
    assert read_image_ref({"id": 0, "page": {"x": 1.5}, "more": "a"}, control) == "http://host/0/1.5/a"
    for value in (True, None, [1]):
        with pytest.raises(TaskError, match="no image reference at 'id'"):
            read_image_ref({"id": value}, control)


def test_an_address_that_comes_out_empty_is_no_image_reference() -> None:
    control = CaptionControl(from_name="c", to_name="i", image_field="a", address="$a$b")

    assert read_image_ref({"a": "", "b": "/x.png"}, control) == "/x.png"
    with pytest.raises(TaskError, match="no image reference at 'a'"):
        read_image_ref({"a": "", "b": " "}, control)


def test_the_scheme_of_an_image_inside_the_task_may_have_capitals() -> None:
    control = CaptionControl(from_name="c", to_name="i", image_field="image")

    assert read_image_ref({"image": " DATA:image/PNG;base64,AAAA"}, control) == "data:image/PNG;base64,AAAA"


def test_the_good_config_has_one_editable_caption_of_the_field_that_is_named() -> None:
    (control,) = parse_caption_controls(good_label_config("a&b", 'the "caption"'))

    assert (control.from_name, control.image_field) == ('the "caption"', "a&b")
    assert 'editable="true"' in good_label_config()
