"""Launches on a real Ray cluster of several nodes, all on this machine; one of them dies while it works."""

import pytest

from benchmarks import run
from benchmarks.records import store
from benchmarks.runs.planning import named_suite, planned_runs
from benchmarks.runs.ray_executor import RayTasks
from tests import launches

ray = pytest.importorskip("ray", reason="Ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="this Ray has no cluster for tests")

# By its own settings Ray asks each node every three seconds, and five times until it takes it for dead. One that is dead
# answers at once that nobody is there; one that is slow has as long as ever.
HEALTH_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """A head that takes no task, and two nodes that take one each; the first dies in the first test."""
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": HEALTH_CHECKS})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    made.shutdown()


def _arguments(tmp_path, out, suite):
    places = ("--out", tmp_path / out, "--cache-dir", tmp_path / "cache")
    return ("--suite", suite, *launches.SMALL, "--strategy", "one_model", "--seeds", "2", *places)


def test_a_node_that_dies_costs_nothing_but_time(tmp_path, cluster):
    suite = launches.variant(
        tmp_path, "sine", (r"\nsingle = \d+", "\nsingle = 300000"),
        (r"runs_per_process = \d+", "runs_per_process = 1"),
    )  # fmt: skip
    options = ("--executor", "ray", "--address", cluster.address, "--retries", "2")
    process = launches.start(*_arguments(tmp_path, "ray", suite), *options, asleep=True)
    folder = tmp_path / "ray" / "variant"

    def is_at_work():
        assert process.poll() is None, process.communicate()
        runs, _ = store.read_runs(folder)
        return sum((r.path / "lock").exists() for r in runs) >= 2

    launches.wait_for(is_at_work)
    cluster.remove_node(cluster.nodes[0], allow_graceful=False)
    out, err = process.communicate(timeout=300)
    assert process.returncode == run.DONE, out + err
    assert launches.call(*_arguments(tmp_path, "local", suite), "--jobs", "2", executor=launches.asleep)[0] == run.DONE
    results = []
    for name in ("ray", "local"):
        rows = launches.table_of(tmp_path / name / "variant" / "runs.csv")
        results.append([(row["run"], row["status"], row["test_last"], row["epochs"]) for row in rows])
    assert results[0] == results[1] and len(results[0]) == 2


def test_what_happens_on_a_cluster_is_told_as_it_happens(tmp_path, cluster):
    suite = launches.variant(tmp_path, "sine", (r"\nsingle = \d+", "\nsingle = 100000"))
    options = run.parsed([*map(str, _arguments(tmp_path, "told", suite))])
    runs = planned_runs(named_suite(str(suite)), options)
    places = {"data_dir": None, "cache_dir": str(tmp_path / "cache")}
    for each in runs:
        each.create({"suite": str(suite), "command": "c", "commit": "abc", **places})
    with RayTasks(cluster.address, "tensorflow", None, module=launches.SLEEPING) as tasks:
        events = [(event.kind, event.run.path) for event in tasks.run([[each] for each in runs])]
    for each in runs:
        kinds = [kind for kind, path in events if path == each.path]
        assert kinds[0] == "start" and kinds[-1] == "done" and set(kinds[1:-1]) == {"epoch"}


def test_a_cluster_that_is_not_there_is_told(tmp_path):
    suite = launches.variant(tmp_path, "sine")
    address = ("--executor", "ray", "--address", "127.0.0.1:1")
    status, _, err = launches.call(*_arguments(tmp_path, "out", suite), *address)
    assert status == run.USAGE and "There is no Ray cluster at 127.0.0.1:1" in err and "Traceback" not in err


def test_an_address_needs_the_executor(tmp_path):
    suite = launches.variant(tmp_path, "sine")
    status, _, err = launches.call(*_arguments(tmp_path, "out", suite), "--address", "auto")
    assert status == run.USAGE and "add --executor ray" in err


def test_what_broke_a_task_is_told(tmp_path, monkeypatch):
    """The first line of Ray's own text is where the task ran."""
    error = ray.exceptions.RayTaskError("_work_through", "ray::_work_through() (pid=1)\n...", ValueError("no such folder"))

    def get(reference):
        raise error.as_instanceof_cause()

    monkeypatch.setattr(ray, "get", get)
    folder = store.RunFolder.of(tmp_path, {"suite": "s", "strategy": "a", "seed": 1})
    folder.create({})
    (event,) = RayTasks("auto", "jax", None)._ends(None, [folder])
    assert event.kind == "failed" and event.detail["error"] == "Ray lost the task: no such folder"
    assert folder.failure["traceback"].startswith("ray::_work_through()")
