"""kmerge beside Torch-Pruning, on the same trained weights.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch torchvision torch-pruning
    python -m benchmarks.studies.torch_pruning --python /tmp/torch/bin/python

    python -m benchmarks.studies.torch_pruning --python /tmp/torch/bin/python --fine-tune

The first trains a ResNet-20 on scikit-learn's handwritten digits, hands its weights to `torch_side.py`, which runs in the
other Python, and prints Markdown tables: the largest difference of scores where both have the criterion; accuracy after the
same cut by both; and the processor's seconds to trace and to halve networks whose weights are random. The second trains
several ResNet-8 on the digits, lets both halve every space, and fine-tunes what is left, each in its own framework, by the
same recipe. PyTorch is no dependency.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE, command_parser

EPOCHS, EXAMPLES, SHARE = 12, 200, 0.125
# Of --fine-tune: networks, the share cut from every space, and the recipe of both sides.
SEEDS, HALF, MORE = 5, 0.5, {"epochs": 6, "batch_size": 64, "learning_rate": 0.01, "momentum": 0.9}
CRITERIA = ("magnitude", "magnitude_l1", "lamp", "bn_scale", "hessian")
NETWORKS = {"resnet50": "ResNet50", "mobilenet_v2": "MobileNetV2", "densenet121": "DenseNet121"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--python", required=True, help="a Python with torch, torchvision and torch-pruning")
    parser.add_argument("--fine-tune", action="store_true", help="compare accuracies after the cut and after fine-tuning")
    options = parser.parse_args(arguments)
    if options.fine_tune:
        print(f"{platform.machine()}, {os.cpu_count()} cores; ResNet-8 on the digits, {SEEDS} networks, {MORE}\n")
        print(_table(["cut by", "parameters", "after the cut, %", "after fine-tuning, %"], _tuned(options.python)))
        return DONE
    with tempfile.TemporaryDirectory() as folder:
        model, data = _trained(Path(folder))
        found = _other_side(model, data, Path(folder), options.python)
        of_torch = json.loads((Path(folder) / "times.json").read_text())
    print(f"{platform.machine()}, {os.cpu_count()} cores, ResNet-20 on the digits\n")
    print(_table(["criterion", "spaces", "largest difference of scores"], _scores(model, data, found)))
    print(_table(["cut by", "test accuracy, %", "largest difference of outputs"], _cuts(model, data, found)))
    heads = ["network", "Torch-Pruning: trace, s", "prune, s", "kmerge: trace, s", "prune, s", "clone_model, s"]
    print(_table(heads, _times(of_torch)))
    return DONE


def _table(heads: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines) + "\n"


def _trained(cache: Path, depth: int = 20, seed: int = 0) -> tuple:
    """A residual network that has learned the digits, and these."""
    import keras

    import kmerge
    from benchmarks.data.datasets import load
    from benchmarks.networks.architectures import resnet

    data = load("digits", None, cache, 0).data
    model = resnet(data.x_train.shape[1:], 10, seed, depth=depth, width=16)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kmerge.fit(model, data.x_train, data.y_train, batch_size=64, epochs=EPOCHS, seed=seed, verbose=0)
    return model, data


def _tuned(python: str) -> list[list[str]]:
    """For both sides the accuracies after the cut and after fine-tuning: mean and standard deviation over the networks."""
    import numpy as np

    import kmerge

    found: dict[str, list] = {}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            model, data = _trained(Path(folder), 8, seed)
            accuracy = _accuracy(model, data)
            found.setdefault("nobody", []).append((kmerge.parameters(model), accuracy, accuracy))
            small = kmerge.prune(model, "magnitude", budget=kmerge.Budget(units=1 - HALF))
            found.setdefault("kmerge", []).append(_after_tuning(small, data, seed))
            np.savez(Path(folder) / "train.npz", x=data.x_train, y=data.y_train)
            recipe = json.dumps(MORE | {"share": HALF, "seed": seed})
            theirs = _other_side(model, data, Path(folder), python, "--fine-tune", recipe)
            found.setdefault("Torch-Pruning", []).append(tuple(theirs["tuned"]))

    def cell(values) -> str:
        return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"

    rows = []
    for name, networks in found.items():
        counts, cut, tuned = zip(*networks, strict=True)
        rows.append([name, f"{int(counts[0]):,}", cell(cut), cell(tuned)])
    return rows


def _after_tuning(small, data, seed: int) -> tuple[int, float, float]:
    """The parameters of a network, and its accuracies before and after it is trained on."""
    import keras

    import kmerge

    before = _accuracy(small, data)
    optimizer = keras.optimizers.SGD(MORE["learning_rate"], momentum=MORE["momentum"])
    small.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rest = {"batch_size": MORE["batch_size"], "epochs": MORE["epochs"], "seed": seed, "verbose": 0}
    kmerge.fit(small, data.x_train, data.y_train, **rest)
    return kmerge.parameters(small), before, _accuracy(small, data)


def _accuracy(model, data) -> float:
    import numpy as np

    return 100 * float(np.mean(np.argmax(model.predict(data.x_test, verbose=0), axis=1) == data.y_test))


def _other_side(model, data, folder: Path, python: str, *options: str) -> dict:
    """What Torch-Pruning finds, by name."""
    import numpy as np

    import kmerge
    from kmerge.graph import array_of

    roots = [space.owners[0] for space in kmerge.channel_spaces(model).selectable]
    weights = {}
    for layer in model.layers:
        weights |= {f"{layer.name}/{w.name}": array_of(w) for w in layer.weights}
    np.savez(folder / "weights.npz", **weights)
    examples = slice(None) if options else slice(EXAMPLES)
    np.savez(folder / "examples.npz", x=data.x_test[examples], y=data.y_test[examples])
    for name, value in (("network", operations_of(model)), ("roots", roots), ("share", SHARE)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    command = [python, "-m", "benchmarks.studies.torch_side", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    with np.load(folder / "found.npz") as file:
        return dict(file)


def operations_of(model: "keras.Model") -> list[dict]:  # noqa: F821
    """The operations of a residual network, paddings as a part of the convolutions that read them, as PyTorch has them."""
    import keras

    from kmerge.graph import Graph

    kinds = {
        keras.layers.Conv2D: "conv",
        keras.layers.BatchNormalization: "norm",
        keras.layers.Dense: "dense",
        keras.layers.Activation: "relu",
        keras.layers.Add: "add",
        keras.layers.GlobalAveragePooling2D: "pool",
    }
    names, padded, found = {id(model.inputs[0]): "input"}, {}, []
    for call in Graph(model).calls:
        layer, reads = call.operation, [names[id(x)] for x in call.inputs]
        names[id(call.outputs[0])] = layer.name
        if isinstance(layer, keras.layers.ZeroPadding2D):
            ((size, *_), *_) = layer.padding
            names[id(call.outputs[0])], padded[id(call.outputs[0])] = reads[0], size
            continue
        one = {"name": layer.name, "kind": kinds[type(layer)], "reads": reads}
        if one["kind"] == "conv":
            same = (layer.kernel_size[0] - 1) // 2 if layer.padding == "same" else 0
            one |= {"strides": list(layer.strides), "padding": padded.get(id(call.inputs[0]), same)}
        if one["kind"] == "norm":
            one |= {"epsilon": layer.epsilon, "momentum": 1 - layer.momentum}
        found.append(one)
    return found


def _scores(model, data, found: Mapping) -> list[list[str]]:
    """For each criterion, how far scores are apart; squared or halved as the other side has them."""
    import kmerge

    as_there = {"magnitude": lambda values: values**2, "hessian": lambda values: 2 * values}
    rows = []
    for name in CRITERIA:
        examples = (data.x_test[:EXAMPLES], data.y_test[:EXAMPLES]) if name == "hessian" else None
        ours = kmerge.unit_importance(model, name, examples)
        apart = []
        for space in kmerge.channel_spaces(model).selectable:
            values, theirs = as_there.get(name, lambda values: values)(ours[space.name]), found[f"{name}/{space.owners[0]}"]
            apart.append(max(abs(values - theirs)) / max(abs(theirs)))
        rows.append([name, len(apart), f"{max(apart):.1e}"])
    return rows


def _cuts(model, data, found: Mapping) -> list[list[str]]:
    """The network, and both cuts of it, by accuracy; how far the outputs of both are apart."""
    import numpy as np

    import kmerge
    from kmerge.pruning import best_units

    x, y = data.x_test[:EXAMPLES], data.y_test[:EXAMPLES]

    def row(name: str, outputs, other=None) -> list[str]:
        accuracy = f"{100 * np.mean(np.argmax(outputs, axis=1) == y):.1f}"
        return [name, accuracy, "" if other is None else f"{np.max(abs(outputs - other)) / np.max(abs(other)):.1e}"]

    whole = model.predict(x, verbose=0)
    rows = [row("nobody", whole), row("nobody, in PyTorch", found["outputs"], whole)]
    for name in ("magnitude", "lamp"):
        importance = kmerge.unit_importance(model, name)
        # As many as the other side keeps.
        keep = {space: best_units(values, int((1 - SHARE) * len(values))) for space, values in importance.items()}
        ours = kmerge.select(model, keep).predict(x, verbose=0)
        rows += [row(f"kmerge, {name}", ours), row(f"Torch-Pruning, {name}", found[f"cut/{name}"], ours)]
    return rows


def _times(of_torch: Mapping) -> list[list[str]]:
    """Seconds of the processor, the least of three."""
    import keras

    import kmerge

    rows = []
    for name, application in NETWORKS.items():
        model = getattr(keras.applications, application)(weights=None)
        tasks = {
            "trace": lambda model=model: kmerge.channel_spaces(model),
            "prune": lambda model=model: kmerge.prune(model, budget=kmerge.Budget(units=0.5)),
            "clone": lambda model=model: keras.models.clone_model(model),
        }
        least = {}
        for key, task in tasks.items():
            seconds = []
            for _ in range(3):
                start = time.process_time()
                task()
                seconds.append(time.process_time() - start)
            least[key] = min(seconds)
        numbers = (of_torch[name]["trace"], of_torch[name]["prune"], least["trace"], least["prune"], least["clone"])
        rows.append([application, *(f"{number:.2f}" for number in numbers)])
    return rows


if __name__ == "__main__":
    sys.exit(main())
