import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.cbook import get_sample_data

from backend.cli import main
from backend.commands.training_options import bundle_options
from model.bundle import load_bundle
from model.manifest import write_first_score
from model.training.bundle_options import BundleOptions, fine_tuning_options, imagenet_encoder
from tests.command_line import parse
from tests.factories import make_first_score, make_image, write_bundle

COMMANDS = [
    "serve",
    "worker",
    "demo",
    "doctor",
    "config",
    "caption",
    "train",
    "distil",
    "evaluate",
    "export",
    "import",
    "versions",
    "promote",
    "rollback",
    "retrain",
    "ledger",
    "forget",
    "backup",
    "restore",
    "user",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0

    text = capsys.readouterr().out
    assert text.startswith(f"Usage: captioner {command} ")
    assert f"captioner {command}" in text.partition("\n")[2]  # an example


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  .*\.$", text.partition("Commands:")[2], re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("words", [[], ["train"], ["evaluate"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = ("torch", "flask", "rq", "redis", "label_studio_sdk", "pydantic_settings", "matplotlib")
    program = "import sys; from backend.cli import main; main(sys.argv[1:])"
    program += f"; print([name for name in {heavy} if name in sys.modules])"

    command = [sys.executable, "-c", program, *words, "--help"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)

    assert loaded.stdout.endswith("\n[]\n")


def test_an_error_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_AFTER", "0")

    code = main(["versions", "1"])

    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert output.err == "captioner: RETRAIN_AFTER must be 1 or more, got 0\n"


def test_caption_writes_one_json_object_per_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", seed=6)  # untrained, but with different captions
    picture, text = tmp_path / "red.png", tmp_path / "text.jpg"
    make_image().save(picture)
    text.write_text("no image")

    code = main(["caption", str(picture), str(text), "--bundle", str(bundle), "--alternatives", "2", "--json"])

    red, broken = map(json.loads, capsys.readouterr().out.splitlines())
    assert code == 1
    assert red["image"] == str(picture)
    assert len(red["captions"]) == 2
    assert broken["image"] == str(text)
    assert broken["error"]


def test_caption_says_how_likely_the_main_things_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, picture = write_bundle(tmp_path / "bundle", seed=6), tmp_path / "red.png"
    make_image().save(picture)
    write_first_score(bundle, make_first_score(load_bundle(str(bundle)).encoder.feature_size))

    assert main(["caption", str(picture), "--bundle", str(bundle)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert main(["caption", str(picture), "--bundle", str(bundle), "--json"]) == 0
    [caption] = json.loads(capsys.readouterr().out)["captions"]

    assert line.endswith(f"(subject and action are right: {caption['subject_and_action_right']:.0%})")
    assert 0 < caption["subject_and_action_right"] < caption["score"]


def test_caption_uses_the_bundle_for_photos_when_none_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAPTION_BUNDLE", raising=False)
    officer = get_sample_data("grace_hopper.jpg", asfileobj=False)

    code = main(["caption", officer])

    assert code == 0
    assert re.search(r"\b(wo)?man\b", capsys.readouterr().out)


def evaluate_arguments(folder: Path, rows: str = "red.png,a red picture\n") -> list[str]:
    """Write a bundle, a red picture and its captions; return the command that evaluates them."""
    bundle = write_bundle(folder / "bundle")
    make_image().save(folder / "red.png")
    (folder / "captions.csv").write_text("image,caption\n" + rows)
    files = ["--captions", str(folder / "captions.csv"), "--images", str(folder)]
    return ["evaluate", *files, "--bundle", str(bundle), "--no-java"]


def test_evaluate_prints_metrics_of_captioned_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(evaluate_arguments(tmp_path))

    output = capsys.readouterr().out
    assert code == 0
    assert "BLEU-4" in output
    assert "words to edit until the nearest reference is reached" in output
    assert "nothing left out" in output


def test_evaluate_counts_what_it_leaves_out_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no image")
    rows = "red.png,a red picture\nred.png,\nred.png,a red picture\ngone.png,nothing\ntext.png,a text\n"

    code = main(evaluate_arguments(tmp_path, rows))

    summary = capsys.readouterr().out.splitlines()[-1]
    assert code == 0
    assert summary.startswith(
        "left out: empty captions: 1 (line 3); duplicate captions: 1 (line 4); missing images: 1 (gone.png); "
        "unreadable images: 1 (text.png: "
    )


def test_evaluate_strict_stops_at_what_it_would_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no image")

    arguments = [*evaluate_arguments(tmp_path, "red.png,a\ngone.png,nothing\n"), "--strict"]

    missing = main(arguments)
    missing_output = capsys.readouterr()
    (tmp_path / "captions.csv").write_text("image,caption\nred.png,a\ntext.png,a text\n")
    unreadable = main(arguments)
    unreadable_output = capsys.readouterr()

    assert (missing, unreadable) == (2, 2)
    assert (missing_output.out, unreadable_output.out) == ("", "")
    assert "missing images: 1 (gone.png)" in missing_output.err
    assert "unreadable images: 1 (text.png: " in unreadable_output.err


def test_evaluate_takes_a_karpathy_split_and_writes_json_and_a_gallery(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = evaluate_arguments(tmp_path)
    images = [
        {"filename": "red.png", "split": "test", "sentences": [{"raw": "a red picture"}]},
        {"filename": "unseen.png", "split": "train", "sentences": [{"raw": "a secret"}]},
    ]
    (tmp_path / "captions.csv").write_text(json.dumps({"images": images}))
    page = tmp_path / "out.html"

    code = main([*arguments, "--split", "test", "--json", "--gallery", str(page)])

    output = capsys.readouterr()
    record = json.loads(output.out)
    assert code == 0
    assert record["metrics"]["images"] == 1
    assert record["captions"][0]["references"] == ["a red picture"]
    assert record["left_out"] == {}
    assert "a red picture" in page.read_text("utf-8")
    assert f"{page} is written (images: 1)" in output.err


def test_evaluate_refuses_a_gallery_in_a_missing_directory_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = main([*evaluate_arguments(tmp_path), "--gallery", str(tmp_path / "nowhere" / "out.html")])

    output = capsys.readouterr()
    assert (nowhere, output.out) == (2, "")
    assert "--gallery" in output.err


def test_evaluate_cross_validates_with_the_options_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(16):
        make_image(f"rgb({16 * number}, 99, 200)").save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": "a picture"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    images = ["--captions", str(tmp_path / "captions.jsonl"), "--images", str(tmp_path), "--folds", "2"]
    encoder = ["--encoder", "scene_cnn", "--weights", "none", "--image-size", "32"]
    small = ["--cell", "gru", "--layers", "1", "--hidden", "8", "--min-count", "1", "--epochs", "1"]
    arguments = ["evaluate", *images, *encoder, *small, "--reward-epochs", "0"]

    code = main([*arguments, "--json"])

    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert sum(fold["metrics"]["images"] for fold in record["folds"]) == 16
    assert record["mean"].keys() == record["deviation"].keys()
    assert main(arguments) == 0
    assert "2-fold cross-validation on 16 images" in capsys.readouterr().out


def test_folds_refuse_a_bundle_because_they_train_their_own_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["evaluate", "--captions", "a", "--images", "b", "--folds", "2", "--bundle", "scenes"])

    assert code == 2
    assert "leave out --bundle" in capsys.readouterr().err


def test_options_of_training_are_refused_where_nothing_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["evaluate", "--captions", "a", "--images", "b", "--epochs", "3", "--json"])

    assert code == 2
    assert "--epochs: without --folds nothing is trained" in capsys.readouterr().err


def test_evaluate_keeps_features_between_runs(tmp_path: Path) -> None:
    arguments = [*evaluate_arguments(tmp_path), "--features", str(tmp_path / "store")]

    codes = (main(arguments), main(arguments))

    assert codes == (0, 0)
    assert len(list((tmp_path / "store").rglob("*.npy"))) == 1


def test_export_prints_sizes_and_the_loss_of_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *files, _, bundle, _ = evaluate_arguments(tmp_path)
    out = tmp_path / "int8"

    code = main(["export", "--bundle", bundle, "--precision", "int8", "--out", str(out), *files])

    output = capsys.readouterr().out
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()[1:6]] == [
        "encoder.safetensors",
        "decoder.safetensors",
        "replay.safetensors",
        "BLEU-4",
        "CIDEr-D",
    ]
    assert f"CAPTION_BUNDLE={out} uses it" in output
    assert main(["caption", str(tmp_path / "red.png"), "--bundle", str(out)]) == 0


def test_export_wants_captions_and_images_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["export", "--precision", "int8", "--out", str(tmp_path / "out"), "--captions", "a.csv"])

    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "--captions and --images go together" in capsys.readouterr().err


