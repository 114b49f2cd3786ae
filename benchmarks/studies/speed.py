"""How fast training steps are: `kmerge.fit` against `model.fit`, gates against none, `fit_many` against one at a time.

    python -m benchmarks.studies.speed --nets sine lenet --backends tensorflow jax --together 1 10 50

prints a Markdown table. Each net and backend is measured in a process of its own; there all
contenders take turns, so ratios do not depend on the machine's mood as much as times do. A time is that of the fastest of
several epochs, without compiling; by `--processor-time` of all cores together, for a CPU that has other work to do.
`--packed-channels` measures `fit_many` once more, with convolutions packed up to so many channels.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.command_line import BACKENDS, DONE, command_parser, positive_whole_number


@dataclass(frozen=True)
class Net:
    """A network of the benchmark's suites, and the size of the measurement.

    Attributes:
        build: name of the builder in `benchmarks.networks.architectures`.
        input_shape: of one example.
        outputs: classes; 1 for regression.
        batch_size: examples per step, as in the suite.
        steps: per epoch; one of them has a smaller batch.
        epochs: measured, after one that is not.
        depth: of a residual network.
    """

    build: str
    input_shape: tuple[int, ...]
    outputs: int
    batch_size: int
    steps: int
    epochs: int
    depth: int | None = None


NETS = {
    "sine": Net("mlp", (1,), 1, 32, 313, 20),
    "lenet": Net("lenet", (28, 28, 1), 10, 128, 16, 5),
    "resnet8": Net("resnet", (32, 32, 3), 10, 128, 3, 3, 8),
    "resnet20": Net("resnet", (32, 32, 3), 100, 128, 3, 3, 20),
}
COLUMNS = {
    "net": "net",
    "backend": "backend",
    "device": "device",
    "program": "program",
    "model_fit": "`model.fit`, us/step",
    "fit": "`kmerge.fit`, us/step",
    "speedup": "ratio",
    "compile": "compile, s",
    "gates_example": "gates per example / none",
    "gates_batch": "gates per batch / none",
    "teacher_example": "gates per example / teacher",
    "teacher_batch": "gates per batch / teacher",
    "kept_example": "kept for backward, per example / none",
    "kept_batch": "kept for backward, per batch / none",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["sine", "lenet"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument(
        "--together", nargs="*", type=positive_whole_number, default=[], metavar="K", help="fit_many with K models (JAX)"
    )
    parser.add_argument(
        "--packed-channels", type=positive_whole_number, metavar="N", help="fit_many with packed convolutions, too (JAX)"
    )
    parser.add_argument("--processor-time", action="store_true", help="instead of time by the clock")
    parser.add_argument("--no-gates", action="store_true", help="leave out the gated networks")
    parser.add_argument("--measure", choices=NETS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(NETS[options.measure], options)))
        return DONE
    rows = [_in_process(net, backend, options) for net in options.nets for backend in options.backends]
    columns = dict(COLUMNS)
    for k in options.together:
        columns |= {f"together_{k}": f"{k} together / alone, per model", f"packed_{k}": f"{k} packed / alone, per model"}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(_table(rows, columns))
    return DONE


def _in_process(net: str, backend: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "benchmarks.studies.speed", "--measure", net]
    command += ["--no-gates"] * options.no_gates + ["--processor-time"] * options.processor_time
    if options.together and backend == "jax":
        command += ["--together", *map(str, options.together)]
        command += ["--packed-channels", str(options.packed_channels)] if options.packed_channels else []
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
    print(f"Measuring {net} on {backend} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"net": net, "backend": backend, **json.loads(done.stdout.splitlines()[-1])}


def _table(rows: list[dict], columns: dict[str, str]) -> str:
    shown = [key for key in columns if any(key in row for row in rows)]
    lines = ["| " + " | ".join(columns[key] for key in shown) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        cells = [f"{row[key]:.3g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(net: Net, options: argparse.Namespace) -> dict:
    """All numbers of one net on the backend of this process.

    Args:
        net: what to measure.
        options: of the command line.

    Returns:
        Times in microseconds per step, and ratios, under the keys of `COLUMNS`.
    """
    import keras

    import kmerge

    def parents(count: int = 2) -> list:
        return [_build(net, seed) for seed in range(count)]

    def theirs(model, *data, **options):
        return model.fit(*data, **options)

    contenders = {
        "model_fit": (theirs, _compiled(net, parents(1)[0])),
        "fit": (kmerge.fit, _compiled(net, parents(1)[0])),
    }
    if not options.no_gates:
        contenders["wide"] = kmerge.fit, _compiled(net, kmerge.concatenate(*parents()))
        for sampling in ("example", "batch"):
            big = kmerge.merge(*parents(), sampling=sampling)
            contenders[sampling] = kmerge.fit, _compiled(net, big, kmerge.gate_optimizer)
    for count in options.together:
        for name, channels in (("together", "auto"), ("packed", options.packed_channels)):
            if name == "together" or channels and len(net.input_shape) > 1:
                fit = functools.partial(_fit_together, channels)
                contenders[f"{name}_{count}"] = fit, [_compiled(net, model) for model in parents(count)]
    times, params = _times(net, contenders, time.process_time if options.processor_time else time.perf_counter)
    numbers = {name: times[name] for name in ("model_fit", "fit")}
    numbers |= {"speedup": times["model_fit"] / times["fit"], "compile": params["fit"]["compile_seconds"]}
    numbers |= {
        "program": params["fit"]["program"] + (", XLA" if params["fit"]["xla"] else ""),
        "device": _device(keras),
    }
    for sampling in ("example", "batch") if not options.no_gates else ():
        numbers |= {
            f"gates_{sampling}": times[sampling] / times["wide"],
            f"teacher_{sampling}": times[sampling] / times["fit"],
        }
        if keras.backend.backend() == "jax":
            numbers[f"kept_{sampling}"] = _kept(net, contenders[sampling][1]) / _kept(net, contenders["wide"][1])
    several = [name for name in times if name.startswith(("together_", "packed_"))]
    return numbers | {name: times[name] / int(name.rpartition("_")[2]) / times["fit"] for name in several}


def _kept(net: Net, model) -> int:
    """Bytes that the forward pass of one batch keeps for the backward pass, weights not counted (JAX)."""
    import jax
    import numpy as np

    weights, others = ([v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables))
    x = np.zeros((net.batch_size, *net.input_shape), "float32")
    _, backward = jax.vjp(lambda weights: model.stateless_call(weights, others, x, training=True), weights)
    known = {array.unsafe_buffer_pointer() for array in [*weights, *others]}
    arrays = {a.unsafe_buffer_pointer(): a.nbytes for a in jax.tree.leaves(backward) if isinstance(a, jax.Array)}
    return sum(size for pointer, size in arrays.items() if pointer not in known)


def _fit_together(channels: int | str, models: list, *data, callbacks, **options):
    import kmerge

    options.pop("verbose")
    callbacks = [callbacks, *([] for _ in models[1:])]
    return kmerge.fit_many(models, *data, callbacks=callbacks, packed_channels=channels, **options)[0]


def _build(net: Net, seed: int):
    from benchmarks.networks import architectures

    depth = {"depth": net.depth} if net.depth else {}
    return getattr(architectures, net.build)(net.input_shape, net.outputs, seed, **depth)


def _compiled(net: Net, model, wrap: Callable | None = None):
    import keras

    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss, metric = (classes, "accuracy") if net.outputs > 1 else ("mse", "mse")
    model.compile(wrap(optimizer) if wrap else optimizer, loss, metrics=[metric])
    return model


def _times(net: Net, contenders: dict[str, tuple], now: Callable) -> tuple[dict[str, float], dict[str, dict]]:
    """For each name, of what trains and the model: microseconds per step in its fastest epoch, the history's `params`.

    All take turns, an epoch each, so that whatever else the machine does meets all of them.
    """
    import keras
    import numpy as np

    class Clock(keras.callbacks.Callback):
        seconds = float("inf")

        def on_epoch_begin(self, epoch, logs=None):
            self.start = now()

        def on_epoch_end(self, epoch, logs=None):
            if epoch:
                self.seconds = min(self.seconds, now() - self.start)

    rng = np.random.default_rng(0)
    examples = net.batch_size * net.steps - net.batch_size // 2
    x = rng.normal(size=(examples, *net.input_shape)).astype("float32")
    y = rng.integers(0, net.outputs, examples) if net.outputs > 1 else np.sin(x)
    clocks, params = {name: Clock() for name in contenders}, {}
    for epoch in range(net.epochs + 1):
        for name, (fit, model) in contenders.items():
            options = {"batch_size": net.batch_size, "initial_epoch": epoch, "epochs": epoch + 1, "verbose": 0}
            history = fit(model, x, y, callbacks=[clocks[name]], **options)
            params.setdefault(name, history.params)
    return {name: clock.seconds / net.steps * 1e6 for name, clock in clocks.items()}, params


def _device(keras) -> str:
    return keras.distribution.list_devices()[0]


if __name__ == "__main__":
    sys.exit(main())
