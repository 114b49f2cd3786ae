"""What a suite takes from outside of the benchmark: data, networks and strategies of one's own, each with its hash.

The hashes stand in the configuration of a run, and so in its name: a file that is changed makes other runs. This module
imports neither Keras nor data until `dataset_of` or `builder_of` is called.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command_line import refusal
from benchmarks.data.datasets import Dataset
from benchmarks.data.own_data import digest_of_data, files_of_data, is_own, load_own
from benchmarks.own_code import digest_of_code, files_of_code, imported, is_reference
from benchmarks.strategies.registry import own_source
from benchmarks.suites.values import OwnDataMissingError, SuiteError

if TYPE_CHECKING:
    import keras


def digests_of(content: Mapping[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """The entry `own` of a definition: hashes of data and networks, by what the file calls them; nothing where none are own.

    Args:
        content: of a suite's file, checked.
        folder: where they are.

    Raises:
        SuiteError: if one of them is not there; `OwnDataMissingError` if it is the data.
    """
    tables = (content, content.get("teacher", {}), {"architecture": content.get("sizing", {}).get("net", {})})
    names = {table["architecture"]["name"] for table in tables if table.get("architecture")}
    found = {name: _digest(digest_of_code, name, folder) for name in sorted(names) if is_reference(name)}
    if is_own(content["dataset"]):
        found[content["dataset"]] = _digest(digest_of_data, content["dataset"], folder, OwnDataMissingError)
    return {"own": found} if found else {}


def settings_of(strategy: str, folder: Path) -> dict[str, str]:
    """What the runs of a strategy of one's own depend on: the hash of its code.

    Raises:
        SuiteError: if it is not there.
    """
    return {"code": _digest(digest_of_code, own_source(strategy), folder)}


def files_of(
    path: Path, definition: Mapping[str, Any], strategies: Iterable[str], folder: Path
) -> tuple[dict[str, Path], list[str]]:
    """What is one's own, to be carried to another machine.

    Args:
        path: of the suite's file.
        definition: of the suite.
        strategies: of the suite.
        folder: where what is one's own is.

    Returns:
        The files, by their paths from the folder of the suite's file there; and sentences on what is in none of them.

    Raises:
        SuiteError: if the file names another folder for what is one's own.
        ValueError: if something is not there.
    """
    if folder.resolve() != path.parent.resolve():
        do = "Move what is there beside the suite's file, and leave out own_folder."
        raise SuiteError(refusal("data and code beside the suite's file", f"own_folder = {folder}", do))
    data, others = definition["dataset"], []
    files = {path.name: path} | (files_of_data(data, folder) if is_own(data) else {})
    sources = filter(None, map(own_source, strategies))
    for name in dict.fromkeys(name for name in (*definition.get("own", {}), *sources) if is_reference(name)):
        found = files_of_code(name, folder)
        if any({"site-packages", "dist-packages"} & set(path.parts) for path in found.values()):
            others.append(f"{name} is of a package that is installed: install it there too, as by --packages.")
        else:
            files |= found
        if name == data:
            others.append(f"What {name} reads, if it reads any file.")
    return files, others


def _digest(
    digest: Callable[[str, Path], str], name: str, folder: Path, missing: type[SuiteError] = SuiteError
) -> str:
    try:
        return digest(name, folder)
    except (OSError, ValueError) as error:
        raise missing(str(error)) from error


def dataset_of(definition: Mapping[str, Any], folder: Path, seed: int, examples: int | None) -> Dataset | None:
    """The data of a suite, where that is one's own; see `benchmarks.data.datasets.load`.

    Raises:
        ValueError: if it is not there or no such data.
    """
    name = definition["dataset"]
    if not is_own(name):
        return None
    digest = definition["own"][name]
    found = load_own(name, folder, seed, examples, definition["metric"] == "mse", digest)
    identity = {"name": name, "sha256": digest, "examples": found.examples}
    return Dataset(found.data, found.outputs, found.black, identity | ({"seed": seed} if is_reference(name) else {}))


def builder_of(architecture: Mapping[str, Any], dataset: Dataset, folder: Path) -> Callable[..., "keras.Model"]:
    """What builds a network of one's own from a seed, as ours are built: `function(input_shape, outputs, seed, **options)`.

    Raises:
        ValueError: if its function is not there.
    """
    options = {key: value for key, value in architecture.items() if key != "name"}
    build = imported(architecture["name"], folder)
    return partial(_built, architecture["name"], build, dataset.data.x_val.shape[1:], dataset.outputs, **options)


def _built(
    name: str, build: Callable, input_shape: tuple[int, ...], outputs: int, seed: int, **options: Any
) -> "keras.Model":
    """The network, whose weights start from the seed, also where its layers have none of their own."""
    import keras

    from kmerge.seeds import seed_of

    try:
        inspect.signature(build).bind(input_shape, outputs, seed, **options)
    except TypeError as error:
        expected = "the options of its function, which takes input_shape, outputs, seed and these"
        raise SuiteError(f"{name}: " + refusal(expected, f"{', '.join(options) or 'none'} ({error})")) from error
    keras.utils.set_random_seed(seed_of("own network", name, seed))
    model = build(input_shape, outputs, seed, **options)
    if not isinstance(model, keras.Model):
        raise SuiteError(f"{name}: " + refusal("a keras.Model", type(model).__name__))
    shapes = (model.input_shape, model.output_shape)
    if shapes != ((None, *input_shape), (None, outputs)):
        expected = f"a network from {(None, *input_shape)} to {(None, outputs)}"
        raise SuiteError(f"{name}: " + refusal(expected, f"one from {shapes[0]} to {shapes[1]}"))
    for last in model.layers[-1:]:
        if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax:
            do = "Leave the softmax out: losses and metrics take logits."
            raise SuiteError(f"{name}: " + refusal("a network that ends in logits", f"the softmax of layer {last.name}", do))
    return model
