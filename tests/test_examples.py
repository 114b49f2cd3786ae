"""Every public name has an example in its docstring, which runs and gives what it says.

Each starts from the names of the page docs/api/index.md: two small networks, examples and classes.
"""

import doctest
import inspect
import warnings

import pytest

import kmerge
from benchmarks.checkout import ROOT
from tests.documents import blocks
from tests.programs import without_programs

(SETTING,) = blocks(ROOT / "docs" / "api" / "index.md", "python")
# All but constants, which are described where they are used.
NAMES = [name for name in kmerge.__all__ if callable(thing := getattr(kmerge, name)) or inspect.ismodule(thing)]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, said = {}, []
    SETTING.run(names)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(kmerge, name)), names, name, None, 0)
    assert example.examples, "it has none"
    with without_programs(), warnings.catch_warnings():
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)
