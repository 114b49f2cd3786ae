"""The page of a suite's results: what it holds, and how it works in a real browser."""

import json
import re

import pytest

from benchmarks import report
from benchmarks.records import results, store
from tests import chromium

EVIL = '</script><script>document.title = "taken"</script><img src=x onerror=alert(1)>'


def _finish(folder, strategy, seed, last, epochs=4, **changes):
    configuration = {"suite": "s", "strategy": strategy, "seed": seed, "scale": 1.0, "examples": None, "backend": "jax"}
    run = store.RunFolder.of(folder, {**configuration, "definition": {"epochs": {"single": 6}}, **changes})
    run.create({"command": "python -m benchmarks.run", "commit": "abc"})
    result = {"metric": "accuracy", "test_last": last, "test_best": last, "epochs": 6, "seconds": 2.0, "parameters": 10}
    history = [{"epoch": epoch, "val_metric": last * epoch / epochs, "loss": 1 / epoch} for epoch in range(1, epochs + 1)]
    for row in history:
        row["phase"] = "single" if row["epoch"] < epochs / 2 else "finetune"
    run.finish({**result, "teacher_epoch_equivalents": 7.5 + last, "device": "cpu", "extras": {"a": 1.5}}, history)
    return run


@pytest.fixture
def page(tmp_path):
    """A page with three strategies of seven seeds, a failed and an unfinished run, and a folder that is no run."""
    for seed in range(7):
        _finish(tmp_path, "l0_merge", seed, 0.90 + 0.01 * seed)
        _finish(tmp_path, "one_model", seed, 0.80 + 0.011 * seed)
        _finish(tmp_path, "zz" + EVIL, seed, 0.5)
    failed = _finish(tmp_path, "l0_merge", 8, 0.9)
    failed.start()
    failed.fail(f"ValueError: {EVIL}", "Traceback ...")
    _finish(tmp_path, "one_model", 9, 0.9).start()
    (tmp_path / "runs" / "foreign").mkdir()
    return _page(tmp_path)


def _page(folder):
    report.write_report(results.read_results(folder), ["l0_merge", "one_model"])
    return folder / "report.html"


def _data(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1])


def test_the_page_holds_all_runs_and_needs_nothing_else(page):
    data = _data(page)
    (protocol,) = data["protocols"]
    assert len(protocol["runs"]) == 23 and len(protocol["curves"]) == 21
    assert protocol["definition"] == {"epochs": {"single": 6}}
    assert protocol["missing"][0] == "l0_merge: seeds 9"
    assert [c["second"] for c in protocol["comparisons"]] == ["one_model", "zz" + EVIL]
    assert [c["family"] for c in protocol["comparisons"]] == ["exploration"] * 2
    assert protocol["verdict"].startswith("Test accuracy: l0_merge 93.00 %")
    text = page.read_text()
    code = re.sub(r'(?s)id="data">.*?</script>', "", text)
    assert not re.search(r'(src|href)\s*=|https?://(?!www\.w3\.org/2000/svg")|innerHTML|eval\(', code)
    assert EVIL not in text and text.count("</script>") == 2


def test_many_runs_make_a_page_of_limited_size(tmp_path):
    for seed in range(50):
        for strategy in "abcde":
            _finish(tmp_path, strategy, seed, 0.5 + 0.001 * seed, epochs=600)
    page = _page(tmp_path)
    curve = next(iter(_data(page)["protocols"][0]["curves"].values()))
    assert curve["epoch"][0] == 1 and curve["epoch"][-1] == 600 and len(curve["epoch"]) <= 161
    assert len(curve["val_metric"]) == len(curve["epoch"]) and curve["phases"][0] == [1, "single"]
    assert page.stat().st_size < 3_000_000


needs_browser = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")


@needs_browser
def test_the_page_in_a_browser(page):
    with chromium.tab() as tab:
        tab.open(page)
        assert tab.run("document.title") == f"Results of {page.parent.name}"  # what stands in results is text only
        problems = tab.run("document.getElementById('problems').innerText")
        assert "l0_merge seed 8 failed: ValueError" in problems and "foreign is not a run folder" in problems
        assert "1 runs are unfinished" in problems and "<img" in problems
        assert tab.run("document.querySelectorAll('img').length") == 0
        assert tab.run("document.getElementById('verdict').textContent").startswith("Test accuracy: l0_merge 93.00 %")
        assert tab.run("document.querySelectorAll('#summary tbody tr').length") == 6
        assert tab.errors == []


@needs_browser
def test_tables_sort_and_filter(page):
    with chromium.tab() as tab:
        tab.open(page)
        tab.run("[...document.querySelectorAll('#runs th button')].find(b => b.textContent === 'test, last').click()")
        shown = "[...document.querySelectorAll('#runs tbody tr')].map(r => r.children[3].textContent)"
        values = [float(text) for text in tab.run(shown) if text]
        assert values == sorted(values) and len(values) == 21
        assert tab.run("document.querySelector('#runs th[aria-sort]').getAttribute('aria-sort')") == "ascending"
        tab.run("const f = document.getElementById('filter-runs'); f.value = 'l0_merge done'; f.oninput()")
        assert tab.run("document.querySelectorAll('#runs tbody tr').length") == 7
        assert tab.run("document.getElementById('count').textContent") == "7 of 23"
        assert tab.errors == []


@needs_browser
def test_the_keyboard_reaches_everything(page):
    with chromium.tab() as tab:
        tab.open(page)
        tab.run("document.querySelector('#runs tbody button').focus()")
        tab.press("Enter")
        assert tab.run("document.getElementById('details').open")
        details = tab.run("document.getElementById('details').innerText")
        assert "python -m benchmarks.run" in details and "abc" in details and '"single": 6' in details
        tab.press("Escape")
        assert not tab.run("document.getElementById('details').open")
        tab.run("document.getElementById('chart').focus()")
        for _ in range(3):
            tab.press("ArrowRight")
        assert tab.run("document.getElementById('readout').textContent").startswith("3: l0_merge 69.75")
        tab.run("document.body.focus(); document.activeElement.blur()")
        reached = set()
        for _ in range(150):
            tab.press("Tab")
            reached.add(tab.run("document.activeElement.id || document.activeElement.tagName"))
        assert {"protocol", "theme", "filter-summary", "curve", "chart", "filter-runs", "INPUT", "BUTTON"} <= reached


@needs_browser
def test_colours_follow_the_system_and_the_button(page):
    with chromium.tab() as tab:
        tab.open(page)
        back = "getComputedStyle(document.body).backgroundColor"
        for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
            tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            assert tab.run(back) == colour
        tab.run("document.getElementById('theme').click()")
        assert tab.run(back) == "rgb(255, 255, 255)"
