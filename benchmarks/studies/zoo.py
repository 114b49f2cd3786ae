"""The promises of kmerge on every network of `keras.applications`, and on two of segmentation, and what keeping them costs.

    python -m benchmarks.studies.zoo --members ResNet50 NASNetLarge       # some
    python -m benchmarks.studies.zoo --members small                      # one of each family
    python -m benchmarks.studies.zoo --members all --out docs/development # all of them: zoo.csv and zoo.md

Each member is built twice at the smallest input it takes, with random weights and statistics, in a process of its own.
There it is traced, concatenated, permuted; one parent is selected back; half of every free space is pruned, and what is
left trains for a step. The result is saved, and loaded in a process that never imports kmerge. An error is
max|difference| / max|reference| of the logits. With `--out`, a folder for zoo.csv and zoo.md, members measured before keep
their rows; without it the table is only printed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.command_line import DONE, FAILED, command_parser
from benchmarks.studies.zoo_page import page, read, write

CLASSES, BATCH = 10, 8


def _members() -> dict[str, int]:
    """For each member its smallest input."""
    names = "VGG16 VGG19 ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2 InceptionV3 InceptionResNetV2 "
    names += "Xception MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large DenseNet121 DenseNet169 DenseNet201 "
    names += "NASNetMobile NASNetLarge "
    names += " ".join(f"EfficientNetB{i}" for i in range(8)) + " "
    names += " ".join(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")) + " "
    names += " ".join(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge"))
    sizes = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
    return {name: sizes.get(name, 32) for name in names.split()} | dict.fromkeys(SEGMENTATION, 33)


# Of `benchmarks.networks.segmentation`: the builder, and its options.
SEGMENTATION = {
    "FCNResNet101": ("fcn_resnet", {"depth": 101}),
    "DeepLabV3MobileNetV3Large": ("deeplab_v3", {"backbone": "mobilenet_v3_large"}),
}
MEMBERS = _members()

# One of each family, the smallest.
SMALL = (
    "VGG16", "ResNet50", "ResNet50V2", "InceptionV3", "InceptionResNetV2", "Xception", "MobileNet", "MobileNetV2",
    "MobileNetV3Small", "DenseNet121", "NASNetMobile", "EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny",
)  # fmt: skip


def constructor_of(name: str) -> Callable:
    """What makes a member: of `keras.applications`, or with the same arguments."""
    import keras

    if name not in SEGMENTATION:
        return getattr(keras.applications, name)
    from benchmarks.networks.architectures import ARCHITECTURES

    builder, options = SEGMENTATION[name]

    def construct(weights: None, input_shape: tuple, classes: int, classifier_activation: None) -> keras.Model:
        return ARCHITECTURES[builder](input_shape, classes, np.random.randint(2**31), **options)

    return construct


def build(constructor: Callable, size: int, seed: int) -> "keras.Model":  # noqa: F821
    """A network with random weights and statistics.

    Args:
        constructor: of `keras.applications`, or one with the same arguments.
        size: of its input images.
        seed: of all its weights.

    Returns:
        A `keras.Model` that gives logits, and is not compiled.
    """
    import keras

    keras.utils.set_random_seed(1000 + seed)
    model = constructor(weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)
    rng = np.random.default_rng([seed, 30])
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if "float" in str(value.dtype):
            # What starts constant would hide errors: biases, scales and statistics. Larger kernels keep signals alive.
            constant = np.ptp(value) == 0
            weight.assign(value + rng.uniform(-0.3, 0.3, value.shape) if constant else 1.4 * value)
    adapt(model, rng)
    return model


def adapt(model: "keras.Model", rng: np.random.Generator) -> None:  # noqa: F821
    """Statistics near those of random inputs: without them, the signals of a deep network die, and errors with them.

    Args:
        model: the network.
        rng: draws the inputs, and how far the statistics are from theirs.
    """
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    model(examples(model, rng), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = map(keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
        layer.moving_mean.assign(mean + 0.2 * np.sqrt(variance) * rng.normal(size=mean.shape))
        layer.moving_variance.assign(variance * rng.uniform(0.7, 1.3, variance.shape) + 0.3 * variance.mean())


def examples(model: "keras.Model", rng: np.random.Generator) -> np.ndarray:  # noqa: F821
    """Images as they come: EfficientNet and others scale them to be small themselves."""
    return rng.uniform(0, 255, (BATCH, *model.input_shape[1:])).astype("float32")


def logits(model: "keras.Model", inputs: np.ndarray) -> np.ndarray:  # noqa: F821
    """The outputs of a model in inference."""
    import keras

    return keras.ops.convert_to_numpy(model(inputs, training=False))


def error_of(value: np.ndarray, reference: np.ndarray) -> float:
    """max|value - reference| / max|reference|; an infinite value gives infinity."""
    error = np.max(np.abs(value - reference)) / np.max(np.abs(reference))
    return float(error) if np.isfinite(error) else float("inf")


def measure(name: str, folder: Path) -> dict:
    """Puts one member through everything.

    Args:
        name: of the member.
        folder: where to save what must load elsewhere.

    Returns:
        Numbers under the keys of `COLUMNS`; memory is that of the whole process.
    """
    import kmerge

    parents = [build(constructor_of(name), MEMBERS[name], seed) for seed in (0, 1)]
    inputs = examples(parents[0], np.random.default_rng(2))
    seconds, spaces = _timed(lambda: kmerge.channel_spaces(parents[0]))
    free = {space.name: space.size for space in spaces.selectable}
    row = {"member": name, "parameters": parents[0].count_params() / 1e6, "spaces": len(spaces), "free": len(free)}
    row |= {"trace_seconds": seconds, "memory_before": _peak_memory()}
    seconds, big = _timed(lambda: kmerge.concatenate(*parents))
    weights = big.count_params() / 1e6
    row |= {"concatenate_seconds": seconds, "weights": weights, "seconds_per_million": seconds / weights}
    row |= {"memory_peak": _peak_memory()}

    each = [logits(parent, inputs) for parent in parents]
    row["spread"] = float(np.std(each[0], axis=0).max() / np.abs(each[0]).max())
    nearly = inputs * np.random.default_rng(4).uniform(1 - 1e-7, 1 + 1e-7, inputs.shape).astype("float32")
    row["rounding"] = error_of(logits(parents[0], nearly), each[0])
    row["concatenate_error"] = error_of(logits(big, inputs), np.mean(each, axis=0))
    row["select_error"] = error_of(logits(second_parent(big, parents), inputs), each[1])
    rng = np.random.default_rng(3)
    moved = kmerge.permute(parents[0], {space: rng.permutation(count) for space, count in free.items()})
    row["permute_error"] = error_of(logits(moved, inputs), each[0])
    row["half_parameters"] = train_half(parents[0], inputs).count_params() / parents[0].count_params()
    row["load_error"] = _load_error(big, inputs, folder)
    return row


def second_parent(big: "keras.Model", parents: list) -> "keras.Model":  # noqa: F821
    """The second parent out of a concatenated pair: its units, and its own head instead of the mean of both."""
    import kmerge

    spaces = kmerge.channel_spaces(big)
    part = kmerge.select(big, {space.name: range(space.size // 2, space.size) for space in spaces.selectable})
    heads = {owner for space in spaces.values() if space.is_output for owner in space.owners}
    names = [layer.name for layer in parents[0].layers]
    for head in heads:
        part.get_layer(head).set_weights(parents[1].layers[names.index(head)].get_weights())
    return part


def train_half(model: "keras.Model", inputs: np.ndarray) -> "keras.Model":  # noqa: F821
    """The model with half of every free space, after one step of training that moved its weights."""
    import keras

    import kmerge

    spaces = kmerge.channel_spaces(model).selectable
    small = kmerge.select(model, {space.name: max(1, space.size // 2) for space in spaces})
    before = small.get_weights()
    small.compile(keras.optimizers.SGD(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  run_eagerly=keras.backend.backend() == "tensorflow", jit_compile=False)  # fmt: skip
    shape = (len(inputs), *small.output_shape[1:-1])  # one class for an image, or for each of its pixels
    loss = small.train_on_batch(inputs, np.arange(np.prod(shape)).reshape(shape) % CLASSES)
    if not np.isfinite(loss) or all(np.array_equal(a, b) for a, b in zip(small.get_weights(), before, strict=True)):
        raise RuntimeError(f"{model.name}: a step of training gave loss {loss} and the same weights")
    return small


def _timed(call: Callable) -> tuple[float, object]:
    """CPU seconds of all threads, which do not depend on what else the machine does, and the result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def _peak_memory() -> float:
    """The most memory that this process has held, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# Loading elsewhere ----------------------------------------------------------------------------------------------------

_LOAD = """
import sys
from pathlib import Path
import keras, numpy as np
for path in map(Path, sys.argv[1:]):
    inputs = list(np.load(path.with_suffix(".inputs.npz")).values())
    model = keras.models.load_model(path)
    values = keras.tree.flatten(model(inputs[0] if len(inputs) == 1 else inputs, training=False))
    np.savez(path.with_suffix(".outputs.npz"), *[keras.ops.convert_to_numpy(value) for value in values])
