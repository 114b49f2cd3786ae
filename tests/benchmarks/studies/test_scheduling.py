"""Many dummy runs through the real executor, some of which fail or die."""

import re

from benchmarks.studies import scheduling


def test_all_dummy_runs_end_as_they_should(capsys):
    assert scheduling.main(["--runs", "20", "--jobs", "2", "--seconds", "0.02"]) == 0
    assert re.match(r"20 runs, 2 at a time: 18 done, 2 failed; [\d.]+ s, overhead [\d.]+%\n$", capsys.readouterr().out)
