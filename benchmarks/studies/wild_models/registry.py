"""The list of models: a name, where the model comes from, and what builds it.

    @wild("keras.io, image classification with vision transformer")
    def vision_transformer():
        ...
        return keras.Model(image, outputs)

registers a model rebuilt in our own words from a public example. Those of a package are registered together; each function
gets the module of the package, which is imported only when one of its models is built:

    of_package("kimm", {"GhostNetW050": lambda kimm: kimm.models.GhostNetW050(...)})
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras

# Module, and what pip installs. The versions are those that the lists were written for.
PACKAGES = {
    "keras_hub": "keras-hub==0.32.0",
    "kimm": "kimm==0.2.5",
    "k3im": "k3im==0.1.1",
    "keras_cv_attention_models": "keras-cv-attention-models==1.4.3",
    "keras_unet_collection": "keras-unet-collection==0.1.13",
    "tcn": "keras-tcn==3.5.7",
    "keras_rs": "keras-rs==0.4.0",
    "kyolo": "kyolo==0.1.5",
    "mingru_keras": "mingru-keras==0.1.3",
}
# What these import themselves, beyond what kmerge[test] installs.
BESIDE = ("regex", "tokenizers", "kagglehub", "kagglesdk", "tqdm")


@dataclass(frozen=True)
class Subclassed:
    """A model that `kmerge.functional` makes a plain one: a subclass of `keras.Model`, and the inputs that it takes.

    Attributes:
        model: a built `keras.Model`.
        inputs: `keras.Input` tensors, one or a list; None for a Functional one, which has some, with a call of its own.
    """

    model: keras.Model
    inputs: Any = None


@dataclass(frozen=True)
class Entry:
    """One model of the list.

    Attributes:
        build: makes it, with whatever weights; a Functional or Sequential model, or a `Subclassed` one.
        source: the package, or the example.
        package: its module, or "" where only Keras is needed.
    """

    build: Callable[[], keras.Model | Subclassed]
    source: str
    package: str = ""


MODELS: dict[str, Entry] = {}


def wild(source: str) -> Callable[[Callable], Callable]:
    """Registers a builder under its name.

    Args:
        source: the public example, or the paper.
    """

    def register(build: Callable) -> Callable:
        MODELS[build.__name__] = Entry(build, source)
        return build

    return register


def of_package(
    package: str, builders: Mapping[str, Callable], importing: Callable[[], AbstractContextManager] = nullcontext
) -> None:
    """Registers models of a package.

    Args:
        package: its module.
        builders: by name; each gets the module.
        importing: makes the context in which the package is imported.
    """

    def bound(build: Callable) -> Callable:
        def built() -> keras.Model | Subclassed:
            with importing():
                module = importlib.import_module(package)
            return build(module)

        return built

    for name, build in builders.items():
        MODELS[f"{package}.{name}"] = Entry(bound(build), PACKAGES[package].partition("==")[0], package)


def constructor(module: str, name: str, *positional: Any, **options: Any) -> Callable[[Any], keras.Model]:
    """A builder for `of_package`: a call of a constructor in a module that its package may not import itself.

    Args:
        module: its full name.
        name: of the constructor.
        *positional: arguments of the constructor.
        **options: arguments of the constructor.
    """
    return lambda _: getattr(importlib.import_module(module), name)(*positional, **options)


def subclassed(model: keras.Model, *inputs: keras.KerasTensor) -> Subclassed:
    """A subclassed model, built by a call with zeros.

    Args:
        model: which `inputs` are passed to: alone, or as a list.
        *inputs: `keras.Input` tensors.
    """
    values = [keras.ops.zeros((2, *tensor.shape[1:]), tensor.dtype) for tensor in inputs]
    one = len(inputs) == 1
    model(values[0] if one else values)
    return Subclassed(model, inputs[0] if one else list(inputs))


def load() -> dict[str, Entry]:
    """All models, by name: imports the files that register them."""
    for file in ("vision", "images", "sequences", "tables", "subclasses", "custom_layers", "packages", "attention_models"):
        importlib.import_module(f"benchmarks.studies.wild_models.{file}")
    return MODELS
