"""Commands that exchange captions and bundles with other programs: export, import."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.commands import bundle_commands
from backend.commands import shared_options as shared
from model.errors import SettingsError

if TYPE_CHECKING:
    from model.caption_files.read import CaptionSource

_CAPTIONS, _BUNDLE = "A project's captions", "A bundle"


@shared.command("captioner export 1 --format coco --images --out captions-of-1")
@click.argument("project", type=int, required=False)
@shared.option("--out", type=shared.PATH, required=True, metavar="DIR", help="New directory to write into.")
@shared.option(
    "--format",
    "layout",
    type=click.Choice(["coco", "huggingface"]),
    section=_CAPTIONS,
    help="COCO's captions.json, or Hugging Face's metadata.jsonl beside the images.",
)
@shared.option(
    "--precision", section=_BUNDLE, metavar="BITS", help="Precision of the stored weights: int8, fp16 or fp32."
)
@shared.option(
    "--bundle", section=_BUNDLE, metavar="NAME", help="photos, scenes or a directory.  [default: CAPTION_BUNDLE]"
)
@shared.captions_source(
    section="Captioned images to measure a bundle's loss on (without them only sizes are compared)",
    required=False,
    images_alone="With PROJECT and without DIR: fetch the project's images into the new directory.",
)
@shared.strict
def export(
    project: int | None,
    out: Path,
    layout: str | None,
    precision: str | None,
    bundle: str | None,
    source: "CaptionSource | None",
    images_alone: bool,
    strict: bool,
) -> int:
    """Write a project's captions for other programs, or a bundle in another precision.

    PROJECT is the number in the project's address in Label Studio. Its corrections are written; without --images the
    file has the addresses of the images. Without PROJECT a bundle is written again. Exits with 1 if something of a
    project was left out.
    """
    if project is None:
        if layout is not None or (images_alone and precision is None):
            raise click.UsageError("Missing argument 'PROJECT': the number in the project's address in Label Studio.")
        if precision is None:
            raise click.UsageError("Missing option '--precision'.")
        if images_alone:
            raise click.UsageError("Option '--images' requires a directory if a bundle is written.")
        return bundle_commands.export_bundle(source, bundle, precision, out, strict)
    useless = {"--precision": precision, "--bundle": bundle, "--captions": source, "--strict": strict}
    if written := [name for name, value in useless.items() if value]:
        raise click.UsageError(f"{' and '.join(written)} cannot be used with PROJECT, only for a bundle.")
    if layout is None:
        raise click.UsageError("Missing option '--format': coco or huggingface.")
    return _export_captions(project, layout, out, with_images=images_alone)


@shared.command("captioner import 1 captions.csv --dry-run", name="import")
@shared.project_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@shared.option("--control", metavar="NAME", help="TextArea of the captions, if the labeling config has several.")
@shared.option("--split", metavar="SPLIT", help="Part of a Karpathy file.")
@shared.flag("--dry-run", help="Only say what would be added.")
def import_(project: int, file: Path, control: str | None, split: str | None, dry_run: bool) -> int:
    """Add the captions of a file to a project, as annotations in Label Studio.

    PROJECT is the number in the project's address in Label Studio. FILE has any format that `captioner train` reads. A
    caption goes to the task whose image has the name in FILE. Tasks that have other annotations stay as they are. A
    repeated import adds nothing twice. Exits with 1 if something was left out.
    """
    from backend.label_studio.client import LabelStudioClient
    from backend.sync.importing import import_captions
    from model.caption_files.formats import parse_rows
    from model.progress import ProgressDisplay

    client = LabelStudioClient.from_settings(shared.read_settings())
    if client is None:
        raise SettingsError(
            "LABEL_STUDIO_API_KEY is not set, so nothing can be added; docs/settings.md says where it is"
        )
    rows = parse_rows(file, split)
    with ProgressDisplay() as show:
        done = import_captions(client, project, rows, control=control, dry_run=dry_run, on_progress=show)
    verb = "would be added" if dry_run else "added"
    print(f"captions {verb} to project {project}: {done.added}; there already: {done.present}")
    print(done.left_out.summary())
    return 1 if done.left_out.cases else 0


def _export_captions(project: int, layout: str, out: Path, *, with_images: bool) -> int:
    from backend.sync.exporting import export_captions
    from model.caption_files.write import LAYOUTS
    from model.progress import ProgressDisplay

    [chosen] = [supported for supported in LAYOUTS if supported == layout]
    settings = shared.read_settings()
    with ProgressDisplay() as show:
        exported = shared.with_redis_and_store(
            lambda redis, _: export_captions(
                redis, settings, project, chosen, out, with_images=with_images, on_progress=show
            )
        )
    images = "images" if with_images else "images, by their addresses"
    print(f"wrote {exported.captions} captions of {exported.images} {images} to {exported.file}")
    print(exported.left_out.summary())
    return 1 if exported.left_out.cases else 0
