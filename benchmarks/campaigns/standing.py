"""How far a campaign is, from the run folders alone: rows with n, what is left, and which launches are given up and why."""

from collections.abc import Mapping, Sequence

from benchmarks.campaigns.plan import Campaign, Launch
from benchmarks.command_line import printable
from benchmarks.records.results import Row, fault_of
from benchmarks.records.store import RunFolder
from benchmarks.reports.page import ranges
from benchmarks.reports.statistics import summarize
from benchmarks.reports.summaries import grouped, mean, unit, writer
from benchmarks.runs.estimating import Estimate
from benchmarks.runs.progress import duration

_HEAD = ("launch", "strategy", "metric", "n", "test, last epoch", "std", "validation", "seeds that are left")


def given_up(launch: Launch) -> str:
    """Why the rest of a launch is not worth its time, by its rule of futility; "" if it is, or if that cannot be told yet."""
    rule = launch.futility
    if rule is None:
        return ""
    first = launch.seeds[: rule.seeds]
    rows = {name: {row["seed"]: row for row in group} for name, group in grouped(_done(launch), "strategy").items()}
    if len(first) < rule.seeds or not all(seed in rows.get(n, {}) for n in (rule.strategy, *rule.rivals) for seed in first):
        return ""
    sign = 1 if launch.suite.higher_is_better else -1

    def validated(name: str) -> float:
        return sign * mean(rows[name][seed]["validation_last"] for seed in first)

    rival = max(rule.rivals, key=validated)
    gains = [sign * (rows[rule.strategy][seed]["test_last"] - rows[rival][seed]["test_last"]) for seed in first]
    if not all(gain < rule.below for gain in gains):
        return ""
    write = writer(launch.suite.metric)
    found = ", ".join(map(write, gains))
    return (
        f"given up: {rule.strategy} against {rival}, the better rival by validation, on seeds {ranges(set(first))}: {found}; "
        f"each is below {write(rule.below)}, as the campaign declares"
    )


def waiting(launch: Launch) -> list[RunFolder]:
    """The runs of a launch that are to be done."""
    return [] if given_up(launch) else [run for run in launch.runs if run.status != "done"]


def _epochs_left(launch: Launch) -> int:
    """What is left of a launch, in epochs of one network, those included that were done before a stop."""
    scale = launch.runs[0].configuration["scale"]
    return Estimate(waiting(launch), launch.suite.budget(scale), jobs=1).epochs_left()


def standing(campaign: Campaign, notes: Mapping[str, Sequence[str]], rate: float | None) -> str:
    """The page of a campaign.

    Args:
        campaign: what is to be done.
        notes: sentences about launches, by name.
        rate: epochs of one network a second, as they were measured last; None if they were not.
    """
    cells = [_HEAD]
    for launch in campaign.launches:
        cells += _rows(launch)
    lines = [f"# {campaign.name}: {campaign.description}", ""]
    lines += [f"| {' | '.join(row)} |" for row in cells[:1]] + ["|---" * len(_HEAD) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in cells[1:]] + [""]
    for launch in campaign.launches:
        said = [*notes.get(launch.name, ()), *filter(None, [_failure(launch), given_up(launch)])]
        lines += [f"- {launch.name}: {'; '.join(said)}."] * bool(said)
    epochs = sum(map(_epochs_left, campaign.launches))
    at_the_rate = f", {duration(epochs / rate)} at {rate:.3g} a second" if rate else ""
    lines.append(f"- Left: at most {epochs:,} epochs of one network{at_the_rate}." if epochs else "- Nothing is left.")
    return "\n".join(lines)


def _failure(launch: Launch) -> str:
    """What went wrong first, if anything."""
    failed = [run for run in launch.runs if run.status == "failed"]
    return f"failed: {len(failed)} runs, as {failed[0].name}: {printable(str(failed[0].failure['error']))}" if failed else ""


def _rows(launch: Launch) -> list[tuple[str, ...]]:
    """Of each strategy of a launch: how many seeds are done, their mean, and which are left."""
    rows, write = grouped(_done(launch), "strategy"), writer(launch.suite.metric)
    wanted: dict[str, set[int]] = {}
    for run in launch.runs:
        wanted.setdefault(run.configuration["strategy"], set()).add(run.configuration["seed"])
    metric, result = launch.suite.metric + unit(launch.suite.metric), []
    for strategy, seeds in wanted.items():
        found = rows.get(strategy, [])
        numbers = ("", "", "")
        if found:
            test = summarize([row["test_last"] for row in found])
            validation = mean(row["validation_last"] for row in found)
            std = write(test.std) if test.n > 1 else ""
            numbers = (write(test.mean), std, write(validation))
        left = ranges(seeds - {row["seed"] for row in found})
        result.append((launch.name, strategy, metric, str(len(found)), *numbers, left))
    return result


def _done(launch: Launch) -> list[Row]:
    """The rows of a launch that are done and can be trusted."""
    return [row for run in launch.runs if (row := run.row())["status"] == "done" and fault_of(row) is None]
