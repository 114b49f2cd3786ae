"""What a model was compiled with, for a model that is made of it: the same losses, new metrics and a new optimizer."""

import inspect
from typing import Any

import keras

from kmerge.checks import sentence
from kmerge.cloning import is_of_keras
from kmerge.errors import InvalidArgumentError, told
from kmerge.graph import compile_arguments, overridden

_COMPILE = "compile=True"  # what its errors start with
_DO = "Pass compile=False, and call compile on what comes back."


def training_of(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None, *, of: str = _COMPILE, do: str = _DO
) -> dict[str, Any]:
    """The arguments with which to compile another model so that it trains as this one does.

    Losses and functions are handed on, as they hold no state. Metrics and the optimizer do, and are built again from
    their configurations: the optimizer is a fresh one, of the learning rate that it has now.

    Args:
        model: a compiled model.
        optimizer: the one to build again, if another than the model's.
        of: what asks for it, for messages.
        do: the way out where that cannot be, likewise.

    Raises:
        InvalidArgumentError: if the model is not compiled or trains in a way of its own, or if an optimizer or metric of
            it cannot be built again.
    """
    if not getattr(model, "compiled", False):
        first = "Call model.compile first, or pass compile=False."
        raise InvalidArgumentError(sentence("a model that is compiled", getattr(model, "name", model), first, of=of))
    if own := overridden(model):
        what = "a model that trains as keras.Model does"
        raise InvalidArgumentError(sentence(what, f"{type(model).__name__} with its own {own[0]}", do, of=of))

    def fresh(metric: Any) -> Any:
        return rebuilt(metric, "metric", of, do) if isinstance(metric, keras.metrics.Metric) else metric

    arguments = compile_arguments(model)
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(fresh, arguments.get(name))
    optimizer = model.optimizer if optimizer is None else optimizer
    return {**arguments, "optimizer": rebuilt(optimizer, "optimizer", of, do)}


def rebuilt(thing: Any, role: str, of: str, do: str) -> Any:
    """A new one of the same class and configuration.

    Args:
        thing: a metric or an optimizer.
        role: which of both, for messages.
        of: what asks for it, likewise.
        do: the way out where that cannot be, likewise.

    Raises:
        InvalidArgumentError: if its configuration does not build it again, or leaves out arguments of a class of the user's.
    """
    config, kind = thing.get_config(), type(thing)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    taken = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    # Of Keras' own some leave out what they hand to their function: CosineSimilarity its axis.
    handed = [value for value in vars(thing).values() if isinstance(value, dict)]
    config = {name: value[name] for value in handed for name in taken if name in value} | config
    lost = [name for name in taken if name not in config]
    if lost and not is_of_keras(kind):
        what = f"the get_config of {role} {kind.__name__} to hold its arguments"
        raise InvalidArgumentError(sentence(what, sorted(config), f"It leaves out {', '.join(lost)}. {do}", of=of))
    try:
        return kind.from_config(config)
    except Exception as error:
        what = f"a configuration that builds {role} {kind.__name__} again"
        raise InvalidArgumentError(sentence(what, told(error), do, of=of)) from None
