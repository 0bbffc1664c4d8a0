"""Options of a decoder and its training, for `train` and for the cross-validation of `evaluate`."""

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from backend.commands import shared_options as shared

if TYPE_CHECKING:
    from model.training.bundle_options import BundleOptions

network = functools.partial(shared.option, section=shared.NETWORK)
fitting = functools.partial(shared.option, section=shared.TRAINING)


def stages(value: str | int) -> int:
    from model.vision.trainable_stages import ALL

    if value != "all" and not str(value).isdecimal():
        raise click.BadParameter(f"must be a number or all, got {value!r}")
    return ALL if value == "all" else int(value)


training_options = shared.options(
    shared.encoder(),
    network("--cell", default="lstm", metavar="CELL", help="lstm, peephole, gru, rnn or transformer."),
    network("--layers", type=int, default=2, help="Layers of the decoder."),
    network("--hidden", type=int, default=512, help="Size of the hidden state and of word embeddings."),
    network(
        "--no-attention",
        "attention",
        flag_value=False,
        default=True,
        show_default=False,
        help="Read the mean of the image's regions.",
    ),
    network("--recurrent-regions", is_flag=True, help="Read the regions in both directions before attention."),
    network("--residual", is_flag=True, help="Add the input of each upper layer to its output."),
    fitting(
        "--taught-stages",
        type=stages,
        metavar="N",
        show_default="the stages on the final grid of regions",
        help="Last stages of the encoder that learn too: a number or all.",
    ),
    fitting("--views", type=shared.count, default=4, metavar="N", help="Views of each image to learn from."),
    fitting("--crop", type=float, default=0.75, metavar="SHARE", help="Smallest share of an image in a view."),
    fitting("--rotation", type=float, default=0.0, metavar="DEGREES", help="Largest rotation of a view."),
    fitting("--colour", type=float, default=0.2, metavar="SHARE", help="Largest change of colour, 0 to 1."),
    fitting("--dropout", type=float, default=0.5, help="Share of values that dropout sets to zero."),
    fitting("--min-count", type=int, default=4, help="Spell words in bytes that occur fewer times."),
    fitting("--epochs", type=int, default=10, help="Passes over the captions; may be 0 with --from."),
    fitting("--reward-epochs", type=int, default=6, help="Further passes, which reward good captions."),
    fitting("--optimizer", default="adamw", metavar="NAME", help="adamw, adam, rmsprop, adagrad or sgd."),
    fitting("--weight-decay", type=float, default=1e-4, help="Weight decay (L2)."),
    fitting("--batch-size", type=int, default=160, help="Captions in one step."),
    fitting("--learning-rate", type=float, default=1e-3, help="Learning rate of the decoder."),
    fitting("--budget-s", type=float, metavar="SECONDS", help="Stop training after this time."),
    fitting("--seed", type=int, default=0, help="Seed of all random numbers."),
)
"""Options of encoder, network and training. `bundle_options` reads those of network and training."""


def bundle_options(training: Mapping[str, Any], *, name: str, recipe: "BundleOptions | None" = None) -> "BundleOptions":
    """Return the options of a training.

    Args:
        training: the values of `training_options`.
        name: of the bundle's versions.
        recipe: gives the values that have no option; None takes the recipe of a first training.
    """
    from model.training.bundle_options import BundleOptions
    from model.vision.augmentation import Augmentation

    def chosen(names: str) -> dict[str, Any]:
        return {option_name: training[option_name] for option_name in names.split()}

    recipe, seed = recipe or BundleOptions(), training["seed"]
    budget_s = math.inf if training["budget_s"] is None else training["budget_s"]
    fitted = chosen("epochs batch_size dropout optimizer weight_decay learning_rate seed")
    return BundleOptions(
        name=name,
        **chosen("hidden layers cell attention recurrent_regions residual min_count taught_stages views"),
        augmentation=Augmentation(**chosen("crop rotation colour")),
        training=replace(recipe.training, budget_s=budget_s, **fitted),
        self_critical=replace(recipe.self_critical, epochs=training["reward_epochs"], seed=seed),
    )


def recipe_defaults(recipe: "BundleOptions") -> dict[str, Any]:
    """Return a recipe's values, as defaults of options."""
    names = ("epochs", "batch_size", "dropout", "optimizer", "weight_decay", "learning_rate")
    fitted = {name: getattr(recipe.training, name) for name in names}
    return {"min_count": recipe.min_count, "reward_epochs": recipe.self_critical.epochs, **fitted}
