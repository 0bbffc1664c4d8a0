"""The `captioner` command: reads the command line and hands over to `commands`.

Nothing heavy is imported before a command runs, so `--help` is instant.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from backend.commands import commands
from model.errors import CaptionerError

DESCRIPTION = "Suggests image captions inside Label Studio and learns from every caption annotators correct."
EPILOG = "Settings are environment variables; the README has the table. `captioner COMMAND --help` explains a command."

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 done with findings, 2 not done, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(words)
    # No command takes abbreviations, so these are the options whose value is a choice and not a default.
    arguments.written = {word.split("=")[0] for word in words if word.startswith("--")}
    run: Command = arguments.run
    try:
        return run(arguments)
    except CaptionerError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="captioner", description=DESCRIPTION, epilog=EPILOG)
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_serve,
        _add_worker,
        _add_demo,
        _add_doctor,
        _add_caption,
        _add_train,
        _add_distil,
        _add_evaluate,
        _add_export,
        _add_versions,
        _add_promote,
        _add_rollback,
        _add_ledger,
        _add_user,
    ):
        add(subcommands)
    return parser


Subcommands = argparse._SubParsersAction  # argparse has no public name for it


def _add(subcommands: "Subcommands[argparse.ArgumentParser]", run: Command, summary: str) -> argparse.ArgumentParser:
    """Add a subcommand named like the function that runs it."""
    parser = subcommands.add_parser(
        run.__name__, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _add_serve(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    _add(subcommands, commands.serve, "answer Label Studio: suggest captions, store corrections (HOST, PORT)")


def _add_worker(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.worker, "run the queued jobs: retrainings and what they need of Label Studio")
    parser.add_argument("--queues", nargs="+", metavar="QUEUE", help="label-studio, retrain (both, in this order)")
    parser.add_argument("--burst", action="store_true", help="end when the queues are empty")
    parser.add_argument("--alive", action="store_true", help="only tell whether a worker runs here: exit 0 or 1")


def _add_demo(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.demo, "run the whole product on this machine, Label Studio included")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--photos", type=Path, metavar="DIR", help="use the pictures of this directory")
    which.add_argument("--check", action="store_true", help="play the annotator, print JSON, exit 0 if it all worked")
    which.add_argument(
        "--no-label-studio",
        action="store_true",
        help="Redis, backend and worker only, for the Label Studio at LABEL_STUDIO_URL; state is kept in .run/",
    )
    parser.add_argument(
        "--setup-seconds", type=int, default=0, metavar="S", help="how long installing took, for the summary"
    )


def _add_doctor(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.doctor, "check everything the product needs, one line each")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended, such as webhook headers")


def _add_caption(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.caption, "write captions of image files")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    _add_model_choice(parser)
    parser.add_argument("--alternatives", type=int, metavar="K", help="captions per image, best first (ALTERNATIVES)")
    parser.add_argument("--json", action="store_true", help="one JSON object per image")


def _add_train(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.train, "make a bundle from captioned images")
    parser.epilog = (
        "The same command goes on after the last whole epoch of a training that was interrupted. training.json and "
        "curves.png in DIR show how it stands. `torchrun --nproc-per-node N -m backend.cli train ...` trains in N "
        "processes, each on a GPU of its own where there are any; --features lets them share the work of encoding."
    )
    parser.add_argument(
        "--from",
        dest="base",
        metavar="BUNDLE",
        help="go on from a bundle (scenes, photos or a directory) with its encoder, vocabulary and decoder, and tell "
        "what became better; --epochs is then 15 by default, --reward-epochs 0, --batch-size 32, --min-count 2, "
        "--dropout 0.3",
    )
    _add_captions_source(parser)
    held_out = parser.add_argument_group("held-out images (default: a tenth of the images, always the same)")
    held_out.add_argument("--held-out-captions", type=Path, metavar="FILE", help="default: the same file")
    held_out.add_argument("--held-out-images", type=Path, metavar="DIR", help="default: the same directory")
    held_out.add_argument("--held-out-names", type=Path, metavar="FILE", help="list of image names, one per line")
    held_out.add_argument("--held-out-split", metavar="SPLIT", help="of a Karpathy file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the new bundle")
    parser.add_argument("--name", default="photos", help="versions are called NAME-<8 hex digits> (%(default)s)")
    _add_device(parser)
    parser.add_argument("--strict", action="store_true", help="stop at anything in the captions that is unusable")
    _add_training(parser, "network and training")


def _add_distil(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(
        subcommands, commands.distil, "teach an encoder with weights of its own, random at first, to see like another"
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="images; no captions are needed")
    parser.add_argument("--names", type=Path, metavar="FILE", help="only the images listed here, one name per line")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of encoder.safetensors")
    _add_encoder(parser)
    parser.add_argument("--epochs-apart", type=_count, default=2, metavar="N", help="stages apart (%(default)s)")
    parser.add_argument("--epochs", type=_count, default=6, metavar="N", help="all stages together (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    _add_device(parser)


def _add_evaluate(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(
        subcommands,
        commands.evaluate,
        "score captions against what people wrote (BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE)",
    )
    _add_captions_source(parser)
    _add_model_choice(parser)
    parser.add_argument("--strict", action="store_true", help="stop at anything that is unusable")
    parser.add_argument("--no-java", dest="java", action="store_false", help="without METEOR and SPICE")
    parser.add_argument("--json", action="store_true", help="metrics and every caption as JSON")
    gallery = parser.add_argument_group("gallery")
    gallery.add_argument(
        "--gallery", type=Path, metavar="FILE", help="write an HTML page of images, captions and attention"
    )
    gallery.add_argument(
        "--gallery-images", type=_count, default=100, metavar="N", help="of more so many are drawn (%(default)s)"
    )
    parser.add_argument_group("cross-validation").add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="train K times on all but a K-th of the images, measure that part; tells mean and deviation, no METEOR",
    )
    _add_training(parser, "network and training of cross-validation")


def _add_export(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(
        subcommands, commands.export, "write a bundle again in another precision, and tell what that saves and costs"
    )
    _add_bundle(parser)
    parser.add_argument("--precision", required=True, metavar="BITS", help="int8, fp16 or fp32, of what is stored")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the new bundle")
    _add_captions_source(parser, "captioned images to measure the loss on (default: only sizes)", required=False)
    parser.add_argument("--strict", action="store_true", help="stop at anything that is unusable")


def _add_versions(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.versions, "list a project's model versions and say which one serves")
    _add_project(parser)
    parser.add_argument("--json", action="store_true", help="everything recorded about them, as JSON")


def _add_promote(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.promote, "let another model version of a project serve")
    _add_project(parser)
    parser.add_argument("version", metavar="VERSION", help="as `captioner versions` names it")


def _add_rollback(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.rollback, "let the model version serve again that served before")
    _add_project(parser)


def _add_ledger(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.ledger, "tell what became of a project's suggestions, by version and annotator")
    _add_project(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all numbers, as JSON")
    form.add_argument("--csv", action="store_true", help="one line for each annotation, for spreadsheets")


def _add_user(subcommands: "Subcommands[argparse.ArgumentParser]") -> None:
    parser = _add(subcommands, commands.user, "let somebody sign in to the admin pages, or no more (ADMIN_USERS_FILE)")
    parser.add_argument("name", metavar="NAME", help="what they sign in with; a known one gets a new password and role")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--role", choices=["viewer", "operator"], help="viewers read everything, operators act too")
    what.add_argument("--remove", action="store_true", help="let them sign in no more")


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, metavar="PROJECT", help="the number in the project's address")


def _add_captions_source(
    parser: argparse.ArgumentParser, title: str = "captioned images", *, required: bool = True
) -> None:
    source = parser.add_argument_group(title)
    source.add_argument(
        "--captions",
        type=Path,
        required=required,
        metavar="FILE",
        help="Flickr token file, COCO or Karpathy JSON, CSV with the columns image and caption, or JSONL",
    )
    source.add_argument("--images", type=Path, required=required, metavar="DIR", help="where the named images are")
    source.add_argument("--names", type=Path, metavar="FILE", help="only the images listed here, one name per line")
    source.add_argument(
        "--split", help="of a Karpathy file: train, val, test or restval, or several, with commas between"
    )


def _add_training(parser: argparse.ArgumentParser, title: str) -> None:
    """Add what decides how a decoder becomes: its encoder, its network and its training."""
    how = parser.add_argument_group(title)
    _add_encoder(how)
    how.add_argument("--features", metavar="DIR", help="keep the images' features here between runs")
    how.add_argument(
        "--taught-stages",
        type=_stages,
        metavar="N",
        help="so many last stages of the encoder learn too, or all (default: those on its final grid of regions)",
    )
    how.add_argument("--views", type=_count, default=4, metavar="N", help="views learned of each image (%(default)s)")
    how.add_argument("--crop", type=float, default=0.75, help="least share of an image that a view has (%(default)s)")
    how.add_argument("--rotation", type=float, default=0.0, help="degrees that a view is turned at most (%(default)s)")
    how.add_argument("--colour", type=float, default=0.2, help="most that a view is tinted, 0 to 1 (%(default)s)")
    how.add_argument(
        "--cell", default="lstm", metavar="CELL", help="lstm, peephole, gru, rnn or transformer (%(default)s)"
    )
    how.add_argument("--layers", type=int, default=2, help="%(default)s")
    how.add_argument("--no-attention", dest="attention", action="store_false", help="read the mean of the regions")
    how.add_argument(
        "--recurrent-regions", action="store_true", help="read the regions in both directions before attention looks"
    )
    how.add_argument("--residual", action="store_true", help="upper layers add what they read from below")
    how.add_argument("--hidden", type=int, default=512, help="size of state and embedding (%(default)s)")
    how.add_argument("--dropout", type=float, default=0.5, help="%(default)s")
    how.add_argument("--min-count", type=int, default=4, help="rarer words are never written (%(default)s)")
    how.add_argument("--epochs", type=int, default=10, help="times each caption is learned (%(default)s)")
    how.add_argument(
        "--reward-epochs",
        type=int,
        default=6,
        help="then times good captions are rewarded; 0: not (%(default)s)",
    )
    how.add_argument(
        "--optimizer", default="adamw", metavar="NAME", help="adamw, adam, rmsprop, adagrad or sgd (%(default)s)"
    )
    how.add_argument("--weight-decay", type=float, default=1e-4, help="L2 (%(default)s)")
    how.add_argument("--batch-size", type=int, default=160, help="captions of one step (%(default)s)")
    how.add_argument("--learning-rate", type=float, default=1e-3, help="%(default)s")
    how.add_argument("--budget-s", type=float, metavar="S", help="stop training after this many seconds")
    how.add_argument("--seed", type=int, default=0, help="%(default)s")


def _add_encoder(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--encoder", default="mobilenet_v2", metavar="NETWORK", help="torchvision network (%(default)s)"
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        metavar="FILE",
        help="state dict file, what `captioner distil` wrote, torchvision's name of a download, or none for a random "
        "start (%(default)s)",
    )
    parser.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="%(default)s")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")


def _add_model_choice(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    parser.add_argument("--project", type=int, help="use the version that serves this project (MODEL_STORE)")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", metavar="NAME", help="photos, scenes or a directory (CAPTION_BUNDLE)")


def _stages(text: str) -> int:
    from model.vision.trainable_stages import ALL

    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or all, got {text!r}")
    return ALL if text == "all" else int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
