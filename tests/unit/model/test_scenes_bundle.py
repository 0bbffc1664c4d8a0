import torch

from backend.demo.scenes import draw_scenes
from model.bundle import load_bundle
from model.decoders.search import DecodingOptions, beam_search
from model.manifest import bundle_path
from recipes.scenes.scene_evaluation import caption_facts


def test_the_scenes_bundle_states_no_wrong_fact_on_at_least_90_of_100_unseen_scenes() -> None:
    report = caption_facts(load_bundle("scenes").captioner(), count=100, seed=31, size=128)

    assert report.correct >= 0.9, report.examples


def test_the_scenes_bundle_and_its_replay_fit_into_12_megabytes() -> None:
    files = list(bundle_path("scenes").iterdir())

    assert sum(file.stat().st_size for file in files) <= 12e6
    assert {"MODEL_CARD.md", "bundle.json"} <= {file.name for file in files}


def test_the_replay_captions_are_in_the_vocabulary() -> None:
    bundle = load_bundle("scenes")

    assert len(bundle.replay) >= 200
    assert all(example.features.dtype == torch.float16 for example in bundle.replay)
    assert all(
        example.caption == bundle.tokenizer.decode(bundle.tokenizer.encode(example.caption))
        for example in bundle.replay
    )


def test_alternatives_differ_more_than_the_other_hypotheses_of_the_beam() -> None:
    captioner = load_bundle("scenes").captioner()
    features = captioner.encode([picture for picture, _ in draw_scenes(12, seed=9, size=160)])

    written = captioner.caption(features, DecodingOptions(beam_size=3, alternatives=3))

    beams = beam_search(captioner.decoder, features, DecodingOptions(beam_size=3))
    runners_up = [[captioner.tokenizer.decode(hypothesis.token_ids) for hypothesis in beam] for beam in beams]
    texts = [[caption.text for caption in captions] for captions in written]
    assert [captions[0] for captions in texts] == [captions[0] for captions in runners_up]
    assert all(len(set(captions)) == 3 for captions in texts)
    assert new_words(texts) > 1.2 * new_words(runners_up)


def new_words(written: list[list[str]]) -> int:
    """Count the words of other captions that the best caption does not have."""
    return sum(len(set(other.split()) - set(best.split())) for best, *others in written for other in others)
