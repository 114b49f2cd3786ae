"""The page of a suite's results: what it holds, and how it works in a real browser."""

import csv
import json
import re
import struct
import time

import pytest

from benchmarks import report
from benchmarks.records import results, store
from benchmarks.reports import claims
from benchmarks.reports.page import page as page_of
from benchmarks.reports.page import page_content
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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with three strategies of seven seeds, a failed and an unfinished run, and a folder that is no run."""
    tmp_path = tmp_path_factory.mktemp("page")
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
    (definition,) = {run["definition"] for run in protocol["runs"]}
    assert data["settings"][definition] == {"epochs": {"single": 6}}
    methods = dict(protocol["methods"])
    assert "epoch of training the suite's own architecture" in methods["What is a teacher-epoch equivalent?"]
    assert "Epochs of the suite: single 6." in methods["What was run."]
    assert protocol["missing"][0] == "l0_merge: seeds 9"
    assert [c["second"] for c in protocol["comparisons"]] == ["one_model", "zz" + EVIL]
    assert [c["family"] for c in protocol["comparisons"]] == ["exploration"] * 2
    assert protocol["verdict"].startswith("Test accuracy: l0_merge 93.00 %")
    text = page.read_text()
    code = re.sub(r'(?s)id="data">.*?</script>', "", text)
    assert not re.search(r'(src|href)\s*=|https?://(?!www\.w3\.org/2000/svg")|innerHTML|eval\(', code)
    assert EVIL not in text and text.count("</script>") == 2


def _many(tmp_path, strategies, seeds, epochs):
    """The content of a page of many runs, which nobody wrote to a disk."""
    history, rows = {}, []
    for strategy in strategies:
        for seed in range(seeds):
            name = f"{strategy}{seed}"
            known = {"suite": "s", "strategy": strategy, "seed": seed, "status": "done", "metric": "accuracy", "run": name}
            value = 0.5 + 0.001 * seed + 0.0001 * len(rows) % 7
            known |= {"test_last": value, "test_best": value, "validation_last": value, "scale": 1.0, "backend": "jax"}
            rows.append(dict.fromkeys(store.RUN_COLUMNS) | known | {"protocol": "p", "teacher_epoch_equivalents": 9.0 + seed})
            history[name] = [{"phase": "single", "val_metric": value, "loss": 1 / epoch} for epoch in range(1, epochs + 1)]
    found = claims.claims(rows, {})
    return page_content(results.Results(tmp_path, rows, history), {"p": rows}, {"p": found})


def test_many_runs_make_a_page_of_limited_size(tmp_path):
    content = _many(tmp_path, "abcde", 50, 600)
    curve = next(iter(content["protocols"][0]["curves"].values()))
    assert curve["epoch"][0] == 1 and curve["epoch"][-1] == 600 and len(curve["epoch"]) <= 161
    assert len(curve["val_metric"]) == len(curve["epoch"]) and curve["phases"][0] == [1, "single"]
    assert len(page_of(content)) < 3_000_000


needs_browser = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with chromium.tab() as tab:
        yield tab


@pytest.fixture
def tab(browser):
    """The tab of all tests here, as large as a desk has it."""
    browser.errors.clear()
    browser.size(1300)
    return browser


@needs_browser
def test_the_page_in_a_browser(tab, page):
    tab.open(page)
    assert tab.run("document.title") == f"Results of {page.parent.name}"  # what stands in results is text only
    problems = tab.run("document.getElementById('problems').innerText")
    assert "l0_merge seed 8 failed: ValueError" in problems and "foreign is not a run folder" in problems
    assert "1 runs are unfinished" in problems and "<img" in problems
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("document.getElementById('verdict').textContent").startswith("Test accuracy: l0_merge 93.00 %")
    assert tab.run("document.querySelectorAll('#summary tbody tr').length") == 6
    assert tab.errors == []
    markup = "<b onclick='document.title = 1'>x</b>"  # if any came in, the browser would not run it
    tab.run(f'document.body.insertAdjacentHTML("beforeend", "{markup}"), document.body.lastElementChild.click()')
    assert tab.run("document.title") == f"Results of {page.parent.name}"


@needs_browser
def test_tables_sort_and_filter(tab, page):
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
def test_the_keyboard_reaches_everything(tab, page):
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
def test_a_thousand_runs_are_there_within_two_seconds(tab, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(_many(tmp_path, [f"strategy_{i}" for i in range(20)], 50, 100)))
    tab.ask("Performance.enable", timeDomain="threadTicks")  # of the processor, which other tests may have besides
    tab.open(path)
    spent = {metric["name"]: metric["value"] for metric in tab.ask("Performance.getMetrics")["metrics"]}
    assert 0 < spent["TaskDuration"] < 2
    assert tab.run("document.querySelectorAll('#runs tbody tr').length") == 1000
    assert tab.errors == []


@needs_browser
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut_and_all_can_be_read(tab, page, tmp_path, width):
    shots = []
    for scheme in ("light", "dark"):
        tab.size(width, scheme=scheme)
        tab.open(page)
        assert tab.run("document.documentElement.scrollWidth") <= width
        tab.screenshot(tmp_path / "shot.png")
        shots.append((tmp_path / "shot.png").read_bytes())
        assert struct.unpack(">II", shots[-1][16:24]) == (width, 900) and len(shots[-1]) > 10_000
    assert shots[0] != shots[1]
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    assert width < 1000 or tab.run(wide) == []
    assert width < 1000 or tab.run(f"document.getElementById('fold').click(), {wide}") == []
    ends = "[...document.querySelectorAll('select, button, input, svg text')].map(e => e.getBoundingClientRect())"
    inside = f"{ends}.filter(r => r.width && (r.right > {width} || r.left < 0)).length"
    assert width > 1000 or tab.run(f"[...document.querySelectorAll('.scroll')].forEach(e => e.remove()), {inside}") == 0
    letters = "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    assert tab.run(letters) >= 12
    assert tab.run("document.getElementById('protocol').selectedOptions[0].textContent === current.text")
    assert tab.errors == []


@needs_browser
def test_the_best_row_is_marked_and_what_never_varies_is_folded_away(tab, page):
    tab.open(page)
    best = "[...document.querySelectorAll('#summary tr.best')].map(r => r.children[0].textContent)"
    assert tab.run(best) == ["l0_merge"] * 2
    heads = "[...document.querySelectorAll('#summary th')].map(th => th.textContent)"
    note = tab.run("document.getElementById('summary-note').textContent")
    assert "parameters 10" in note and "parameters" not in tab.run(heads) and "mean" in tab.run(heads)
    tab.run("document.getElementById('fold').click()")
    assert "parameters" in tab.run(heads) and "MACs" in tab.run(heads)
    boxes = "document.querySelectorAll('#boxplot rect').length + ' ' + document.querySelectorAll('#boxplot circle').length"
    assert tab.run(boxes) == "3 21"


@needs_browser
def test_tables_leave_as_latex_and_as_csv(tab, page, tmp_path):
    tab.open(page)
    tab.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    latex = tab.run("latexOf(shownTables.summary)")
    assert "\\toprule" in latex and "\\textbf{l0\\_merge} & \\textbf{last}" in latex and "<script" not in latex
    tab.run("document.getElementById('runs-csv').click()")
    until = time.monotonic() + 20
    while not (found := list(tmp_path.glob("*.csv"))) and time.monotonic() < until:
        time.sleep(0.02)
    with found[0].open(newline="") as file:
        head, *rows = csv.reader(file)
    assert len(rows) == 23 and rows[-1][head.index("strategy")] == "zz" + EVIL
    assert {row[head.index("status")] for row in rows} == {"done", "failed", "unfinished"}
    assert tab.run("csvOf({raw: [['=1+1', '-3', -3, 'a\"b']]})") == "'=1+1,-3,-3,\"a\"\"b\"\r\n"


@needs_browser
def test_a_link_restores_the_view_and_two_runs_are_compared_by_keyboard(tab, page):
    tab.open(page)
    tab.run("document.querySelector('#runs tbody button').focus()")
    tab.press("Enter")
    tab.run("document.getElementById('as-first').focus()")
    tab.press("Enter")
    tab.run("const s = document.getElementById('second'); s.value = [...s.options].at(-1).value; s.onchange()")
    tab.run("const c = document.getElementById('curve'); c.value = 'loss'; c.onchange()")
    tab.run("document.querySelector('#legend input').click()")
    tab.run("[...document.querySelectorAll('#summary th button')].find(b => b.textContent === 'mean').click()")
    view = """[...document.querySelectorAll('select')].map(s => s.value).join() + [...hidden] +
        document.getElementById('summary').textContent + document.getElementById('pair').textContent"""
    before, address = tab.run(view), tab.run("location.toString()")
    pair = "[...document.querySelectorAll('#pair tr')].map(r => r.innerText)"
    assert [line.split("\t")[0] for line in tab.run(pair)[1:4]] == ["Configuration: what differs (2)", "strategy", "seed"]
    assert "l0_merge" in before and "curve=loss" in address
    tab.open(address)
    assert tab.run(view) == before
    tab.open(address.partition("#")[0] + "#protocol=no&curve=no&sort=x:y&sort=runs:up:no&first=no&hide=no&theme=no")
    assert tab.run("document.querySelectorAll('#runs tbody tr').length") == 23 and tab.errors == []


@needs_browser
def test_colours_follow_the_system_and_the_button(tab, page):
    tab.open(page)
    back = "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
        tab.size(1300, scheme=scheme)
        assert tab.run(back) == colour
    tab.run("document.getElementById('theme').click()")
    assert tab.run(back) == "rgb(255, 255, 255)"
