"""Seeds from names: the same on every machine and in every process."""

import hashlib

import numpy as np


def _sequence(names: tuple) -> np.random.SeedSequence:
    # The length of each name goes in, so that ("ab", "c") and ("a", "bc") differ.
    text = "".join(f"{len(str(name))}:{name}" for name in names)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.SeedSequence(np.frombuffer(digest, dtype="<u4").tolist())


def seed_of(*names: object) -> int:
    """A seed for the thing that `names` name, from 1 to 2**31 - 1.

    Args:
        *names: what is seeded, from the general to the special, e.g. `("order", 7, epoch)`. Compared as text.

    Returns:
        A Python integer that Keras, NumPy and JAX take as a seed.
    """
    return int(_sequence(names).generate_state(1)[0]) % (2**31 - 1) + 1


def rng_of(*names: object) -> np.random.Generator:
    """A NumPy generator for the thing that `names` name; see `seed_of`."""
    return np.random.default_rng(_sequence(names))
