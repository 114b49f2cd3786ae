"""What pruning costs in accuracy and saves in parameters, multiply-accumulates, bytes and measured time.

    python -m benchmarks.studies.pruning --seeds 3

trains a ResNet-8 on scikit-learn's handwritten digits, prunes it to a quarter of its multiply-accumulates by each method,
fine-tunes, and prints a Markdown table. All rows of a seed start from one trained network and see the same number of
epochs; "from scratch" is a network of the pruned size that was never larger. Nothing is tuned to this table.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import DONE, UsageError, command_parser, ended, positive_number, seeds_of

TRAIN_EPOCHS, TUNE_EPOCHS, BATCH_SIZE, LATENCY_BATCH, ROUNDS = 12, 6, 64, 256, 5
METHODS = {
    "magnitude, local": {"importance": "magnitude", "selection": "local"},
    "magnitude, local, compensated": {"importance": "magnitude", "compensate": True},
    "magnitude, global": {"importance": "magnitude", "selection": "global"},
    "bn_scale, global": {"importance": "bn_scale", "selection": "global"},
    "taylor, local": {"importance": "taylor"},
    "taylor, global": {"importance": "taylor", "selection": "global"},
    "random, local": {"importance": "random"},
}
COLUMNS = {
    "cut": "test accuracy after the cut, %",
    "recalibrated": "after the cut and `recalibrate`, %",
    "tuned": "after fine-tuning, %",
    "parameters": "parameters",
    "macs": "MACs",
    "bytes": "`.keras` file, kB",
    "latency": f"{LATENCY_BATCH} images, ms",
    "whole": "the whole network then, ms",
    "ratio": "ratio of times",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__, "--seeds", seeds="3")
    parser.add_argument(
        "--share", type=positive_number, default=0.25, help="of the multiply-accumulates that stay (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        seeds = seeds_of(options.seeds, range(1))
    except UsageError as error:
        return ended(parser, error)
    rows: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for seed in seeds:
            for method, numbers in _measure(seed, options.share, Path(cache)):
                rows.setdefault(method, []).append(numbers)
                print(f"seed {seed}: {method}: {numbers}", file=sys.stderr, flush=True)
    import keras

    print(
        f"n = {len(seeds)}, {options.share:.0%} of the multiply-accumulates, {platform.machine()}, "
        f"{os.cpu_count()} cores, {keras.backend.backend()}\n"
    )
    print(table(rows))
    return DONE


def table(rows: dict[str, list[dict]]) -> str:
    """A Markdown table: the mean and the range of accuracies, the shortest times, the median of everything else.

    Args:
        rows: for each method the numbers of every seed, under the keys of `COLUMNS`.

    Returns:
        The table.
    """
    import numpy as np

    lines = ["| method | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, of_seeds in rows.items():
        cells = [method]
        for key in COLUMNS:
            values = [numbers[key] for numbers in of_seeds if key in numbers]
            if not values:
                cells.append("")
            elif key in ("cut", "recalibrated", "tuned"):
                cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            else:
                value = float(min(values) if key in ("latency", "whole") else np.median(values))
                cells.append(f"{value:,.0f}" if key in ("parameters", "macs", "bytes") else f"{value:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _measure(seed: int, share: float, cache: Path):
    """Yields (method, numbers) for one seed."""
    import kmerge
    from benchmarks.data.datasets import load
    from benchmarks.networks.architectures import resnet

    data = load("digits", None, cache, seed).data
    budget = kmerge.Budget(multiply_accumulates=share)

    def build(number: int):
        return resnet(data.x_train.shape[1:], 10, number, depth=8, width=32)

    whole = build(seed)
    _train(whole, data, seed, TRAIN_EPOCHS, 0.05)
    yield "whole network", {"cut": _accuracy(whole, data)} | _costs(whole)
    tuned = kmerge.select(whole, {})
    _train(tuned, data, seed + 1000, TUNE_EPOCHS, 0.02)
    yield "whole network, trained on", {"tuned": _accuracy(tuned, data)} | _costs(tuned)
    for method, options in METHODS.items():
        reads = options["importance"] == "taylor" or "compensate" in options
        examples = {"data": (data.x_train, data.y_train)} if reads else {}
        small = kmerge.prune(whole, budget=budget, seed=seed, **options, **examples)
        after_cut = _after_cut(small, data)
        _train(small, data, seed + 1000, TUNE_EPOCHS, 0.02)
        yield method, after_cut | {"tuned": _accuracy(small, data)} | _costs(small, whole)
    gated = kmerge.gate(whole, budget, seed=seed)
    _train(gated, data, seed + 1000, TUNE_EPOCHS // 2, 0.02)
    small = kmerge.compress(gated)
    after_cut = _after_cut(small, data)
    _train(small, data, seed + 2000, TUNE_EPOCHS - TUNE_EPOCHS // 2, 0.02)
    yield "gates, for half of the epochs", after_cut | {"tuned": _accuracy(small, data)} | _costs(small, whole)
    fresh = kmerge.prune(build(seed + 1000), "random", budget=budget)
    _train(fresh, data, seed, TRAIN_EPOCHS + TUNE_EPOCHS, 0.05)
    yield "from scratch", {"tuned": _accuracy(fresh, data)} | _costs(fresh, whole)


def _train(model, data, seed: int, epochs: int, rate: float) -> None:
    import keras

    import kmerge

    steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, steps), momentum=0.9)
    gated = bool(kmerge.gates_of(model))
    optimizer = kmerge.gate_optimizer(optimizer) if gated else optimizer
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [kmerge.GatePressure()] if gated else []
    options = {"batch_size": BATCH_SIZE, "epochs": epochs, "seed": seed, "verbose": 0}
    kmerge.fit(model, data.x_train, data.y_train, callbacks=callbacks, **options)


def _after_cut(model, data) -> dict:
    import kmerge

    recalibrated = kmerge.recalibrate(model, data.x_train, batch_size=len(data.x_train))
    return {"cut": _accuracy(model, data), "recalibrated": _accuracy(recalibrated, data)}


def _accuracy(model, data) -> float:
    import keras
    import numpy as np

    logits = keras.ops.convert_to_numpy(model(data.x_test, training=False))
    return 100 * float(np.mean(np.argmax(logits, axis=-1) == data.y_test))


def _costs(model, whole=None) -> dict:
    """The costs of a model without its optimizer; its time beside that of the whole network, measured in turn."""
    import kmerge

    plain = kmerge.select(model, {})
    numbers = {
        "parameters": kmerge.parameters(plain),
        "macs": kmerge.multiply_accumulates(plain),
        "bytes": kmerge.saved_bytes(plain) / 1000,
    }
    if whole is None:
        return numbers
    models, times = (plain, kmerge.select(whole, {})), []
    for _ in range(ROUNDS):
        times.append([1000 * kmerge.latency(each, batch_size=LATENCY_BATCH, repetitions=20) for each in models])
    # Other work on the machine only ever makes them longer.
    small, large = (min(each) for each in zip(*times, strict=True))
    return numbers | {"latency": small, "whole": large, "ratio": small / large}


if __name__ == "__main__":
    sys.exit(main())
