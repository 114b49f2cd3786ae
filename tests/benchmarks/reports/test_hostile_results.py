"""Results of strangers: whatever lies in a folder, a report is made of what can be trusted, and the rest is told."""

import json
import os
import random

from benchmarks import report
from benchmarks.records import results, store
from benchmarks.records.tables import read_csv

DEEP = "[" * 100_000
RAW = [DEEP, '{"a":' * 100_000, "NaN", "null", "1", "[]", '"a"', '{"a": 1e999}', b"\xe9\xff", "", "9" * 5000]
RAW += ["pipe", "folder", "loop"]
# By what is changed: values that no table or figure can show.
WRONG = {
    "metric": [None, "bleu", [], {}, "x" * 1_000_000],
    "test_last": [None, True, "0.9", [], float("nan"), float("inf"), 1e308, 10**400],
    "test_best": ["\ud800", {}, -1e308],
    "parameters": [True, "many", [], 1e308, 10**400],
    "together": [[], "2", 1e300],
    "seconds": [{}, "x" * 1_000_000],
    "extras": [[1], "a", {"x" * 1000: 0.5}, {"\ud800": 0.5}, {str(i): 0.5 for i in range(2000)}],
    "device": ["x" * 1_000_000],
    "strategy": ["", "x" * 1_000_000, "\ud800", "a\nb", "\x00"],
    "suite": [None, [], "x" * 1_000_000],
    "seed": [None, True, "1", 1.5, 10**400],
    "scale": ["1", [], float("nan"), 1e308, 10**400],
    "examples": ["all", [], 10**400],
}
_OF_CONFIGURATION = ("strategy", "suite", "seed", "scale", "examples")
HISTORY = [{"phase": "gates", "epoch": i, "val_metric": 0.5, "gate_pressure": 0.1} for i in (1, 2)]


def _finish(folder, strategy, seed, changes=(), history=HISTORY):
    configuration = {"suite": "s", "strategy": strategy, "seed": seed, "scale": 1.0, "examples": None, "backend": "jax"}
    result = {"metric": "accuracy", "test_last": 0.9 + 0.01 * seed, "test_best": 0.95, "parameters": 100, "extras": {"a": 0.5}}
    for name, value in dict(changes).items():
        (configuration if name in _OF_CONFIGURATION else result)[name] = value
    run = store.RunFolder.of(folder, configuration)
    run.create({"command": "python"})
    run.finish(result, history)
    return run


def _fill(folder):
    for strategy in ("l0_merge", "one_model"):
        for seed in range(2):
            _finish(folder, strategy, seed)


def _report(folder, capsys):
    """What the command says; whatever lies there, the tables have the four rows that are whole."""
    capsys.readouterr()
    assert report.main([str(folder)]) == report.DONE
    rows = list(read_csv(folder / "summary.csv"))[1:]
    assert {(row[5], row[8]) for row in rows} >= {("l0_merge", "2"), ("one_model", "2")}
    assert (folder / "report.html").stat().st_size < 5_000_000 and (folder / "summary.md").stat().st_size < 1_000_000
    said = capsys.readouterr().out
    assert "The figure" not in said and len(said) < 200_000
    return said


def _replaced(path, raw):
    path.unlink(missing_ok=True)
    if raw == "pipe":
        os.mkfifo(path)
    elif raw == "folder":
        path.mkdir()
    elif raw == "loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


def test_what_cannot_be_shown_is_told_and_costs_nothing_else(tmp_path, capsys):
    """One folder with all of it, as one report takes a second."""
    _fill(tmp_path)
    changes = [(name, value) for name, values in WRONG.items() for value in values]
    rows = [_finish(tmp_path, "l0_merge", 100 + i, {name: value}).path for i, (name, value) in enumerate(changes)]
    draw, files = random.Random(0), []
    for name in ("config.json", "result.json", "history.json", store.FUNCTION, store.FILTERS, "failed.json", "done"):
        for raw in draw.sample(RAW, 8):
            path = _finish(tmp_path, "best_of_three", 100 + len(files)).path
            if name == "failed.json":
                (path / "done").unlink()
            _replaced(path / name, raw)
            files.append(path / name)
    kernel = {"kernel": [[[[0.1] * 5000]]], "parents": list(range(5000))}
    drawn = [(store.FUNCTION, {"x": [0, 1], "y": [0, y]}) for y in (1e308, -1e308, 1e999, 10**400, None, "a", [1])]
    drawn += [(store.FUNCTION, {"x": [0] * 200_000, "y": [0] * 200_000}), (store.FILTERS, kernel)]
    drawn += [(store.FILTERS, {**kernel, "parents": [0] * 5000}), (store.FILTERS, {"kernel": [[[[1e308]]]], "parents": [0]})]
    for seed, (name, content) in enumerate(drawn):
        files.append(_finish(tmp_path, "restart", seed).path / name)
        files[-1].write_text(json.dumps(content))
    for seed, epoch in enumerate(({"val_metric": 1e308}, {"\ud800": 1.0}, {"phase": []}, {"val_metric": 10**400}), 100):
        _finish(tmp_path, "one_big_model", seed, history=[*HISTORY, {**HISTORY[0], **epoch}])
    os.mkdir(os.fsencode(tmp_path / "runs") + b"/\xff\x1b[31m")  # no text, and red from here on
    said = _report(tmp_path, capsys)
    assert said.replace("\n", "").isprintable() and r"runs/\udcff\x1b[31m is not a run folder" in said
    assert [change for change, path in zip(changes, rows, strict=True) if path.name not in said] == []
    for path in files:
        if path.name in ("config.json", store.FUNCTION, store.FILTERS) and path.is_file():
            assert f"{path.parent} is not a run folder" in said or f"{path} cannot be drawn, and is left out" in said
    assert said.count("extras that no curve can be of") == 1
    assert {path.name.partition("-")[0] for path in (tmp_path / "figures").glob("*.png")} >= {"boxplot", "curves", "gates"}


def test_tables_of_strangers_may_be_anything(tmp_path, capsys):
    _fill(tmp_path)
    results.write_tables(results.read_results(tmp_path))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    tuning = tmp_path / "tuning"
    tuning.mkdir()
    (tuning / "ragged.csv").write_text("a,b\n1,2\n1\n" + "x" * 1_000_000 + ",2\n")
    (tuning / "empty.csv").write_text("")
    os.mkfifo(tuning / "pipe.csv")
    head, row = next(read_csv(tmp_path / "runs.csv")), (tmp_path / "runs.csv").read_bytes().splitlines()[1].split(b",")
    columns = ("scale", "test_last", "extras", "seed", "run", "protocol", "strategy", "metric")
    changed = [[DEEP.encode() if name == column else cell for name, cell in zip(head, row, strict=True)] for column in columns]
    lines = [*map(b",".join, changed), b"\xe9", b"1", DEEP.encode(), b"," * 100_000, b"\0", b'"']
    for table in ("runs.csv", "history.csv"):
        (tmp_path / table).write_bytes((tmp_path / table).read_bytes() + b"\n".join(lines))
    said = _report(tmp_path, capsys)
    assert said.count("its ") >= len(columns) and said.count("runs.csv: a row has not as many cells") == 6
    text = (tmp_path / "summary.md").read_text()
    assert "| 1 " in text and "pipe.csv cannot be read: [Errno 22] expected" in text and "empty.csv cannot be read" in text
