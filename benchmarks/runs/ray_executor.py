"""Runs batches of runs on a Ray cluster, whose machines share the code's and the results' folders.

A batch is one Ray task, which works through it as a local launch with one job does. Ray repeats a task whose machine or
process dies, on another machine; what was done of it stays done, and the run it was at goes on from its last epoch.
"""

import importlib.util
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkout import ROOT
from benchmarks.command_line import UsageError, refusal
from benchmarks.records.store import RunFolder
from benchmarks.runs.executors import (
    WORKER,
    Event,
    LocalProcesses,
    default_jobs,
    fair_share,
    next_batch,
    worker_environment,
)

_SECONDS_BETWEEN_LOOKS = 0.5


class RayTasks:
    """Tasks on a Ray cluster; an `Executor`.

    A task takes a GPU or a TPU where the cluster has any, and the processor cores that a local worker would.

    Args:
        address: of the cluster's head; None for a cluster on this machine, made for this launch.
        backend: of Keras.
        jobs: how many tasks at a time; None for as many as the cluster has room for.
        together: how many seeds a worker trains in one program.
        timeout: seconds that a run may take; None for any time.
        retries: how often Ray repeats a task whose machine or process dies.
        devices: GPUs or TPUs of a machine that a task takes.
        launch: what config.json is to say of the runs that are done here; None for what it says.
        module: what a worker runs.

    Raises:
        UsageError: if Ray is not installed.
    """

    def __init__(
        self,
        address: str | None,
        backend: str,
        jobs: int | None,
        together: int = 1,
        timeout: float | None = None,
        retries: int = 0,
        devices: int = 1,
        launch: Mapping[str, Any] | None = None,
        module: str = WORKER,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UsageError("--executor: expected Ray to be installed, received 'ray'. Run: pip install 'kmerge[ray]'")
        self.address = address
        self.settings = {"backend": backend, "together": together, "timeout": timeout, "retries": retries}
        self.settings |= {"launch": launch, "module": module}
        self.settings["threads"] = fair_share()  # as reserved: a larger machine has more tasks, not larger ones
        self.jobs = jobs or default_jobs()  # the cluster's number once it is known
        self._wanted_jobs = jobs
        self._devices = devices
        self._running: dict[Any, Sequence[RunFolder]] = {}

    def __str__(self) -> str:
        return f"on the Ray cluster {self.address or 'of this machine'}"

    def __enter__(self) -> "RayTasks":
        import ray

        _check_address(self.address)
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        try:
            ray.init(self.address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(self.address, error) from error
        self._task = ray.remote(_work_through).options(max_retries=self.settings["retries"], **_share(self._devices))
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)  # its worker notices by the end of its standard input
        self._running.clear()
        ray.shutdown()

    def run(self, batches: Sequence[Sequence[RunFolder]]) -> Iterator[Event]:
        """Work through all batches.

        Args:
            batches: run folders that exist, on a disk that all machines have at the same place.

        Yields:
            What happens, as it happens; what became of each run once its batch is through.
        """
        import ray
        from ray.util.queue import Queue

        # On the head, as the launch is lost without it anyway.
        events = Queue(actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}})

        waiting = list(batches)
        while waiting or self._running:
            while waiting and len(self._running) < (self._wanted_jobs or self._room()):
                batch = waiting.pop(next_batch(waiting, list(self._running.values())))
                folders = [str(run.path.absolute()) for run in batch]
                self._running[self._task.remote(folders, events, **self.settings)] = batch
            ready, _ = ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
            yield from self._news(events)
            for reference in ready:
                yield from self._ends(reference, self._running.pop(reference))

    def _news(self, events: Any) -> Iterator[Event]:
        """What the tasks have told since the last look."""
        runs = {str(run.path.absolute()): run for batch in self._running.values() for run in batch}
        for folder, kind, detail in events.get_nowait_batch(events.qsize()):
            if folder in runs:
                yield Event(kind, runs[folder], detail)

    def _room(self) -> int:
        """How many tasks the cluster, as it is now, has room for; one at least, which then waits for machines."""
        import ray

        there, share = ray.cluster_resources(), _share(self._devices)
        needed = {"CPU": share["num_cpus"], "GPU": share["num_gpus"], **share["resources"]}
        return max(1, min(int(there.get(name, 0) // number) for name, number in needed.items() if number))

    def _ends(self, reference: Any, batch: Sequence[RunFolder]) -> Iterator[Event]:
        import ray

        error, words = "the task ended without a word about this run", ""
        ends: dict[str, tuple[str, dict]] = {}
        try:
            ends = ray.get(reference)
        except ray.exceptions.RayError as fault:
            # Of an error in the task itself, Ray's text begins with where that ran; what it was is its cause.
            words, cause = str(fault), getattr(fault, "cause", None) or fault
            error = f"Ray lost the task: {str(cause).strip().splitlines()[0]}"
        for run in batch:
            kind, detail = ends.get(str(run.path.absolute()), (None, {}))
            if kind is None and run.status == "done":
                kind, detail = "done", run.result
            if kind is None:
                error = run.give_up(error, words)
                kind, detail = "failed", {"error": error, "traceback": words}
            yield Event(kind, run, detail)


def _check_address(address: str | None) -> None:
    """Refuse at once an address at which nobody listens; Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or a name as "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> UsageError:
    do = f"There is no Ray cluster at {address}: {error}"
    return UsageError("--address: " + refusal("that of a running cluster", address, do))


def _share(devices: int) -> dict[str, Any]:
    """What of a cluster's resources a task takes."""
    import ray

    there = ray.cluster_resources()
    tpu = {"TPU": devices} if there.get("TPU") else {}
    return {
        "num_cpus": fair_share(),
        "num_gpus": devices if there.get("GPU") and not tpu else 0,
        "resources": tpu,
    }


def _work_through(
    folders: list[str],
    events: Any,
    backend: str,
    threads: int,
    together: int,
    timeout: float | None,
    retries: int,
    launch: Mapping[str, Any] | None,
    module: str,
) -> dict[str, tuple[str, dict]]:
    """On a machine of the cluster: do the runs of these folders and tell what happens; by folder, how each ended."""
    ends, environment = {}, worker_environment(backend, threads)
    runs = [RunFolder.read(Path(folder)) for folder in folders]
    with LocalProcesses(1, environment, together, timeout, retries, launch, module) as workers:
        for event in workers.run([runs]):
            if event.kind in ("done", "failed"):
                ends[str(event.run.path)] = event.kind, event.detail
            else:
                events.put((str(event.run.path), event.kind, event.detail))
    return ends