def test_train_makes_a_bundle_that_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for colour in ("red", "green", "blue", "yellow", "black", "white", "purple", "orange", "pink", "brown"):
        make_image(colour).save(tmp_path / f"{colour}.png")
        rows.append(json.dumps({"image": f"{colour}.png", "caption": f"a {colour} picture"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    (tmp_path / "held-out.txt").write_text("pink.png\nbrown.png\n")
    images = ["--captions", str(tmp_path / "captions.jsonl"), "--images", str(tmp_path)]
    held_out = ["--held-out-names", str(tmp_path / "held-out.txt")]
    encoder = ["--encoder", "scene_cnn", "--weights", "none", "--image-size", "32"]
    small = ["--hidden", "8", "--min-count", "1", "--epochs", "1"]

    code = main(["train", *images, *held_out, *encoder, *small, "--out", str(tmp_path / "bundle"), "--name", "tiny"])

    assert code == 0
    assert f"CAPTION_BUNDLE={tmp_path / 'bundle'} uses it" in capsys.readouterr().out
    assert main(["caption", str(tmp_path / "red.png"), "--bundle", str(tmp_path / "bundle")]) == 0


def test_train_learns_from_one_split_of_a_karpathy_file_and_measures_on_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = []
    for number, colour in enumerate(("red", "green", "blue", "yellow", "black", "white")):
        make_image(colour).save(tmp_path / f"{colour}.png")
        split = ("train", "train", "train", "val", "val", "test")[number]
        images.append({"filename": f"{colour}.png", "split": split, "sentences": [{"raw": f"a {colour} picture"}]})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    source = ["--captions", str(tmp_path / "dataset.json"), "--images", str(tmp_path)]
    encoder = ["--encoder", "scene_cnn", "--weights", "none", "--image-size", "32"]
    small = ["--hidden", "8", "--min-count", "1", "--epochs", "1", "--reward-epochs", "0"]
    out = ["--out", str(tmp_path / "bundle")]

    code = main(["train", *source, "--split", "train", "--held-out-split", "val", *encoder, *small, *out])

    record = json.loads((tmp_path / "bundle" / "bundle.json").read_text("utf-8"))["record"]
    assert code == 0
    assert (record["train_images"], record["held_out_images"]) == (3, 2)
    assert " on 2 images" in capsys.readouterr().out


def fine_tuning_arguments(folder: Path, *, rows: str = "") -> list[str]:
    """Write a bundle, ten pictures and their captions; return the command that trains the bundle on them."""
    lines = ["image,caption"]
    for colour in ("red", "green", "blue", "yellow", "black", "white", "purple", "orange", "pink", "brown"):
        make_image(colour).save(folder / f"{colour}.png")
        lines.append(f"{colour}.png,behold a {colour} picture")
    (folder / "my.csv").write_text("\n".join(lines) + "\n" + rows)
    (folder / "held-out.txt").write_text("pink.png\nbrown.png\n")
    source = ["--captions", str(folder / "my.csv"), "--images", str(folder)]
    held_out = ["--held-out-names", str(folder / "held-out.txt")]
    short = ["--epochs", "1", "--views", "1", "--out", str(folder / "mine")]
    return ["train", "--from", str(write_bundle(folder / "bundle")), *source, *held_out, *short]


def test_train_continues_from_a_bundle_and_prints_scores_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(fine_tuning_arguments(tmp_path))

    output = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "mine" / "bundle.json").read_text("utf-8"))["record"]
    assert code == 0
    assert output[0].startswith("tiny-")
    assert output[0].endswith(" before, on 2 held-out images, and after training")
    assert output[1].split() == ["before", "after", "change"]
    assert output[7].split()[1:3] == [
        f"{100 * metrics['cider_d']:.1f}"
        for metrics in (record["started_from"]["held_out_metrics"], record["held_out_metrics"])
    ]
    assert f"CAPTION_BUNDLE={tmp_path / 'mine'} uses it" in output[-1]
    options = record["options"]
    assert (options["training"]["epochs"], options["min_count"], options["self_critical"]["epochs"]) == (1, 2, 0)
    assert main(["caption", str(tmp_path / "red.png"), "--bundle", str(tmp_path / "mine")]) == 0


def test_the_help_of_train_names_the_defaults_of_continuing_from_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0

    output, recipe = " ".join(capsys.readouterr().out.split()), fine_tuning_options()
    training = recipe.training
    assert (
        f"--epochs is then {training.epochs} by default, --reward-epochs {recipe.self_critical.epochs}, --batch-size "
        f"{training.batch_size}, --min-count {recipe.min_count}, --dropout {training.dropout}"
    ) in output


def test_train_cannot_continue_from_a_bundle_that_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fine_tuning_arguments(tmp_path)
    arguments[2] = "nowhere"

    code = main(arguments)

    assert (code, (tmp_path / "mine").exists()) == (2, False)
    assert "no bundle at 'nowhere': give a directory with bundle.json, or one of: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--layers", "2"], ["--no-attention"], ["--hidden=512"], ["--encoder", "resnet18", "--cell", "lstm"]]
)
def test_train_refuses_options_that_the_bundle_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    code = main([*fine_tuning_arguments(tmp_path), *options])

    names = ", ".join(option.split("=")[0] for option in options if option.startswith("--"))
    assert (code, (tmp_path / "mine").exists()) == (2, False)
    assert f": leave out {names}, or leave out --from to start a new network" in capsys.readouterr().err


