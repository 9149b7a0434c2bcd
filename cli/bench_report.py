"""What `zrep bench` tells: where and how it was measured, a line a workload, and two results side by side.

A report is plain JSON. Two reports compare by the names of their workloads; where they were taken under
different conditions the comparison says so first.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

FORMAT = 1
PACKAGES = ("zrep", "pyzmq", "lmdb", "msgpack")
CONDITIONS = ("machine", "versions", "sites", "durability", "value_bytes", "pinned", "seconds", "options_hash")

COLUMNS = ("WORKLOAD", "PER SECOND", "P50", "P90", "P99", "P99.9", "CPU MASTER", "CLIENT", "WHAT")
COMPARED = ("WORKLOAD", "WHAT", "A", "B", "B/A")


def conditions(
    sites: int, seconds: float, value_bytes: int, options: Mapping[str, Any], *, pinned: bool = False
) -> dict[str, Any]:
    """Return under what conditions this process measures; `options` are all options of a site."""
    return {
        "format": FORMAT,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "sites": sites,
        "durability": options["durability"],
        "value_bytes": value_bytes,
        "pinned": pinned,
        "seconds": seconds,
        "options": dict(options),
        "options_hash": hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12],
    }


def _processor() -> str:
    """Return the processor's name; the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def head(report: Mapping[str, Any]) -> Iterator[str]:
    """Return what stands above a table or a picture: what was measured, on what, with which versions."""
    machine = report["machine"]
    pinned = ", each on one core" if report.get("pinned") else ""
    yield f"{report['sites']} sites{pinned}, durability {report['durability']}, values of {report['value_bytes']} bytes"
    yield f"{machine['cores']} cores, {machine['processor']}, {machine['system']}"
    yield ", ".join(f"{name} {version}" for name, version in report["versions"].items())


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return the table's lines."""
    for result in report["results"]:
        latency = result.get("latency_ns", {})
        shown = (duration(latency[name]) if name in latency else "-" for name in ("p50", "p90", "p99", "p99.9"))
        rate = quantity(result["per_second"]) if "per_second" in result else "-"
        spent = result.get("cpu_us", {})
        cpu = (duration(1000 * spent[end]) if end in spent else "-" for end in ("master", "client"))
        yield result["name"], rate, *shown, *cpu, result["about"]


def quantity(number: float) -> str:
    """Return a number with three digits that matter: 1.23 M, 45.6 k, 789."""
    for factor, unit in ((1e6, " M"), (1e3, " k"), (1, "")):
        if number >= factor:
            return f"{_three(number / factor)}{unit}"
    return f"{number:.2g}"


def duration(nanoseconds: float) -> str:
    """Return a time with three digits that matter and its unit."""
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= factor:
            return f"{_three(nanoseconds / factor)} {unit}"
    return f"{nanoseconds:.0f} ns"


def _three(number: float) -> str:
    return f"{number:.2f}" if number < 9.995 else f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs between two reports: the conditions, and the ratios `other` to `one`."""
    results = {result["name"]: result for result in other["results"]}
    ratios: list[dict[str, Any]] = []
    for result in one["results"]:
        twin = results.get(result["name"])
        if twin is not None:
            ratios += _ratios(result, twin)
    differing = [name for name in CONDITIONS if one.get(name) != other.get(name)]
    return {"differing": differing, "ratios": ratios}


def _ratios(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    pairs = [("per_second", one.get("per_second"), other.get("per_second"))]
    pairs += [
        (name, one.get("latency_ns", {}).get(name), other.get("latency_ns", {}).get(name)) for name in ("p50", "p99")
    ]
    pairs.append(("cpu", one.get("cpu_us", {}).get("master"), other.get("cpu_us", {}).get("master")))
    for what, a, b in pairs:
        if a and b:
            yield {"name": one["name"], "what": what, "a": a, "b": b, "ratio": round(b / a, 4)}


def compared_rows(comparison: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return the lines of a comparison's table."""
    for each in comparison["ratios"]:
        show = _SHOWN.get(each["what"], duration)
        yield each["name"], each["what"], show(each["a"]), show(each["b"]), f"{each['ratio']:.2f}"


_SHOWN: dict[str, Callable[[float], str]] = {
    "per_second": quantity,
    "cpu": lambda microseconds: duration(1000 * microseconds),
}


def load(path: Path) -> dict[str, Any]:
    """Read a report that `zrep bench --json` printed. Raises OptionError, naming the file, for anything else."""
    from zrep.errors import OptionError

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read a result from {path}: {error}") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT or not isinstance(report.get("results"), list):
        raise OptionError(f"{path} is not a result of this version: `zrep bench --json > FILE` makes one")
    return report
