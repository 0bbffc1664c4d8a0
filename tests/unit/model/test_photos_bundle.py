"""The built-in bundle `photos`, as it is shipped."""

from model.bundle import load_bundle
from model.manifest import bundle_path, bundle_version


def test_its_encoder_and_its_decoder_are_at_most_12_megabytes_each() -> None:
    sizes = {file.name: file.stat().st_size for file in bundle_path("photos").iterdir()}

    assert max(sizes["encoder.safetensors"], sizes["decoder.safetensors"]) <= 12e6
    assert sum(sizes.values()) <= 22e6


def test_its_card_names_its_version_its_command_and_its_terms() -> None:
    card = (bundle_path("photos") / "MODEL_CARD.md").read_text()

    assert f"# Model card: {bundle_version('photos')}" in card
    assert load_bundle("photos").record["command"] in card
    assert "research" in card
    assert (bundle_path("photos") / "gallery.jpg").is_file()
