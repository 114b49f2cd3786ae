"""How figures look: one style file, and a look that belongs to a strategy in whatever figure it stands.

`reports.mplstyle` is a style file of Matplotlib; what functions marked `in_style` draw and save follows it.
"""

import io
import zlib
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.reports.summaries import grouped
from benchmarks.strategies.labels import label_of
from benchmarks.strategies.registry import STRATEGIES

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "reports.mplstyle"
# Okabe and Ito's colours, as in the style file.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
# What several strategies share.
SHARED = "#b0b0b0"
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "osD^vPX*<>phd8H"
# Those that stand side by side most often: solid lines each in a colour of its own, then relatives of them.
_FIRST = (
    "l0_merge_fade", "magnitude_merge", "restart", "ensemble", "best_of_three", "l0_merge", "one_model",
    "one_model_equal_compute", "l0_merge_paper", "magnitude_merge_four", "restart_whole", "magnitude_merge_before_annealing",
    "l0_merge_four_hierarchical", "l0_merge_before_annealing", "one_big_model", "one_model_all_data",
)  # fmt: skip


class Look(NamedTuple):
    """Of one strategy: no two of the registry have colour and marker in common, nor colour and dashes within a file."""

    colour: str
    dash: Any
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Options of Matplotlib for its lines."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def point(self) -> dict[str, Any]:
        """Options of Matplotlib for its points."""
        return {"color": self.colour, "marker": self.marker}


def look_of(strategy: str) -> Look:
    """The look of a strategy; of one that is not registered, by its name, and so not always its own."""
    number = _numbers().get(strategy)
    return _look(zlib.crc32(strategy.encode("utf-8", "replace")) if number is None else number)


def _look(number: int) -> Look:
    """Colours change first: what is listed side by side differs in colour."""
    block = number // len(COLOURS)
    return Look(COLOURS[number % len(COLOURS)], _DASHES[block % len(_DASHES)], _MARKERS[block % len(_MARKERS)])


@cache
def _numbers() -> dict[str, int]:
    """A number for each strategy; the strategies of a file begin with a new round of colours, so that one more of another
    file does not change theirs."""
    numbers = {name: i for i, name in enumerate(_FIRST)}
    others = [{"file": STRATEGIES.source(name)[0], "name": name} for name in STRATEGIES if name not in _FIRST]
    start = len(_FIRST)
    for group in grouped(others, "file").values():
        numbers |= {row["name"]: start + i for i, row in enumerate(group)}
        start += -(-len(group) // len(COLOURS)) * len(COLOURS)
    return numbers


def point_style(index: int) -> dict[str, str]:
    """Colour and marker of the points of a suite, by its number."""
    return _look(index).point


def name_of(strategy: str) -> str:
    """The label of a strategy as figures show it: dollar signs would begin a formula."""
    return plain(label_of(strategy))


def plain(text: str) -> str:
    """A text as figures show it."""
    return text.replace("$", r"\$")


def in_style(draw: Callable) -> Callable:
    """A function that draws and saves as the style file says."""

    @wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Any:
        import matplotlib  # here, because tables do without it

        with matplotlib.rc_context(fname=STYLE):
            return draw(*arguments, **options)

    return drawn


def logarithmic(axis: "Axis") -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def new_figure(**options: Any) -> "Figure":
    """An empty figure that needs no display; options are those of Matplotlib's `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def files_of(figure: "Figure", dpi: int = 150) -> dict[str, bytes]:
    """The contents of a figure's files by their endings, "png" and "pdf". The same drawing gives the same files.

    Args:
        figure: the figure.
        dpi: dots an inch of the PNG.
    """
    files = {}
    for kind in ("png", "pdf"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=dpi, metadata={"CreationDate": None} if kind == "pdf" else None)
        files[kind] = content.getvalue()
        figure.set_layout_engine("none")  # all lies where the first of them put it, which takes the most time
    return files
