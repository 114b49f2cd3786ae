"""The units that pruning keeps, to be looked at before anything is cut."""

from collections.abc import Mapping

import numpy as np


class UnitChoice(dict):
    """The units to keep of each space: ascending indices by its name, as `select` takes them. Prints as a table.

    Args:
        keep: indices of the units that stay, by name of a space.
        sizes: number of units of each of these spaces.
        costs: costs of the whole model and of the chosen one, and the limit, for each measure that was limited.
        noise: amount by which measured costs may differ if they are measured again.

    Example:
        >>> choice = kmerge.choose_units(model, budget=0.5)
        >>> del choice["first"]                            # now the space stays whole
        >>> kmerge.select(model, choice).get_layer("first").units
        6
    """

    def __init__(
        self,
        keep: Mapping[str, np.ndarray],
        sizes: Mapping[str, int],
        costs: Mapping[str, tuple[int, int, int]],
        noise: Mapping[str, int] | None = None,
    ):
        super().__init__(keep)
        self.sizes = dict(sizes)
        self.costs = dict(costs)
        self.noise = dict(noise or {})

    def __str__(self) -> str:
        lines = [f"{'space':40} {'units':>6} {'kept':>6}"]
        lines += [f"{name:40} {self.sizes[name]:6} {len(units):6}" for name, units in self.items()]
        for measure, (before, after, limit) in self.costs.items():
            noise = f" ± {self.noise[measure]:,}" if measure in self.noise else ""
            lines.append(f"{measure}: {before:,} -> {after:,}{noise}, {after / limit:.2%} of the {limit:,} allowed")
        return "\n".join(lines)
