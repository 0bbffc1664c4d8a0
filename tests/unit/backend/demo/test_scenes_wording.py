from backend.demo.scenes import sample_scene, write_captions, wrong_facts
from backend.demo.scenes.checking import parse_claims

SAMPLE = [sample_scene(seed) for seed in range(400)]


def test_no_written_caption_has_a_wrong_fact() -> None:
    for scene in SAMPLE:
        for caption in write_captions(scene, 8):
            assert wrong_facts(caption, scene) == []


def test_every_written_caption_names_every_group() -> None:
    for scene in SAMPLE:
        for caption in write_captions(scene, 8):
            assert len(parse_claims(caption).mentions) == len(scene.groups)


def test_captions_of_a_scene_are_the_same_for_a_seed_and_differ_from_each_other() -> None:
    captions = write_captions(SAMPLE[0], 6, seed=4)

    assert captions == write_captions(SAMPLE[0], 6, seed=4)
    assert len(set(captions)) == len(captions) == 6


def test_captions_speak_of_every_kind_of_fact() -> None:
    spoken = " | ".join(caption for scene in SAMPLE for caption in write_captions(scene, 4))

    for words in (
        *("an orange ", " three small ", " crosses", "there is a", "there are four"),
        *(" above ", " below ", " to the left of ", " to the right of ", " in front of ", " behind "),
        *(" below it", " behind it", " above them", "on the left and ", "in the top right corner"),
        *("on a striped grey background", "on a dotted background", "on a dark background"),
    ):
        assert words in spoken


def test_captions_are_lower_case_words_without_a_full_stop() -> None:
    for scene in SAMPLE[:100]:
        for caption in write_captions(scene, 4):
            assert caption == caption.lower().strip()
            assert "." not in caption
            assert "  " not in caption
