import torch

from model.bundle import bundle_path, load_bundle
from model.decoders.search import DecodingOptions
from model.scenes import draw_scenes
from model.scenes.evaluation import caption_facts


def test_the_scenes_bundle_states_no_wrong_fact_on_at_least_90_of_100_unseen_scenes() -> None:
    report = caption_facts(load_bundle("scenes").captioner(), count=100, seed=31, size=128)

    assert report.correct >= 0.9, report.examples


def test_the_scenes_bundle_and_its_replay_fit_into_12_megabytes() -> None:
    files = list(bundle_path("scenes").iterdir())

    assert sum(file.stat().st_size for file in files) <= 12e6
    assert {"MODEL_CARD.md", "bundle.json"} <= {file.name for file in files}


def test_the_replay_captions_are_what_the_decoder_knows() -> None:
    bundle = load_bundle("scenes")

    assert len(bundle.replay) >= 200
    assert all(example.features.dtype == torch.float16 for example in bundle.replay)
    assert all(
        example.caption == bundle.tokenizer.decode(bundle.tokenizer.encode(example.caption))
        for example in bundle.replay
    )


def test_alternatives_are_distinct_captions_of_the_same_scene() -> None:
    captioner = load_bundle("scenes").captioner()
    pictures = [picture for picture, _ in draw_scenes(4, seed=9, size=160)]

    found = captioner.caption(captioner.encode(pictures), DecodingOptions(beam_size=3, alternatives=3))

    assert all(len({caption.text for caption in captions}) == 3 for captions in found)
