"""What each command that makes a model does with the models and options that were read."""

from argparse import Namespace
from collections.abc import Sequence

import keras

from kmerge.checks import refuse
from kmerge.commands.files import Examples
from kmerge.commands.training import check_examples, fit, training_arguments
from kmerge.costs import Budget
from kmerge.errors import InvalidArgumentError
from kmerge.gates import GatePressure, gate_optimizer
from kmerge.merging import compress, merge
from kmerge.pruning import MEASURED, Bound, prune, prune_iteratively


def budget_of(options: Namespace) -> Budget:
    """The budget of `--budget` and `--of`: a number with a point is a share, one without a number of what is counted."""
    return Budget(**{options.of: _number("--budget", options.budget)})


def bound_of(option: str, listed: Sequence[str], default: int | None) -> Bound | None:
    """The bound of `--minimum` or `--maximum`: one number for all spaces, or NAME=NUMBER for some."""
    named = dict(text.rpartition("=")[::2] for text in listed)
    if len(named) < len(listed) or "" in named and len(named) > 1:
        refuse(option, "one number, or NAME=NUMBER for each space or layer once", " ".join(listed))
    bounds = {name: _number(option, text) for name, text in named.items()}
    return bounds.get("", bounds or default)


def _number(option: str, text: str) -> int | float:
    try:
        return int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        refuse(option, "a share such as .5, or a whole number", text)


def pruned(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.prune`; with epochs `kmerge.prune_iteratively`, in as many steps as are asked for."""
    (model,) = models
    only_trains = options.epochs and not options.compensate and options.importance not in MEASURED
    choices = {
        "selection": options.selection,
        "normalization": None if options.normalization == "none" else options.normalization,
        "multiple": options.multiple,
        "minimum": bound_of("--minimum", options.minimum, 1),
        "maximum": bound_of("--maximum", options.maximum, None),
        "exclude": options.exclude,
        "data": None if only_trains else examples and examples.for_model(),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "compensate": options.compensate,
    }
    if options.compensate and examples is None:
        raise InvalidArgumentError("--compensate: expected --data with inputs of the model, received none.")
    if not options.epochs:
        if options.steps > 1:
            refuse("--steps", "1 without --epochs, in which the model is trained after each step", options.steps)
        return prune(model, options.importance, budget=budget_of(options), **choices)
    training_arguments(model, options)  # refuses before any work
    check_examples(model, examples, options)
    keras.utils.set_random_seed(options.seed)

    def train(small: keras.Model) -> None:
        small.compile(**training_arguments(model, options))
        fit(small, examples, options.epochs, options)

    choices |= {"importance": options.importance, "compile": False, "steps": options.steps}
    result = prune_iteratively(model, budget_of(options), train=train, **choices)
    print(result)
    return result.model


def merged(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.merge`; with epochs also the training of its gates, `kmerge.compress` and fine-tuning."""
    choices = {"width": options.width, "sampling": options.sampling, "seed": options.seed}
    if not options.epochs:
        return merge(*models, **choices)
    check_examples(models[0], examples, options)
    training = training_arguments(models[0], options)
    big = merge(*models, **choices)
    big.compile(**{**training, "optimizer": gate_optimizer(training["optimizer"])})
    keras.utils.set_random_seed(options.seed)
    fit(big, examples, options.epochs, options, (GatePressure(),))
    student = compress(big, compile=True)
    fit(student, examples, options.fine_tune, options)
    return student


def compressed(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.compress`."""
    return compress(models[0], None if examples is None else examples.inputs)


JOBS = {"prune": pruned, "merge": merged, "compress": compressed}