assert "kmerge" not in sys.modules
"""


def outputs_elsewhere(paths: Iterable[Path], run: Callable | None = None) -> list[list]:
    """Loads models in a process that never imports kmerge.

    Args:
        paths: of the `.keras` files; beside `a.keras` lie its inputs in `a.inputs.npz`.
        run: runs code with arguments in another process; by default in a new one.

    Returns:
        For each model the list of its outputs.
    """
    paths = list(paths)
    (run or _run_afresh)(_LOAD, *paths)
    return [list(np.load(path.with_suffix(".outputs.npz")).values()) for path in paths]


def _run_afresh(code: str, *arguments: Path) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=arguments[0].parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Models saved by kmerge did not load in a new process:\n{done.stderr[-2000:]}")


def _load_error(model, inputs, folder: Path) -> float:
    path = folder / "concatenated.keras"
    np.savez(path.with_suffix(".inputs.npz"), inputs)
    model.save(path)
    (found,) = outputs_elsewhere([path])[0]
    return error_of(found, logits(model, inputs))


# The command ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a member failed."""
    parser = command_parser(__file__, __doc__, "--out", out=None)
    parser.add_argument(
        "--members", nargs="+", default=["small"], choices=["all", "small", *MEMBERS], metavar="MEMBER",
        help=f"all, small (one of each family), or some of: {', '.join(MEMBERS)}",
    )  # fmt: skip
    parser.add_argument("--measure", nargs=2, metavar=("MEMBER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return DONE
    groups = {"all": list(MEMBERS), "small": list(SMALL)}
    chosen = [name for given in options.members for name in groups.get(given, [given])]
    rows = read(options.out)
    for name in dict.fromkeys(chosen):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows[name] = _in_process(name)
        write(options.out, rows, MEMBERS)
    print(page({name: rows[name] for name in chosen}, len(MEMBERS)))
    return FAILED if any(rows[name].get("problem") for name in chosen) else DONE


def _in_process(name: str) -> dict:
    """One member's row; a failure is a row, too."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.studies.zoo", "--measure", name, folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"member": name, "problem": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
