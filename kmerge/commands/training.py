"""How commands train: as the model of the file was compiled, but for the options that say otherwise."""

from argparse import Namespace
from typing import Any

import keras

from kmerge.batching import Batches
from kmerge.checks import refuse
from kmerge.commands.files import Examples
from kmerge.compiling import training_of
from kmerge.errors import InvalidArgumentError
from kmerge.gates import plain_optimizer


def training_arguments(model: keras.Model, options: Namespace) -> dict[str, Any]:
    """What to call `compile` with: with losses, their weights, metrics and optimizer of the model, or those asked for.

    Args:
        model: of a file.
        options: with `loss` and `learning_rate`, None for those of the model.

    Raises:
        InvalidArgumentError: if there is no loss, or the model trains in a way of its own.
    """
    found = {"optimizer": keras.optimizers.Adam()}
    if model.compiled:
        do = "Train it in Python: kmerge.merge or kmerge.prune, then compile and fit."
        found = training_of(model, plain_optimizer(model.optimizer), of="--epochs", do=do)
    if options.loss is not None:
        found["loss"] = _loss_named(options.loss)
    if found.get("loss") is None:
        raise InvalidArgumentError(
            f"Model {model.name!r} was saved without a loss. Expected --loss, such as sparse_categorical_crossentropy for "
            "outputs that are probabilities or sparse_categorical_crossentropy_from_logits, received none."
        )
    if options.learning_rate is not None:  # in place of a schedule, too, which cannot be set
        optimizer = found["optimizer"]
        found["optimizer"] = type(optimizer).from_config(optimizer.get_config() | {"learning_rate": options.learning_rate})
    return found


def _loss_named(name: str) -> Any:
    if name == "sparse_categorical_crossentropy_from_logits":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    try:
        keras.losses.get(name)
    except ValueError:
        refuse("--loss", "the name of a loss of Keras, such as mean_squared_error", name)
    return name


def check_examples(model: keras.Model, examples: Examples | None, options: Namespace) -> None:
    """Raises unless there are examples with targets that a model can be trained on."""
    if examples is None or examples.targets is None:
        raise InvalidArgumentError("--epochs: expected --data with inputs and targets 'y' to train on, received none.")
    next(iter(Batches(model, examples.for_model(), options.command, name="--data", batch_size=options.batch_size)))


def fit(model: keras.Model, examples: Examples, epochs: int, options: Namespace, callbacks: tuple = ()) -> None:
    """Trains a compiled model, with a line for each epoch."""
    fitted = {"batch_size": options.batch_size, "epochs": epochs, "callbacks": list(callbacks), "verbose": 2}
    model.fit(examples.inputs, examples.targets, **fitted)
