"""What each command that makes a model does with the models and options that were read."""

from argparse import Namespace
from collections.abc import Sequence

import keras

from kmerge.batching import Batches
from kmerge.checks import refuse
from kmerge.commands.files import Examples
from kmerge.costs import Budget
from kmerge.errors import InvalidArgumentError
from kmerge.gates import GatePressure, gate_optimizer
from kmerge.merging import compress, merge
from kmerge.pruning import prune


def budget_of(options: Namespace) -> Budget:
    """The budget of `--budget` and `--of`: a number with a point is a share, one without a number of what is counted."""
    text = str(options.budget)
    try:
        value = int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        refuse("--budget", "a share such as .5, or a whole number", text)
    return Budget(**{options.of: value})


def pruned(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.prune`."""
    return prune(
        models[0],
        options.importance,
        budget=budget_of(options),
        selection=options.selection,
        multiple=options.multiple,
        data=examples and examples.for_model(),
        batch_size=options.batch_size,
        seed=options.seed,
    )


def merged(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.merge`; with epochs also the training of its gates, `kmerge.compress` and fine-tuning."""
    choices = {"width": options.width, "sampling": options.sampling, "seed": options.seed}
    if not options.epochs:
        return merge(*models, **choices)
    if examples is None or examples.targets is None:
        raise InvalidArgumentError("--epochs: expected --data with inputs and targets 'y' to train on, received none.")
    loss, metrics, optimizer = _training(models[0], options)
    next(iter(Batches(models[0], examples.for_model(), "merge", name="--data", batch_size=options.batch_size)))
    big = merge(*models, **choices)
    big.compile(gate_optimizer(optimizer()), loss, metrics=metrics())
    keras.utils.set_random_seed(options.seed)
    fitted = {"batch_size": options.batch_size, "verbose": 2}
    big.fit(examples.inputs, examples.targets, epochs=options.epochs, callbacks=[GatePressure()], **fitted)
    student = compress(big)
    student.compile(optimizer(), loss, metrics=metrics())
    student.fit(examples.inputs, examples.targets, epochs=options.fine_tune, **fitted)
    return student


def compressed(models: Sequence[keras.Model], examples: Examples | None, options: Namespace) -> keras.Model:
    """`kmerge.compress`."""
    return compress(models[0], None if examples is None else examples.inputs)


def _training(model: keras.Model, options: Namespace):
    """The loss, and functions that make metrics and an optimizer: those asked for, else what the model was compiled with."""
    config = model.get_compile_config() if model.compiled else None
    loss = options.loss or (config and keras.saving.deserialize_keras_object(config["loss"]))
    if loss is None:
        raise InvalidArgumentError(
            f"Model {model.name!r} was saved without a loss. Expected --loss, such as sparse_categorical_crossentropy for "
            "outputs that are probabilities or sparse_categorical_crossentropy_from_logits, received none."
        )
    if loss == "sparse_categorical_crossentropy_from_logits":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    elif options.loss:
        try:
            keras.losses.get(loss)
        except ValueError:
            refuse("--loss", "the name of a loss of Keras, such as mean_squared_error", loss)

    def metrics():
        return config and keras.saving.deserialize_keras_object(config["metrics"])

    def optimizer():
        rate = {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
        if not config:
            return keras.optimizers.Adam(**rate)
        made = keras.saving.deserialize_keras_object(config["optimizer"])
        return type(made).from_config(made.get_config() | rate)  # in place of a schedule, too, which cannot be set

    return loss, metrics, optimizer


JOBS = {"prune": pruned, "merge": merged, "compress": compressed}
