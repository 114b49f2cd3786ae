"""The page on an address of this machine, while runs come to their ends."""

import contextlib
import http.client
import json
import threading
import time

import pytest

from benchmarks import report
from benchmarks.files import locked
from benchmarks.records.results import read_results
from benchmarks.records.store import RunFolder
from benchmarks.reports.page import page_content
from benchmarks.runs.serving import serve
from tests import chromium

RESULT = {"metric": "accuracy", "epochs": 2, "seconds": 4.0, "compile_seconds": 1.0, "wall_seconds": 6.0, "programs": {}}


def _run(folder, seed):
    configuration = {"suite": "digits", "strategy": "one_model", "seed": seed, "scale": 1.0, "backend": "jax"}
    run = RunFolder.of(folder, {**configuration, "examples": None, "definition": {"epochs": {"single": 6}}})
    run.create({"suite": "digits", "launched": 1.0})
    return run


def _finish(run):
    values = dict.fromkeys(("test_last", "test_best", "validation_last", "validation_best"), 0.9)
    run.finish({**RESULT, **values, "teacher_epoch_equivalents": 2.0}, [{"phase": "single", "val_metric": 0.5, "loss": 1.0}])


@pytest.fixture
def served(tmp_path):
    """Four runs, one of them done and one failed; and a function that gets what is at a path, with its status."""
    runs = [_run(tmp_path, seed) for seed in range(4)]
    _finish(runs[0])
    runs[3].fail("ValueError: <b>no</b>\x1b[2J", "Traceback")

    def content():
        results = read_results(tmp_path)
        return page_content(results, *report.judged(results, [], None, None))

    with serve(tmp_path, content, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]

        def get(path, host=f"localhost:{port}"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield runs, get, f"http://127.0.0.1:{port}/"
        server.shutdown()


def test_progress_tells_how_far_runs_are_failed_ones_first(served):
    runs, get, _ = served
    with locked(runs[1].lock):
        progress = json.loads(get("/progress")[1])
    assert (progress["total"], progress["done"], progress["failed"]) == (4, 1, 1)
    assert progress["text"] == "1 of 4 runs are done, 1 failed, 1 under way, 1 wait; about 12 s left."
    first, second = progress["runs"]
    assert first == {"text": "one_model seed 3 failed: ValueError: <b>no</b>\\x1b[2J", "failed": True}
    assert second == {"text": "one_model seed 1 runs since 0 s", "failed": False}
    before = json.loads(get("/data")[1])
    assert before["version"] == progress["version"] and sum(r["status"] == "done" for r in before["protocols"][0]["runs"]) == 1
    _finish(runs[1])
    later, after = json.loads(get("/progress")[1]), json.loads(get("/data")[1])
    assert later["version"] == after["version"] != before["version"] and later["text"].endswith("; nobody is at them.")
    assert sum(r["status"] == "done" for r in after["protocols"][0]["runs"]) == 2


def test_only_this_machine_is_answered_and_only_with_the_page(served, tmp_path):
    _, get, _ = served
    assert get("/", host="evil.example")[0] == get("/data", host="localhost")[0] == 403
    assert get("/../config.json")[0] == get("/runs")[0] == 404
    status, text = get("/")
    assert status == 200 and "connect-src 'self'" in text and "<b>no" not in text
    assert not (tmp_path / "report.html").exists() and not list(tmp_path.glob("*.csv"))
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert get("/data")[0] == 503


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")
def test_a_browser_shows_a_run_that_ends(served):
    runs, _, address = served
    done = "document.querySelector('#live-text').textContent.slice(0, 6)"
    done += " + current.runs.filter(r => r.status === 'done').length"
    with chromium.tab() as tab:
        tab.open(address + "#runs=one")
        _finish(runs[2])
        until = time.monotonic() + 30
        while tab.run(done) != "2 of 42" and time.monotonic() < until:
            time.sleep(0.05)
        assert tab.run(done) == "2 of 42" and tab.run("document.getElementById('filter-runs').value") == "one"
        assert tab.run("document.querySelector('#live-runs li').className") == "bad" and tab.errors == []


def test_serving_needs_one_folder_that_has_results(tmp_path, capsys):
    assert report.main(["--serve", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
    assert report.main(["--serve", str(tmp_path), str(tmp_path)]) == 2
    assert "--serve: expected one folder" in capsys.readouterr().err
    _finish(_run(tmp_path, 0))
    with contextlib.closing(serve(tmp_path, dict, 0).socket) as taken:
        assert report.main(["--serve", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "ddress already in use" in capsys.readouterr().err
