"""Count before you measure: what a step of a suite's training is on a GPU, compiled for it on a machine that has none.

    python -m venv /tmp/cuda && /tmp/cuda/bin/pip install 'jax[cuda12]' keras
    /tmp/cuda/bin/python -m benchmarks.studies.programs --suite cifar100 --batches 128 512 --together 1 2 4

needs a JAX that can compile for CUDA: the plug-in and NVIDIA's libraries, of the same version as JAX, but neither a GPU nor a
driver. It compiles one training step as `kmerge.fit` and `kmerge.fit_many` have it, with augmentation, loss, gradients and
optimizer, and convolutions of several networks packed as on a GPU. It prints a Markdown table as it goes: kernels a step,
megabytes moved, billions of operations, and the floor of memory and tensor cores without a cache; see
`benchmarks.studies.kernels`. The last columns are for an epoch of one network: the floor, and the time if every kernel took as
long as they did on an H200, 5.4 microseconds in the mean. `--merged` adds the big student with its gates.

The data is zeros of the suite's shapes, and no weight is ever moved.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.command_line import DONE, FAILED, UsageError, command_parser, ended, positive_whole_number, refusal
from benchmarks.data.cache import IMAGES
from benchmarks.runs.planning import PRECISIONS, named_suite
from benchmarks.studies.kernels import GPUS, Gpu, kernels_of
from benchmarks.suites.suite import Suite, phase_of

if TYPE_CHECKING:
    import keras

# Microseconds of a kernel of ResNet-20 at batch 128 on an H200, in the mean: an epoch of 152,768 kernels took .82 s.
_MEASURED = 5.4
_HEAD = ("network", "batch", "precision", "together", "kernels a step", "MB moved", "GFLOP", "floor, us")
_HEAD += ("floor of an epoch of one, s", f"at {_MEASURED} us a kernel, s")
# What the compiler has to know of a GPU that is not there; of Hopper, where no more is said.
_TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }}
  name: "{name}" device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth:.0f} device_memory_size: 84942979072 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 device_address_bits: 64
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


class _CountedError(Exception):
    """Ends a training before its first step; holds the text of its program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    try:
        suite = named_suite(options.suite)
        if suite.dataset not in IMAGES or "phases" not in suite.definition:
            raise UsageError("--suite: " + refusal("one that merges networks of images", options.suite))
        device = _device(GPUS[options.gpu])
    except UsageError as error:
        return ended(parser, error)
    except ImportError as error:
        return ended(parser, error, FAILED)
    lines = [_HEAD, ["---"] * len(_HEAD)]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)
    for merged in (False, True) if options.merged else (False,):
        for batch in options.batches or [suite.definition["phases"]["single"]["batch_size"]]:
            for precision in options.precisions:
                for together in [1] if merged else options.together:
                    row = _row(suite, merged, batch, precision, together, device, GPUS[options.gpu])
                    print("| " + " | ".join(row) + " |", flush=True)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__file__, __doc__, "--suite", suite="cifar100")
    parser.add_argument("--gpu", choices=GPUS, default="h100", help="(default: h100)")
    parser.add_argument(
        "--batches", nargs="+", type=positive_whole_number, metavar="N", help="examples a step (default: the suite's)"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["float32", "mixed_bfloat16"], help="(default: the first two)"
    )
    parser.add_argument(
        "--together", nargs="+", type=positive_whole_number, metavar="K", default=[1], help="networks at once (default: 1)"
    )
    parser.add_argument("--merged", action="store_true", help="the big student with gates, too")
    return parser


def _device(gpu: Gpu) -> Any:
    """A device of JAX that compiles and does no more.

    Raises:
        ImportError: where JAX cannot compile for CUDA.
    """
    from jax.experimental import topologies

    try:
        target = _TARGET.format(name=gpu.name, bandwidth=gpu.bandwidth)
        return topologies.get_topology_desc("", "cuda", target_config=target, topology="1x1x1").devices[0]
    except Exception as error:  # whatever a plug-in that is not there, or of another version, ends in
        do = "Run: pip install 'jax[cuda12]', of the version of jaxlib; no GPU is needed."
        raise ImportError(f"{refusal('a JAX that compiles for CUDA', str(error)[:200])} {do}") from error