def test_unusable_pictures_are_counted_in_one_line_and_stop_a_strict_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fine_tuning_arguments(tmp_path, rows="gone.png,behold nothing\nred.png,\nmy.csv,behold a text\n")

    strict = main([*arguments, "--strict"])
    strict_output = capsys.readouterr()
    lenient = main(arguments)

    assert (strict, lenient, strict_output.out) == (2, 0, "")
    assert "missing images: 1 (gone.png)" in strict_output.err
    assert (
        capsys.readouterr()
        .out.splitlines()[-2]
        .startswith(
            "left out: empty captions: 1 (line 13); missing images: 1 (gone.png); unreadable images: 1 (my.csv: "
        )
    )


def test_a_gallery_of_no_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--captions", "a", "--images", "b", "--gallery-images", "0"]) == 2

    assert "Invalid value for '--gallery-images': must be 1 or more, got '0'" in capsys.readouterr().err


def usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that is refused; return the last line of the message."""
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["server"], "Error: No such command 'server'. (Did you mean one of: 'serve', 'user'?)"),
        (["evalute"], "Error: No such command 'evalute'. Did you mean 'evaluate'?"),
        (["xyzzy"], "Error: No such command 'xyzzy'."),
        (["doctor", "--repare"], "Error: No such option '--repare'. Did you mean '--repair'?"),
        (["train", "--epoch", "3"], "Error: No such option '--epoch'. (Did you mean one of: '--epochs', '--"),
        (["ledger", "1", "--xml"], "Error: No such option '--xml'."),
        (["ledger", "one"], "Error: Invalid value for 'PROJECT': 'one' is not a valid integer."),
        (["promote", "1"], "Error: Missing argument 'VERSION'."),
        (["caption"], "Error: Missing argument 'IMAGE...'."),
        (["train", "--out", "a"], "Error: Missing option '--captions'."),
        (["export", "--out", "a"], "Error: Missing option '--precision'."),
        (
            ["export", "--out", "a", "--format", "coco"],
            "Error: Missing argument 'PROJECT': the number in the project's",
        ),
        (["export", "1", "--out", "a"], "Error: Missing option '--format': coco or huggingface."),
        (
            ["export", "1", "--out", "a", "--format", "yolo"],
            "Error: Invalid value for '--format': 'yolo' is not one of ",
        ),
        (["export", "1", "--out", "a", "--precision", "int8"], "Error: --precision cannot be used with PROJECT, only "),
        (
            ["export", "--out", "a", "--precision", "int8", "--images"],
            "Error: Option '--images' requires a directory if",
        ),
        (["import", "1"], "Error: Missing argument 'FILE'."),
        (["user", "anna"], "Error: One of --role and --remove is needed."),
        (["user", "anna", "--role", "boss"], "Error: Invalid value for '--role': 'boss' is not one of 'viewer', 'ope"),
        (["worker", "retrain"], "Error: Got unexpected extra argument (retrain)."),
        (["worker", "--queues"], "Error: Option '--queues' requires an argument."),
        (["caption", "a.jpg", "--alternatives", "0"], "Error: Invalid value for '--alternatives': must be 1 or more, "),
        (["distil", "--epochs", "few"], "Error: Invalid value for '--epochs': must be 1 or more, got 'few'"),
        (["train", "--taught-stages", "-1"], "Error: Invalid value for '--taught-stages': must be a number or all, g"),
    ],
)
def test_a_wrong_command_line_is_refused_with_a_hint(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage_error(words, capsys).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--check", "--photos", "a"], "--photos and --check do not go together"),
        (["demo", "--check", "--no-label-studio"], "--check and --no-label-studio do not go together"),
        (["ledger", "1", "--json", "--csv"], "--json and --csv do not go together"),
        (["user", "anna", "--role", "viewer", "--remove"], "--role and --remove do not go together"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage_error(words, capsys) == f"Error: {message}: choose one of them."


def test_without_a_command_the_help_is_shown_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "queues"),
    [
        ([], []),
        (["--queues", "retrain"], ["retrain"]),
        (["--queues", "label-studio", "retrain", "--burst"], ["label-studio", "retrain"]),
        (["--burst", "--queues", "retrain", "label-studio"], ["retrain", "label-studio"]),
    ],
)
def test_a_worker_serves_the_named_queues_in_their_order(words: list[str], queues: list[str]) -> None:
    options = parse(["worker", *words]).params

    assert [*options["queues"], *options["further_queues"]] == queues
    assert options["burst"] == ("--burst" in words)


def test_continuing_from_a_bundle_has_its_own_defaults_and_written_options_stay() -> None:
    needed = ["train", "--captions", "a", "--images", "b", "--out", "c"]

    first, fine = parse(needed).params, parse([*needed, "--epochs", "3", "--from", "scenes"]).params

    assert (first["epochs"], first["batch_size"], first["min_count"], first["reward_epochs"]) == (10, 160, 4, 6)
    assert (fine["epochs"], fine["batch_size"], fine["min_count"], fine["reward_epochs"]) == (3, 32, 2, 0)


def test_the_defaults_of_train_are_those_of_the_recipe() -> None:
    options = parse(["train", "--captions", "a", "--images", "b", "--out", "c"]).params

    assert bundle_options(options, name="photos") == BundleOptions()
    assert imagenet_encoder(options["encoder"], options["image_size"]) == imagenet_encoder()


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def isatty(self) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())

    assert main(["user", "anna", "--role", "viewer"]) == 130
