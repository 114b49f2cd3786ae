"""All launches for a machine that is lent for minutes, in order of worth, with a deadline.

    python -m benchmarks.campaign gpu --minutes 13 --cache-dir ../cache --out ../results
    python -m benchmarks.campaign mine.toml --minutes 13 --dry-run

A campaign is a TOML file of launches of `benchmarks.run`; see `benchmarks.campaigns.plan`. It is checked whole before anything
runs, and asks nothing. Before the minutes are over, the workers are told to end: they finish the epoch that they are at and
leave a checkpoint. What is done, with n, and what is left stand in OUT/campaign_NAME.md, written after every launch. The same
command goes on from the folder of results, on this machine or on the next.

Epochs a second, of all workers together, are told after the first minute of each launch, and at its end.

Exit status: 0 all is done or given up by a rule that the file declares, 1 the time sufficed but not all could be done,
2 wrong usage, 3 data of your own is missing, 130 time is up, or interrupted: the same command goes on.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import run
from benchmarks.campaigns.plan import CAMPAIGNS, Campaign, Launch, load_campaign
from benchmarks.campaigns.standing import given_up, standing, waiting
from benchmarks.command_line import (
    DATA_MISSING,
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    command_parser,
    ended,
    positive_number,
)
from benchmarks.files import write_atomically
from benchmarks.reports.page import ranges
from benchmarks.runs.executors import GRACE_SECONDS, Event
from benchmarks.runs.progress import duration
from benchmarks.suites.values import SuiteError

# What ending takes: workers may finish an epoch, and tables are written. Of a short time it is no more than a third.
_ENDING_SECONDS = 2 * GRACE_SECONDS
_FIRST_MINUTE = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command line; None for the process' own.

    Returns:
        The exit status; see the module.
    """
    began = time.monotonic()
    parser = _parser()
    options = parser.parse_args(arguments)
    places = ["--out", str(options.out), "--cache-dir", str(options.cache_dir)]
    places += [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
    try:
        campaign = load_campaign(options.campaign, places)
    except SuiteError as error:
        return ended(parser, error)
    if options.dry_run:
        print(standing(campaign, {}, None))
        return DONE
    for name, value in campaign.environment.items():
        os.environ.setdefault(name, value)
    seconds = 60 * options.minutes
    return _Machine(campaign, began + seconds - min(_ENDING_SECONDS, seconds / 3), options.out).work()


def _parser() -> argparse.ArgumentParser:
    epilog = "Exit status: 0 all done, 1 not all could be done, 2 wrong usage, 3 data of your own is missing, 130 time is up."
    parser = command_parser(__file__, __doc__, "--data-dir", "--cache-dir", "--out", epilog=epilog)
    known = f"one that comes with the benchmark ({', '.join(CAMPAIGNS)}), or the file of one"
    parser.add_argument("campaign", metavar="CAMPAIGN", help=known)
    parser.add_argument(
        "--minutes", metavar="M", type=positive_number, required=True, help="that the machine is there, the end included"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell how far the campaign is; run nothing")
    return parser


class Rate:
    """Epochs of one network a second, of all workers together, from the first epoch that ended on.

    Args:
        tell: is given a sentence once the first minute is over.
        clock: tells seconds.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._ended: dict[Path, int] = {}
        self._total = self._first = 0
        self._began = self._last = 0.0
        self._is_told = False

    def hear(self, event: Event) -> None:
        """Count the epochs that an event reports."""
        if event.kind != "epoch":
            return
        ended, before = event.detail["ended"], self._ended.get(event.run.path, 0)
        self._total += ended - before if ended >= before else ended  # in a worker that begins again, so does the count
        self._ended[event.run.path] = ended
        self._last = self._clock()
        if not self._began:
            self._began, self._first = self._last, self._total
        if self._last - self._began >= _FIRST_MINUTE and not self._is_told:
            self._is_told = True
            self._tell(f"{self.value:.3g} epochs a second in the first minute")

    @property
    def value(self) -> float | None:
        """The rate so far; None before a second epoch."""
        count, seconds = self._total - self._first, self._last - self._began
        return count / seconds if count and seconds else None

    def __str__(self) -> str:
        return f"{self.value:.3g} epochs a second in all ({self._total - self._first} in {self._last - self._began:.0f} s)"


class _Machine:
    """Does what it can of a campaign until a moment.

    Args:
        campaign: what is to be done.
        stop_at: when workers are told to end, by `time.monotonic`.
        out: folder of results.
    """

    def __init__(self, campaign: Campaign, stop_at: float, out: Path) -> None:
        self._campaign, self._stop_at, self._out = campaign, stop_at, out
        self._notes: dict[str, list[str]] = {}
        self._rate: float | None = None

    def work(self) -> int:
        """Do it; returns the exit status."""
        heard = [signal.signal(name, signal.default_int_handler) for name in (signal.SIGTERM, signal.SIGALRM)]
        status = INTERRUPTED
        try:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, self._left()))
            finished = [self._finish(launch) for launch in self._campaign.launches]
            status = DONE if all(finished) else FAILED
        except KeyboardInterrupt:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for name, handler in zip((signal.SIGTERM, signal.SIGALRM), heard, strict=True):
                signal.signal(name, handler)
        print(f"\n{self._write()}")
        if status == INTERRUPTED:
            print("Time is up." if self._left() <= 0 else "Interrupted.", "The same command goes on.", file=sys.stderr)
        return status

    def _left(self) -> float:
        return self._stop_at - time.monotonic()

    def _finish(self, launch: Launch) -> bool:
        """Do a launch turn by turn; whether it is done or given up.

        Raises:
            KeyboardInterrupt: if somebody interrupts, or the time is up.
        """
        for arguments, runs in launch.turns():
            if given_up(launch):
                break
            if all(each.status == "done" for each in runs):
                continue
            if self._left() <= 0:
                raise KeyboardInterrupt
            seeds = ranges({each.configuration["seed"] for each in runs})
            print(f"== {launch.name}, seeds {seeds}; {duration(self._left())} left", flush=True)
            self._launch(launch, arguments)
        return not waiting(launch)

    def _launch(self, launch: Launch, arguments: Sequence[str]) -> None:
        rate = Rate(lambda text: self._note(launch, text))
        try:
            status = run.main(arguments, rate.hear)
        except Exception:
            traceback.print_exc()
            status = FAILED
        if rate.value:
            self._rate = rate.value
            self._note(launch, str(rate))
        if status in (USAGE, DATA_MISSING):
            self._note(launch, f"the launch ended with status {status}, and its reason stands above")
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        self._write()

    def _note(self, launch: Launch, text: str) -> None:
        print(f"== {launch.name}: {text}", flush=True)
        self._notes.setdefault(launch.name, []).append(text)

    def _write(self) -> str:
        """Write down how far the campaign is; returns that."""
        text = standing(self._campaign, self._notes, self._rate)
        self._out.mkdir(parents=True, exist_ok=True)
        write_atomically(self._out / f"campaign_{self._campaign.name}.md", text + "\n")
        return text


if __name__ == "__main__":
    sys.exit(main())