def _row(
    suite: Suite, merged: bool, batch: int, precision: str, together: int, device: Any, gpu: Gpu
) -> tuple[str, ...]:
    """A row of the table."""
    kernels = kernels_of(_program(suite, merged, batch, precision, together, device))
    floor = sum(kernel.seconds(gpu) for kernel in kernels)
    source = IMAGES[suite.dataset]
    steps = -(-(source.train - source.validation) // batch)
    operations = sum(sum(kernel.operations.values()) for kernel in kernels)
    name = f"{suite.definition['architecture']['name']}{', merged' if merged else ''}"
    return (
        *(name, str(batch), precision, str(together), str(len(kernels))),
        *(f"{sum(kernel.moved for kernel in kernels) / 1e6:,.0f}", f"{operations / 1e9:,.1f}", f"{1e6 * floor:,.0f}"),
        *(f"{floor * steps / together:.3f}", f"{len(kernels) * _MEASURED * 1e-6 * steps / together:.2f}"),
    )


def _program(suite: Suite, merged: bool, batch: int, precision: str, together: int, device: Any) -> str:
    """The text of the program that trains these networks, compiled for the device."""
    import keras
    import numpy as np

    import kmerge
    from kmerge.training import PACKED_CHANNELS, PROGRAMS

    keras.backend.clear_session()
    keras.config.set_dtype_policy(precision)
    known = PROGRAMS["jax"]
    PROGRAMS["jax"] = functools.partial(_elsewhere(known), device)
    models = [_network(suite, merged, batch, seed) for seed in range(together)]
    x, y = np.zeros((batch, *models[0].input_shape[1:]), "float32"), np.zeros(batch, "int32")
    augments = [_augmentation(suite) for _ in models]
    try:
        if together == 1:
            kmerge.fit(models[0], x, y, batch_size=batch, augment=augments[0], verbose=0)
        else:
            kmerge.fit_many(models, x, y, batch_size=batch, augments=augments, packed_channels=PACKED_CHANNELS)
    except _CountedError as counted:
        return counted.args[0]
    finally:
        PROGRAMS["jax"] = known
    raise RuntimeError(f"{models[0].name} was trained without a program")


def _elsewhere(program: type) -> type:
    """The class of a program, which is compiled for another device, and never runs."""

    class Elsewhere(program):
        """Ends with its text."""

        def __init__(self, device: Any, *how: Any):
            super().__init__(*how)
            self._sharding = _jax().sharding.SingleDeviceSharding(device)

        def compiled(self, steps: Callable, *arguments: Any) -> None:
            """Compiles it and ends."""
            jax = _jax()
            there = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._sharding) for a in jax.tree.leaves(arguments)]
            there = jax.tree.unflatten(jax.tree.structure(arguments), there)
            raise _CountedError(steps.trace(*there).lower(lowering_platforms=("cuda",)).compile().as_text())

    return Elsewhere


def _jax() -> Any:
    import jax

    return jax


def _network(suite: Suite, merged: bool, batch: int, seed: int) -> "keras.Model":
    """A compiled network of a suite, or two of it merged."""
    import keras

    import kmerge
    from baselines.protocol.schedules import optimizer_of
    from benchmarks.networks.architectures import ARCHITECTURES

    source, settings = IMAGES[suite.dataset], dict(suite.definition["architecture"])
    side = source.crop or source.shape[0]
    build = functools.partial(ARCHITECTURES[settings.pop("name")], (side, side, source.shape[2]), source.classes, **settings)
    phase, gates = "gates" if merged else "single", suite.definition["gates"]
    table = suite.definition["phases"][phase] | {"batch_size": batch}
    epochs = suite.definition["epochs"][phase]
    optimizer, _ = optimizer_of(phase_of(table, epochs), epochs, source.train - source.validation)
    model = build(seed)
    if merged:
        model = kmerge.merge(model, build(seed + 1), sampling=gates["sampling"])
        rates = {"gate_learning_rate": gates["learning_rate"], "gate_momentum": gates["momentum"]}
        optimizer = kmerge.gate_optimizer(optimizer, **rates)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def _augmentation(suite: Suite) -> Any:
    """The layer that a suite's images go through, if any."""
    from benchmarks.data.augmentation import ShiftAndFlip

    channels = IMAGES[suite.dataset].shape[2]
    return ShiftAndFlip(4, (0.0,) * channels, 0) if suite.definition["augmentation"] == "shift_and_flip" else None


if __name__ == "__main__":
    sys.exit(main())
