"""The plots of docs/performance.md. Needs matplotlib, which `make bench` installs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Any]]

OURS, THEIRS = "#b5451b", "#6b7a8f"
SIZE = (8.0, 4.0)
DPI = 120
MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there are reports for, into PNG files of a folder."""
    import matplotlib

    matplotlib.use("Agg")  # files only, on machines without a display
    drawn = []
    for name, (needed, plot) in _PLOTS.items():
        reports = {key: results[key]["report"] for key in needed if _usable(results, key)}
        if reports:
            drawn.append(folder / f"{name}.png")
            _save(drawn[-1], plot, reports)
    return drawn


def _usable(results: Results, key: str) -> bool:
    return key in results and "clean" in results[key]["report"]


def _save(path: Path, plot: Callable[[Any, Mapping[str, Any]], None], reports: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    plot(figure, reports)
    # Without the version of matplotlib in it, the same figures make the same file.
    figure.savefig(path, metadata={"Software": None})


def _peers(figure: Any, reports: Mapping[str, Any]) -> None:
    rows = [row for row in reports["compare"]["rows"] if row["service"] == "apns" and row["complete"]]
    names = [f"{row['peer']}, {row['what']}" if row["peer"] == "carillon" else row["peer"] for row in rows]
    colours = [OURS if row["peer"] == "carillon" else THEIRS for row in rows]
    for place, (field, label) in enumerate((("cpu_us", "us of CPU each"), ("per_second", "a second")), 1):
        axes = figure.add_subplot(1, 2, place)
        bars = axes.barh(names, [row[field] for row in rows], color=colours)
        axes.bar_label(bars, fmt="{:,.3g}" if field == "cpu_us" else "{:,.0f}", padding=3, fontsize=8)
        axes.set(xscale="log", xlabel=f"{label}, APNs")
        axes.margins(x=0.25)
        axes.invert_yaxis()
        if place == 2:
            axes.set_yticklabels([])


def _latency(figure: Any, reports: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    for name, label, colour in (("latency", "idle gateway", THEIRS), ("blast", "during a blast", OURS)):
        if name in reports:
            points = [point for point in reports[name]["distribution_ms"] if point[0] < 100]
            axes.plot([1 / (1 - at / 100) for at, _ in points], [ms for _, ms in points], label=label, color=colour)
    percentiles = (0, 50, 90, 99, 99.9, 99.99)
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="ms from due to bytes on the wire")
    axes.set_xticks([1 / (1 - at / 100) for at in percentiles], [f"{at:g}" for at in percentiles])
    axes.set_yticks(MILLISECONDS, [f"{ms:g}" for ms in MILLISECONDS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()


def _scale(figure: Any, reports: Mapping[str, Any]) -> None:
    titles = {"depth": "recipients queued", "connections": "connections", "workers": "workers"}
    chosen: Sequence[str] = [name for name in titles if name in reports]
    highest = max(point["gateway_cpu_us"] for name in chosen for point in reports[name]["points"])
    for place, name in enumerate(chosen, 1):
        axes = figure.add_subplot(1, len(chosen), place)
        points = reports[name]["points"]
        axes.plot([point["at"] for point in points], [point["gateway_cpu_us"] for point in points], "o-", color=OURS)
        axes.set(xscale="log", ylim=(0, highest * 1.2), xlabel=titles[name])
        axes.set_xticks([point["at"] for point in points], [f"{point['at']:,}" for point in points], fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if place == 1:
            axes.set_ylabel("us of CPU a notification")


_PLOTS: dict[str, tuple[tuple[str, ...], Callable[[Any, Mapping[str, Any]], None]]] = {
    "peers": (("compare",), _peers),
    "latency": (("latency", "blast"), _latency),
    "scale": (("depth", "connections", "workers"), _scale),
}
"""File's name -> the runs it shows, and how."""
