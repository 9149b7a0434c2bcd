"""A report as a picture: SVG, written by hand, that any browser shows.

Latency as percentile curves, throughput over the number of threads, fail-over as a timeline of acknowledged
writes around each kill. What a report does not have is not drawn.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from .bench_report import duration, quantity

WIDTH, HEIGHT = 900, 320
LEFT, RIGHT, TOP, BOTTOM = 90, 200, 50, 45
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
PERCENTS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
STYLE = "text{font:12px sans-serif;fill:#333}.title{font-size:15px}.grid{stroke:#ddd}.curve{fill:none;stroke-width:2}"

Scale = Callable[[float], float]


class Panel:
    """One diagram: axes that are drawn at once, and what is put on them. Coordinates are the picture's."""

    def __init__(self, title: str, row: int, across: Scale, up: Scale) -> None:
        """Make the diagram that is `row`th from above; the scales map values to 0 … 1."""
        self._top = row * HEIGHT + TOP
        self._across, self._up = across, up
        self._legend = 0
        self.parts = [_text(LEFT, self._top - 20, title, "title")]

    def x(self, value: float) -> float:
        return LEFT + self._across(value) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self._top + (1 - self._up(value)) * (HEIGHT - TOP - BOTTOM)

    def ticks_across(self, values: Sequence[float], label: Callable[[float], str]) -> None:
        bottom = self._top + HEIGHT - TOP - BOTTOM
        for value in values:
            self.parts.append(_line(self.x(value), self._top, self.x(value), bottom, "grid"))
            self.parts.append(_text(self.x(value), bottom + 18, label(value), anchor="middle"))

    def ticks_up(self, values: Sequence[float], label: Callable[[float], str]) -> None:
        for value in values:
            self.parts.append(_line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), "grid"))
            self.parts.append(_text(LEFT - 8, self.y(value) + 4, label(value), anchor="end"))

    def curve(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        colour = COLOURS[self._legend % len(COLOURS)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="curve" stroke="{colour}" points="{path}"/>')
        height = self._top + 10 + 18 * self._legend
        self.parts.append(_line(WIDTH - RIGHT + 12, height, WIDTH - RIGHT + 32, height, "curve", colour))
        self.parts.append(_text(WIDTH - RIGHT + 38, height + 4, name))
        self._legend += 1


def svg(report: Mapping[str, Any]) -> str:
    """Return the picture of a report."""
    panels: list[Panel] = []
    for draw in (_latencies, _throughput, _timelines):
        panel = draw(report["results"], len(panels))
        if panel is not None:
            panels.append(panel)
    height = len(panels) * HEIGHT
    caption = f"{report['sites']} sites, durability {report['durability']}, {report['taken']}"
    body = "\n".join(part for panel in panels for part in panel.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height + 30}" '
        f'viewBox="0 0 {WIDTH} {height + 30}">\n<title>zrep bench</title>\n<style>{STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n{_text(LEFT, height + 15, caption)}\n</svg>\n'
    )


def _latencies(results: Sequence[Mapping[str, Any]], row: int) -> Panel | None:
    """Latency over the percentile, both axes so that the tail has room."""
    curves = {
        result["name"]: [(p, max(ns, 1)) for p, ns in result["curve"]] for result in results if result.get("curve")
    }
    if not curves:
        return None
    lowest, highest = _decades(ns for curve in curves.values() for _, ns in curve)
    panel = Panel("Latency of an operation by percentile", row, _nines, _logarithmic(lowest, highest))
    panel.ticks_across(PERCENTS, lambda percent: f"{percent:g} %")
    panel.ticks_up([10.0**power for power in range(lowest, highest + 1)], duration)
    for name, curve in curves.items():
        panel.curve(name, [(min(percent, PERCENTS[-1]), ns) for percent, ns in curve])
    return panel


def _throughput(results: Sequence[Mapping[str, Any]], row: int) -> Panel | None:
    """Puts a second over the number of threads, one put a transaction."""
    curves = {
        name: sorted((result["threads"], result["per_second"]) for result in results if result.get("kind") == kind)
        for kind, name in (("put-1", "a transaction each"), ("env-put-1", "env.put"))
    }
    points = [point for curve in curves.values() for point in curve]
    counts = sorted({threads for threads, _ in points})
    if len(counts) < 2:
        return None
    most = max(rate for _, rate in points) * 1.1
    first, last = math.log2(counts[0]), math.log2(counts[-1])
    panel = Panel(
        "Puts a second by threads",
        row,
        lambda count: (math.log2(count) - first) / (last - first),
        lambda rate: rate / most,
    )
    panel.ticks_across(counts, lambda threads: f"{threads:g}")
    panel.ticks_up([most * quarter / 4 for quarter in range(5)], lambda rate: quantity(rate) if rate else "0")
    for name, curve in curves.items():
        if curve:
            panel.curve(name, curve)
    return panel


def _timelines(results: Sequence[Mapping[str, Any]], row: int) -> Panel | None:
    """A line a kill: a mark for each acknowledged write."""
    timelines = next((result["timelines_ms"] for result in results if result.get("timelines_ms")), None)
    if timelines is None:
        return None
    first = min(min(timeline, default=0.0) for timeline in timelines)
    last = max(max(timeline, default=1.0) for timeline in timelines)
    count = len(timelines)
    panel = Panel(
        "Acknowledged writes around kill -9 of the master",
        row,
        lambda at: (at - first) / (last - first),
        lambda number: 1 - (number + 0.5) / count,
    )
    step = 10 ** math.floor(math.log10(last - first))
    panel.ticks_across(
        [step * n for n in range(math.ceil(first / step), int(last / step) + 1)], lambda at: f"{at:g} ms"
    )
    panel.ticks_up(range(count), lambda number: f"kill {number + 1:g}")
    for number, timeline in enumerate(timelines):
        y = panel.y(number)
        marks = " ".join(f"M{panel.x(at):.1f},{y - 6:.1f}v12" for at in timeline)
        panel.parts.append(f'<path d="{marks}" stroke="{COLOURS[0]}" stroke-width="1"/>')
        panel.parts.append(_line(panel.x(0), y - 12, panel.x(0), y + 12, "curve", COLOURS[1]))
    return panel


def _nines(percent: float) -> float:
    """Map 0 … 99.99 % to 0 … 1; each nine more takes the same room."""
    return -math.log10(1 - min(percent, 99.99) / 100) / 4


def _logarithmic(lowest: int, highest: int) -> Scale:
    return lambda value: (math.log10(value) - lowest) / (highest - lowest)


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """Return the powers of ten around all values; they differ."""
    listed = list(values)
    lowest = math.floor(math.log10(min(listed)))
    return lowest, max(math.ceil(math.log10(max(listed))), lowest + 1)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, colour: str = "") -> str:
    stroke = f' stroke="{colour}"' if colour else ""
    return f'<line class="{kind}"{stroke} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class={quoteattr(kind)} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
