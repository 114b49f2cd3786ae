"""What a run's row says of the machine, the versions and the launch that it comes from."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.records.store import RunFolder

# How a device's memory is used, and what its compiler is told, as far as the environment says it.
_DEVICE_SETTINGS = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_FLAGS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    "TF_XLA_FLAGS",
    "NVIDIA_TF32_OVERRIDE",
)


def provenance(run: RunFolder) -> dict[str, Any]:
    """The columns of a run's row that say by what code and where it was done.

    Args:
        run: as whoever does it has taken it.
    """
    import keras

    backend = run.configuration["backend"]
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("keras", "numpy", backend)}
    launch = run.launch
    return {
        "backend": backend,
        "versions": " ".join(f"{name} {version}" for name, version in versions.items()),
        "precision": keras.config.dtype_policy().name,
        "devices": run.configuration.get("devices", 1),
        "device": hardware(),
        "environment": {name: os.environ[name] for name in _DEVICE_SETTINGS if name in os.environ},
        "commit": launch.get("commit"),
        "command": launch.get("command"),
    }


def hardware() -> str:
    """Name of the GPU, the TPU or the processor, and how many threads the last may use."""
    import keras

    if any("tpu" in device.lower() for device in keras.distribution.list_devices()):
        import jax

        return jax.devices()[0].device_kind
    if any("gpu" in device.lower() for device in keras.distribution.list_devices()):
        with contextlib.suppress(OSError):
            command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            names = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
            if names:
                return names[0]
        return "GPU"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    return f"{name}, threads: {threads}"
