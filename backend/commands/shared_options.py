"""Options that several commands share, and the layout of their help."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from model.errors import SettingsError

if TYPE_CHECKING:
    from redis import Redis

    from model.captioner import Captioner
    from model.runtime.serving_bundle import LoadedBundle
    from model.store import Store
    from worker.settings import Settings

Result = TypeVar("Result")
Run = Callable[..., int]
Decorator = Callable[[Run], Run]

ENCODER, NETWORK, TRAINING = "Encoder", "Network", "Training"
"""Sections of the help of `train` and `evaluate`."""
PATH = click.Path(path_type=Path)

_FORMS = (
    "CSV, JSONL, Parquet, COCO or Karpathy JSON, Flickr tokens, Hugging Face's metadata, or an export of Label Studio."
)
_SPLITS = "Part of a Karpathy file: train, val, test or restval, or several with commas between."
_ALONE = Path("/dev/null/images")
"""`--images` without a directory; no directory has this name."""


class SectionedCommand(click.Command):
    """A command whose help shows options in sections, as click itself does not."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and record[1]:  # the docstring explains the arguments
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionedOption(click.Option):
    def __init__(self, *names: Any, section: str = "Options", **details: Any) -> None:
        super().__init__(*names, **details)
        self.section = section


def command(example: str, name: str | None = None) -> Callable[[Run], click.Command]:
    return click.command(name, cls=SectionedCommand, epilog=f"Example: {example}")


def option(*names: str, **details: Any) -> Decorator:
    return click.option(*names, cls=SectionedOption, **details)


def options(*decorators: Decorator) -> Decorator:
    """Join options into one decorator; the help lists them in this order."""
    return lambda run: functools.reduce(lambda inner, decorate: decorate(inner), reversed(decorators), run)


def flag(*names: str, help: str) -> Decorator:  # noqa: A002 - click's word
    return option(*names, is_flag=True, help=help)


def count(value: str | int) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise click.BadParameter(f"must be 1 or more, got {value!r}")
    return int(value)


project_argument: Decorator = click.argument("project", type=int)
bundle = option(
    "--bundle", metavar="NAME", help="photos, scenes or a directory.  [default: the setting CAPTION_BUNDLE]"
)
project = option(
    "--project", type=int, metavar="PROJECT", help="Use the version that is served to this project of MODEL_STORE."
)
strict = flag("--strict", help="Stop at the first thing that cannot be used.")
device = option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.  [default: a GPU if there is one]")
features = option("--features", metavar="DIR", help="Keep the images' features here between runs.")
seed = option("--seed", type=int, default=0, help="Seed of all random numbers.")
names = option("--names", type=PATH, metavar="FILE", help="Take only these images, one a line.")


def captions_source(
    *, section: str = "Captioned images", required: bool = True, images_alone: str | None = None
) -> Decorator:
    """Add the options that name captioned images; the command gets them as `source`, a CaptionSource or None.

    Args:
        section: of the help.
        required: without them the command cannot run.
        images_alone: what `--images` without a directory means, for the help. The command gets `images_alone` too,
            True if it was written so. None: it needs a directory.
    """
    add = functools.partial(option, section=section)
    directory = "Directory of the images that FILE names."
    images_help = f"{directory} {images_alone}" if images_alone else directory
    alone = {"is_flag": False, "flag_value": _ALONE} if images_alone else {}
    declared = options(
        add("--captions", type=PATH, required=required, metavar="FILE", help=_FORMS),
        add("--images", type=PATH, required=required, metavar="DIR", help=images_help, **alone),
        add("--names", type=PATH, metavar="FILE", help="Take only these images, one a line."),
        add("--split", metavar="SPLIT", help=_SPLITS),
    )

    def decorate(run: Run) -> Run:
        @functools.wraps(run)
        def with_source(
            captions: Path | None, images: Path | None, names: Path | None, split: str | None, **others: Any
        ) -> int:
            from model.caption_files.read import CaptionSource

            if images_alone is not None:
                others["images_alone"] = images == _ALONE
                images = None if images == _ALONE else images
            if bool(captions) != bool(images):
                raise SettingsError("--captions and --images go together: give both, or neither for sizes only")
            source = captions and images and CaptionSource(captions=captions, images=images, names=names, split=split)
            return run(source=source, **others)

        return declared(with_source)

    return decorate


def encoder(section: str = ENCODER) -> Decorator:
    """Add the options of an encoder; the command gets `encoder`, an EncoderSpec, and `weights`."""
    add = functools.partial(option, section=section)
    files = "File of a state dict, file that `captioner distil` wrote, the library's name of a download, or none for a "
    declared = options(
        add("--encoder", default="mobilenet_v2", metavar="NETWORK", help="Network of torchvision or timm."),
        add("--weights", default="DEFAULT", metavar="FILE", help=f"{files}random start."),
        add("--image-size", type=int, default=224, metavar="PIXELS", help="Side of an image."),
    )

    def decorate(run: Run) -> Run:
        @functools.wraps(run)
        def with_encoder(encoder: str, image_size: int, **others: Any) -> int:
            from model.training.bundle_options import imagenet_encoder

            return run(encoder=imagenet_encoder(encoder, image_size), **others)

        return declared(with_encoder)

    return decorate


def written_options(*sections: str) -> list[str]:
    """Return the options of these sections that the person wrote in the command line."""
    context = click.get_current_context()
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if isinstance(parameter, SectionedOption)
        and parameter.section in sections
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]


def refuse_together(**chosen: object) -> None:
    """Refuse options of which a person may choose only one."""
    written = [f"--{name.replace('_', '-')}" for name, value in chosen.items() if value]
    if len(written) > 1:
        raise click.UsageError(f"{' and '.join(written)} do not go together: choose one of them.")


def with_redis_and_store(action: "Callable[[Redis, Store], Result]") -> Result:
    """Return what an action on Redis and the model store returns.

    Raises:
        SettingsError: Redis does not answer.
    """
    from redis import RedisError

    from model.store import Store
    from worker.redis_client import connect_patiently
    from worker.settings import hide_password

    settings = read_settings()
    try:
        with connect_patiently(settings.redis_url) as redis:
            return action(redis, Store(settings.model_store))
    except RedisError as cause:
        raise SettingsError(
            f"no Redis answers at {hide_password(settings.redis_url)} ({cause}); start it, or set REDIS_URL"
        ) from cause


def audit_name() -> str:
    """Return the audit log's name for the person who runs this command."""
    return f"captioner {click.get_current_context().info_name} (command line)"


def read_settings() -> "Settings":
    from worker.settings import Settings

    return Settings.from_env()


def load_captioner(
    settings: "Settings", bundle: str | None, project: int | None, *, in_torch: bool = False
) -> "tuple[LoadedBundle, Captioner]":
    """Return a bundle, and its captioner or the captioner that serves a project.

    Args:
        settings: of the process.
        bundle: name or directory; None: that of the settings.
        project: whose serving version is wanted.
        in_torch: measure what was trained, without the rounding of what serves.
    """
    from model.registry import ModelRegistry
    from model.runtime.serving_bundle import load_serving_bundle
    from model.store import Store

    if in_torch:
        from model.bundle import load_bundle
        from model.torch_captioner import prefer_fast_products

        prefer_fast_products()
    start = (load_bundle if in_torch else load_serving_bundle)(bundle or settings.caption_bundle)
    if project is None:
        return start, start.captioner()
    registry = ModelRegistry(Store(settings.model_store), start.version)
    return start, registry.load(project, registry.serving(project), start)
