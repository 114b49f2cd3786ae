"""What a suite's file says, checked before anything is planned: each value by its kind, then what one key says of another."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from baselines.protocol.metrics import METRICS
from baselines.protocol.task import Budget, EarlySettings
from benchmarks.command_line import MOST_SEEDS
from benchmarks.data import datasets
from benchmarks.data.own_data import is_own
from benchmarks.data.sources import CLASS_NAMES
from benchmarks.suites.schema import NETWORKS, NETWORKS_OF_PIXELS, PHASES, suite_table
from benchmarks.suites.values import Number, OneOf, Place

_FOR_IMAGES = ("standardize_by", "folds")


def check_content(where: str, content: dict[str, Any]) -> None:
    """Check all of a file.

    Args:
        where: what errors call it.
        content: what it says.

    Raises:
        SuiteError: if a key is missing or unknown, or a value is wrong.
    """
    place = Place(where)
    suite_table(content).check(place, content)
    _check_seeds(place / "seeds", content["seeds"])
    _check_comparisons(place / "comparisons" / "primary", content)
    _check_images(place, content)
    _check_networks(place, content)
    if "teacher" in content:
        _check_phase(place / "teacher" / "phase", content["teacher"]["epochs"], content["teacher"]["phase"])
    if "parents" in content:
        _check_parents(place / "parents", content)
    if "phases" not in content:
        return
    for phase in PHASES:
        _check_phase(place / "phases" / phase, content["epochs"][phase], content["phases"][phase])
    _check_early(place / "epochs" / "early", content["epochs"])
    OneOf(content["gates"]["controls"]).check(place / "gates" / "control", content["gates"]["control"])


def early_epochs(epochs: Mapping[str, Any]) -> dict[str, int]:
    """The epochs before the merge, where it comes before annealing: of a teacher and of the gates.

    Args:
        epochs: the table of a suite; where its table `early` says nothing, the shares of `EarlySettings` count.
    """
    shares = asdict(EarlySettings()).items()
    return {phase: max(1, round(share * merging_epochs(epochs))) for phase, share in shares} | epochs.get("early", {})


def merging_epochs(epochs: Mapping[str, Any]) -> int:
    """The epochs of merging in the table of a suite."""
    return Budget(**{phase: epochs[phase] for phase in PHASES}).merging


def _check_seeds(place: Place, seeds: list[int]) -> None:
    first, last = seeds
    if not first <= last < first + MOST_SEEDS:
        place.refuse(f"[first, last], whole numbers that rise, of {MOST_SEEDS} seeds at most", seeds)


def _check_early(place: Place, epochs: Mapping[str, Any]) -> None:
    merging, early = merging_epochs(epochs), early_epochs(epochs)
    if 2 * early["teacher"] + early["gates"] >= merging:
        do = "They are two teachers' and the gates'; the rest is annealed."
        place.refuse(f"fewer than the {merging} epochs of merging", early, do)


def _check_images(place: Place, content: Mapping[str, Any]) -> None:
    dataset, augmentation, metric = content["dataset"], content["augmentation"], content["metric"]
    of_pixels = [name for name, measure in METRICS.items() if measure.of_pixels]
    if dataset in CLASS_NAMES and metric not in of_pixels:
        (place / "metric").refuse(f"{' or '.join(of_pixels)} for the pixels of {dataset}", metric)
    if metric in of_pixels and dataset not in CLASS_NAMES:
        (place / "metric").refuse(f"another one for {dataset}", metric, f"Pixels have labels in {', '.join(CLASS_NAMES)}.")
    if is_own(dataset):  # what it is shows when it is loaded
        if found := [key for key in (*_FOR_IMAGES, "parents") if key in content]:
            (place / found[0]).refuse("a data set of the benchmark", dataset, f"Leave out {' and '.join(found)}.")
        return
    is_images, do = dataset in datasets.IMAGES, f"Images are {', '.join(datasets.IMAGES)}."
    if augmentation == "shift_and_flip" and not is_images:
        (place / f"augmentation {augmentation!r}").refuse("a data set of images", dataset, do)
    if not is_images and (found := [key for key in _FOR_IMAGES if key in content]):
        (place / found[0]).refuse("a data set of images", dataset, f"Leave out {' and '.join(found)}.")
    fills = augmentation in ("shift_and_flip", "scale_crop_flip")
    if fills and content.get("standardize_by", "channel") != "channel":
        do = "Augmentation shifts in black pixels, which have no one value if standardized by pixel."
        (place / "standardize_by").refuse(f"channel beside {augmentation}", "pixel", do)
    if isinstance(augmentation, dict):
        _check_crop(place / "augmentation", augmentation)


def _check_networks(place: Place, content: Mapping[str, Any]) -> None:
    of_pixels = METRICS[content["metric"]].of_pixels
    known = [name for name in NETWORKS if (name in NETWORKS_OF_PIXELS) == of_pixels]
    for table, where in ((content, place), (content.get("teacher", {}), place / "teacher")):
        name = table.get("architecture", {}).get("name")
        if name in NETWORKS and name not in known:
            (where / "architecture" / "name").refuse(f"one of {', '.join(known)} for the metric {content['metric']}", name)


def _check_crop(place: Place, crop: Mapping[str, Any]) -> None:
    for key, most in (("area", 1), ("ratio", math.inf)):
        low, high = crop.get(key, (1, 1))
        if not low <= high <= most:
            (place / key).refuse("two shares that rise" if most == 1 else "two ratios that rise", crop[key])


def _check_parents(place: Place, content: Mapping[str, Any]) -> None:
    table, dataset, source = content["parents"], content["dataset"], datasets.IMAGES.get(content["dataset"])
    if source is None or source.crop is not None or source.void is not None:
        place.table.refuse("a data set of images that fit into memory, with one label each", dataset)
    if found := [key for key in ("teacher_data", "teacher") if key in content]:
        place.table.refuse(f"no {found[0]} beside it", content[found[0]], "Leave one out.")
    if table["by"] == "domains":
        if source.domains == 1:
            known = [name for name, images in datasets.IMAGES.items() if images.domains > 1]
            (place / "by domains").refuse("a data set of several domains", dataset, f"Such are {', '.join(known)}.")
        if "overlap" in table:
            (place / "overlap").refuse("none where parents differ by domains", table["overlap"])
        return
    shared, classes = table.get("overlap", 0.0) * source.classes, source.classes
    if shared > classes - 2 or not math.isclose(shared, round(shared)):
        expected = f"a share of the {classes} classes that is a whole number of them, two of them at least not shared"
        (place / "overlap").refuse(expected, table["overlap"])


def _check_comparisons(place: Place, content: Mapping[str, Any]) -> None:
    table = content.get("comparisons", {})
    reference, primary = table.get("reference", *content["strategies"][:1]), table.get("primary", [])
    if found := [name for name in primary if primary.count(name) > 1 or name == reference]:
        place.refuse(f"rivals of {reference}, each once", found[0])


def _check_phase(place: Place, epochs: int, settings: Mapping[str, Any]) -> None:
    within = Number(epochs / 2, above=0, below=epochs, of="epochs")
    for drop in settings["drops"]:
        within.check(place / "drops", drop)
    if settings["drops"] != sorted(settings["drops"]):
        (place / "drops").refuse("epochs that rise", settings["drops"])
    Number(0, least=0, below=epochs, of="a number of epochs").check(place / "warmup", settings.get("warmup", 0))
