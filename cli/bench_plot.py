"""A report as a picture: SVG, written by hand, that any browser shows.

Latency as percentile curves, of writes and of reads; throughput over the number of threads; fail-over as a
timeline of acknowledged writes around each kill. What a report does not have is not drawn.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from .bench_report import head

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 60, 60
LINE = 18
"""Height of a line of text."""
KILL = 22
"""Height of a kill's line."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Told apart by colour-blind eyes, too; when they are used up, dashes begin."""
DASHES = ("none", "7 3", "2 3")
PERCENTS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}.grid{stroke:#ddd}"
    ".curve{fill:none;stroke-width:2}.pause{fill:#d55e00;opacity:.15}.kill{stroke:#d55e00;stroke-width:2}"
)

Scale = Callable[[float], float]
Result = Mapping[str, Any]


class Panel:
    """One diagram: axes that are drawn at once, and what is put on them. Coordinates are its own."""

    def __init__(self, title: str, across: Scale, up: Scale, height: float = HEIGHT) -> None:
        """Make a diagram of so many pixels between its axes; the scales map values to 0 … 1."""
        self.height = height
        self._across, self._up = across, up
        self._curves = 0
        self.parts = [_text(LEFT, -20, title, "title")]

    def x(self, value: float) -> float:
        return LEFT + self._across(value) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return (1 - self._up(value)) * self.height

    def ticks_across(self, values: Iterable[float], what: str) -> None:
        for value in values:
            self.parts.append(_line(self.x(value), 0, self.x(value), self.height, "grid"))
            self.parts.append(_text(self.x(value), self.height + 16, f"{value:g}", anchor="middle"))
        self.parts.append(_text((LEFT + WIDTH - RIGHT) / 2, self.height + 34, what, anchor="middle"))

    def ticks_up(self, values: Iterable[float], label: Callable[[float], str]) -> None:
        for value in values:
            self.parts.append(_line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), "grid"))
            self.parts.append(_text(LEFT - 8, self.y(value) + 4, label(value), anchor="end"))

    def curve(self, name: str, points: Sequence[tuple[float, float]], dots: bool = False) -> None:
        """Draw a curve and its line of the legend, below that of the one before."""
        round_, number = divmod(self._curves, len(COLOURS))
        look = f'class="curve" stroke="{COLOURS[number]}" stroke-dasharray="{DASHES[round_ % len(DASHES)]}"'
        placed = [(self.x(x), self.y(y)) for x, y in points]
        self.parts.append(f'<polyline {look} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}"/>')
        if dots:
            self.parts += (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[number]}"/>' for x, y in placed)
        height = 6 + LINE * self._curves
        self.parts.append(f'<path {look} d="M{WIDTH - RIGHT + 14},{height}h28"/>')
        self.note(name, height, 48)
        self._curves += 1

    def note(self, text: str, height: float, indent: float = 14) -> None:
        """Write something to the right of the diagram."""
        self.parts.append(_text(WIDTH - RIGHT + indent, height + 4, text))


def svg(report: Mapping[str, Any]) -> str:
    """Return the picture of a report."""
    lines = ["zrep bench", *head(report), report["taken"]]
    parts = [_text(LEFT, 30 + LINE * number, line, "" if number else "title") for number, line in enumerate(lines)]
    height = 30 + LINE * len(lines)
    for panel in _panels(report["results"]):
        parts += [f'<g transform="translate(0,{height + TOP})">', *panel.parts, "</g>"]
        height += TOP + round(panel.height) + BOTTOM
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}">\n<title>zrep bench</title>\n<style>{STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _panels(results: Sequence[Result]) -> Iterator[Panel]:
    reads: list[Result] = []
    writes: list[Result] = []
    for result in results:
        (reads if result.get("kind", "").startswith(("read", "mixed")) else writes).append(result)
    yield from _latencies("Latency of a commit", writes)
    yield from _latencies("Latency of reads: an operation is 100 gets; of mixed, one get or one put", reads)
    yield from _throughput(results)
    yield from _timelines(results)


def _latencies(title: str, results: Sequence[Result]) -> Iterator[Panel]:
    """Latency over the percentile, both axes so that the tail has room."""
    curves = {result["name"]: _supported(result) for result in results if result.get("curve")}
    if not curves:
        return
    times = [ns / 1e6 for curve in curves.values() for _, ns in curve]
    ticks = _steps(min(times), max(times))
    most = max(curve[-1][0] for curve in curves.values())
    last = next((percent for percent in PERCENTS[1:] if percent >= most), PERCENTS[-1])
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    panel = Panel(title, lambda p: _nines(p) / _nines(last), lambda ms: (math.log10(ms) - low) / (high - low))
    panel.ticks_across((percent for percent in PERCENTS if percent <= last), "percentile of the operations")
    panel.ticks_up(ticks, lambda ms: f"{ms * 1000:g} µs" if ms < 1 else f"{ms:g} ms")
    # The legend has the order in which the curves arrive at it.
    for name, curve in sorted(curves.items(), key=lambda each: -each[1][-1][1]):
        panel.curve(name, [(percent, ns / 1e6) for percent, ns in curve])
    yield panel


