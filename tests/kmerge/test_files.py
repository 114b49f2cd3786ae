"""Files are written whole: what fails leaves the old one, and no draft."""

import os

import numpy as np
import pytest

from kmerge.files import write_arrays, write_whole


def test_arrays_are_written_whole_with_the_mode_of_any_file(tmp_path):
    path = tmp_path / "steps"  # no suffix, which NumPy would add
    write_arrays(path, {"a": np.arange(3)})
    write_arrays(path, {"a": np.arange(4)})
    (tmp_path / "other").write_text("")
    with np.load(path) as found:
        np.testing.assert_array_equal(found["a"], np.arange(4))
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["other", "steps"]


def test_what_fails_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("old")

    def save(draft):
        assert draft.suffix == ".md"
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, save)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["page.md"]
