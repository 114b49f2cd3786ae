"""How long it takes to match the units of two networks, and how much memory it needs.

    python -m benchmarks.studies.matching --network ResNet50

matches two networks of `keras.applications`, with random weights and statistics, by their weights, and prints a Markdown
table: seconds of the clock and of all cores together, and the most memory that NumPy held at a time, beside the size of
the weights and of the widest space squared. The second network is the first with its units shuffled, or one of its own;
the share of units found tells whether matching worked.
"""

import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Sequence

from benchmarks.command_line import DONE, command_parser

COLUMNS = (
    "network",
    "second network",
    "method",
    "s",
    "peak, MB",
    "weights, MB",
    "widest space squared, MB",
    "found, %",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__)
    parser.add_argument("--network", default="ResNet50", help="name of a network of keras.applications")
    parser.add_argument("--methods", nargs="+", choices=["weights", "transport"], default=["weights", "transport"])
    options = parser.parse_args(arguments)
    rows = measure(options.network, options.methods)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for row in [COLUMNS, ["---"] * len(COLUMNS), *rows]:
        print("| " + " | ".join(row) + " |")
    return DONE


def measure(name: str, methods: list[str]) -> list[list[str]]:
    """Matches two pairs of networks by each method.

    Args:
        name: of a network of `keras.applications`.
        methods: of `baselines.fusion.alignment`.

    Returns:
        Rows of the table, in the order of `COLUMNS`.
    """
    import numpy as np

    import kmerge
    from kmerge.matching import match

    model, other = _network(name, 1), _network(name, 2)
    spaces = kmerge.channel_spaces(model).selectable
    rng = np.random.default_rng(3)
    orders = {space.name: rng.permutation(space.size) for space in spaces}
    back = {space: np.argsort(order) for space, order in orders.items()}
    weights = sum(4 * np.prod(weight.shape) for weight in model.weights)
    widest = 8 * max(space.size for space in spaces) ** 2
    rows = []
    for second, moved, expected in (("shuffled", kmerge.permute(model, orders), back), ("its own", other, None)):
        for method in methods:
            start, before = time.perf_counter(), time.process_time()
            found = match(model, moved, method)
            seconds, used = time.perf_counter() - start, time.process_time() - before
            tracemalloc.start()  # In a run of its own: it slows others down.
            match(model, moved, method)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            right = [np.mean(found[space] == expected[space]) for space in found] if expected else None
            share = "" if right is None else f"{100 * np.mean(right):.1f}"
            sizes = (f"{number / 1e6:.0f}" for number in (peak, weights, widest))
            rows.append([name, second, method, f"{seconds:.1f}", f"{used:.1f}", *sizes, share])
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _network(name: str, seed: int):
    """A network with random weights; statistics, too, and scales, or units of a fresh network could not be told apart."""
    import keras
    import numpy as np

    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.3, weight.shape))
        else:
            weight.assign(rng.normal(0, np.prod(weight.shape[:-1]) ** -0.5, weight.shape))
    return model


if __name__ == "__main__":
    sys.exit(main())