def _supported(result: Result) -> list[tuple[float, float]]:
    """Return the percentiles of which there were samples: the worst of a hundred is the 99th, and no more."""
    most = min(100 * (1 - 1 / result.get("samples", result["operations"])), PERCENTS[-1])
    curve = [(percent, max(ns, 1)) for percent, ns in result["curve"]]
    return [*(point for point in curve if point[0] < most), (most, next(ns for p, ns in curve if p >= most))]


def _throughput(results: Sequence[Result]) -> Iterator[Panel]:
    """Puts a second over the number of threads, one put a transaction."""
    curves = {
        name: sorted((result["threads"], result["per_second"]) for result in results if result.get("kind") == kind)
        for kind, name in (("put-1", "a transaction each"), ("env-put-1", "env.put"), ("remote-1", "remote clients"))
    }
    points = [point for curve in curves.values() for point in curve]
    counts = sorted({threads for threads, _ in points})
    if len(counts) < 2:
        return
    step = _step(max(rate for _, rate in points) / 4)
    ticks = [step * number for number in range(math.ceil(max(rate for _, rate in points) / step) + 1)]
    first, last = math.log2(counts[0]), math.log2(counts[-1])
    panel = Panel(
        "Puts a second", lambda count: (math.log2(count) - first) / (last - first), lambda rate: rate / ticks[-1]
    )
    panel.ticks_across(counts, "threads that put, one put a transaction")
    panel.ticks_up(ticks, lambda rate: f"{rate / 1000:g} k" if rate >= 1000 else f"{rate:g}")
    for name, curve in sorted(curves.items(), key=lambda each: -each[1][-1][1] if each[1] else 0):
        if curve:
            panel.curve(name, curve, dots=True)
    yield panel


def _timelines(results: Sequence[Result]) -> Iterator[Panel]:
    """A line a kill: a mark for each acknowledged write, and how long it took to the first of the next master.

    A mark just before that is a write that was under way: the next master found it in its log.
    """
    result = next((result for result in results if result.get("timelines_ms")), None)
    if result is None:
        return
    timelines, pauses = result["timelines_ms"], result["pause_ms"]
    first = min(at for timeline in timelines for at in (0.0, *timeline))
    last = max(at for timeline in timelines for at in (1.0, *timeline))
    count = len(timelines)
    panel = Panel(
        "Acknowledged writes around kill -9 of the master",
        lambda at: (at - first) / (last - first),
        lambda number: 1 - (number + 0.5) / count,
        max(KILL * count, 4 * KILL),
    )
    step = _step((last - first) / 12)
    across = (step * number for number in range(math.ceil(first / step), math.floor(last / step) + 1))
    panel.ticks_across(across, "milliseconds after the kill")
    panel.ticks_up(range(count), lambda number: f"kill {number + 1:g}")
    for number, (timeline, pause) in enumerate(zip(timelines, pauses, strict=True)):
        y = panel.y(number)
        width = panel.x(pause) - panel.x(0)
        panel.parts.append(
            f'<rect class="pause" x="{panel.x(0):.1f}" y="{y - 8:.1f}" width="{width:.1f}" height="16"/>'
        )
        marks = " ".join(f"M{panel.x(at):.1f},{y - 5:.1f}v10" for at in timeline)
        panel.parts.append(f'<path d="{marks}" stroke="{COLOURS[0]}"/>')
        panel.note(f"{pause:.1f} ms to a new write", y)
    panel.parts.append(_line(panel.x(0), 0, panel.x(0), panel.height, "kill"))
    yield panel


def _nines(percent: float) -> float:
    """Count the nines of a percentile: each takes the same room."""
    return -math.log10(1 - percent / 100)


def _steps(least: float, most: float) -> list[float]:
    """Return the ticks of a logarithmic axis around all values, two at least: 1, 2, 5 over little, else tens."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    digits = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [digit * 10.0**power for power in range(low - 1, high + 2) for digit in digits]
    below = max(tick for tick in ticks if tick <= least)
    above = min(tick for tick in ticks if tick >= most and tick > below)
    return [tick for tick in ticks if below <= tick <= above]


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class={quoteattr(kind)} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
