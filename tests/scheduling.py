"""How tests are shared out among processes: by units that share what they build, the longest first."""

import functools
import re
from pathlib import Path

# The tests of files of one name read what is built once in a process: the networks of `tests.models.ZOO` and what the verbs
# make of them, those of `tests.kmerge.rules.attention_cases`, the cache of the real data sets, the syntax trees of all code.
SHARED = {
    "tests/kmerge/matching/test_alignment.py": "zoo",
    "tests/baselines/fusion/test_graph_matching.py": "zoo",
    "tests/baselines/fusion/test_transport.py": "zoo",
    "tests/kmerge/surgery/test_verbs.py": "zoo",
    "tests/kmerge/merging/test_merging.py": "zoo",
    "tests/kmerge/merging/test_widths.py": "zoo",
    "tests/kmerge/pruning/test_importance.py": "zoo",
    "tests/kmerge/pruning/test_selection.py": "zoo",
    "tests/kmerge/spaces/test_channels.py": "zoo",
    "tests/kmerge/drawing/test_plotting.py": "zoo",
    "tests/kmerge/rules/test_attention.py": "attention",
    "tests/kmerge/rules/test_heads.py": "attention",
    "tests/benchmarks/data/test_datasets.py": "images",
    "tests/benchmarks/suites/test_suite_teachers.py": "images",
    "tests/test_layout.py": "sources",
    "tests/test_house.py": "sources",
    "tests/test_packaging.py": "sources",
    "tests/benchmarks/test_checkout.py": "sources",
    "tests/benchmarks/studies/test_structure.py": "sources",
}

# The units that take longest, in falling order.
LONGEST = [
    "zoo",
    "tests/benchmarks/strategies/test_contract.py",
    "tests/kmerge/rules/test_operations.py",
    "tests/kmerge/rules/test_recurrent.py",
    "attention",
    "tests/kmerge/training/test_fitting.py",
    "tests/kmerge/rules/test_places.py",
    "tests/kmerge/cases/test_cases.py",
    "tests/kmerge/rules/test_reductions.py",
    "tests/benchmarks/studies/test_zoo.py",
    "tests/kmerge/rules/test_normalization.py",
    "tests/benchmarks/test_run.py",
    "tests/kmerge/gates/test_pressure.py",
    "tests/benchmarks/runs/test_ray.py",
    "tests/kmerge/sizing/test_sizer.py",
    "images",
    "tests/benchmarks/runs/test_devices.py",
    "tests/test_docs.py",
    "tests/kmerge/gates/test_application.py",
    "tests/kmerge/training/test_fit_many.py",
    "tests/benchmarks/runs/test_together.py",
    "tests/benchmarks/runs/test_checkpoints.py",
    "tests/kmerge/rules/test_opaque.py",
    "tests/benchmarks/runs/test_preloading.py",
    "tests/kmerge/spaces/test_random_graphs.py",
    "tests/kmerge/spaces/test_wild_graphs.py",
    "tests/benchmarks/runs/test_executors.py",
    "tests/kmerge/surgery/test_export.py",
    "tests/kmerge/sizing/test_options.py",
    "tests/benchmarks/runs/test_reliability.py",
    "tests/baselines/distillation/test_distillation.py",
    "tests/baselines/pruning/test_weight_pruning.py",
    "tests/benchmarks/strategies/test_gate_ablations.py",
    "tests/test_readme.py",
    "tests/baselines/merging/test_aligned_merging.py",
    "tests/kmerge/training/test_recalibration.py",
    "tests/kmerge/training/test_limits.py",
    "tests/test_guide_on_strategies.py",
    "tests/benchmarks/strategies/test_strategies.py",
    "tests/baselines/fusion/test_model_fusion.py",
    "tests/benchmarks/suites/test_suites.py",
    "tests/benchmarks/data/test_photographs.py",
    "tests/benchmarks/test_tune.py",
    "tests/baselines/pruning/test_channel_pruning.py",
    "tests/benchmarks/studies/test_sizing_figures.py",
]


def unit_of(nodeid: str) -> str:
    """The unit of a test, which one process runs as a whole: its file, or all files that share networks with it."""
    file = nodeid.partition("::")[0]
    return SHARED.get(file, file)


def place_of(nodeid: str) -> int:
    """Where the unit of a test stands in the order of the session."""
    unit = unit_of(nodeid)
    return LONGEST.index(unit) if unit in LONGEST else len(LONGEST)


@functools.cache
def may_be_on_both(path: Path) -> bool:
    """Whether tests of a file may be marked both_backends: by the file, or by `tests.models.every`."""
    return re.search(r"\bboth_backends\b|\bevery\(", path.read_text("utf-8")) is not None


def by_unit(config, log):
    """A scheduler of pytest-xdist for whole units, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)
