"""Results as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FINDINGS = Path(__file__).with_name("findings.md")
#: Facts that are shown above the tables, in this order.
_SHOWN = (
    *("date", "machine_class", "cpu", "cpu_family", "cores", "torch_threads", "instructions", "bfloat16"),
    *("memory_gb", "gpu", "system", "python"),
)
_VERSIONS = ("sattxt", "torch", "transformers", "numpy", "pillow", "open_clip_torch")


def markdown(report: dict[str, Any], picture: str | None = None) -> str:
    """The report as a page: machine, goals, then every table with its notes."""
    machine = report["machine"]
    lines = ["# Benchmarks", "", f"Regenerate with `{report['command']}`.", ""]
    shown = {key: machine[key] for key in _SHOWN if machine.get(key)}
    lines += [f"- {key.replace('_', ' ')}: {_cell(value)}" for key, value in shown.items()]
    lines.append("- versions: " + ", ".join(f"{key} {machine[key]}" for key in _VERSIONS if machine.get(key)))
    lines += [
        "",
        "Ratios are medians over rounds in which all cases of a table were measured alternately in one process; they "
        "may be compared across machines, absolute figures only within this page. `spread` is half the range of the "
        "rounds over their median.",
        "",
    ]
    seconds = sum(result["seconds"] for result in report["results"])
    if seconds:
        each = ", ".join(f"{result['name']} {result['seconds'] / 60:.1f}" for result in report["results"])
        lines += [f"Measuring took {seconds / 60:.0f} minutes ({each}).", ""]
    load = machine.get("load_before") or 0
    if load > 0.25 * machine["cores"]:
        lines += [f"**The machine was not idle: load {load:g} on {machine['cores']} cores when this began.**", ""]
    if report["size"] != "full":
        lines += [f"**Measured with `--{report['size']}`: few rounds, for a look only.**", ""]
    goals = [(result, goal) for result in report["results"] for goal in result["goals"]]
    if goals:
        lines += ["## Goals", ""]
        rows = [
            {
                "goal": goal["goal"],
                "device": result["device"],
                "wanted": goal["wanted"],
                "measured": goal["measured"],
                "met": "yes" if goal["met"] else "no",
            }
            for result, goal in goals
        ]
        lines += [*_table(rows), ""]
    if picture is not None:
        lines += [f"![Bars of the figures below]({picture})", ""]
    for result in report["results"]:
        lines += [f"## {result['name']} ({result['device']})", ""]
        for title, rows in result["tables"].items():
            lines += [f"### {title}", "", *_table(rows), ""]
        lines += [f"- {note}" for note in result["notes"]] + [""] * bool(result["notes"])
    return "\n".join(lines).rstrip() + "\n"


def write_json(report: dict[str, Any], path: Path) -> None:
    """Everything, in full precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(report: dict[str, Any], path: Path) -> None:
    """Every panel of bars in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [panel for result in report["results"] for panel in result["bars"]]
    if not panels:
        return
    columns = 2 if len(panels) > 1 else 1
    stacked = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [1.1 + 0.32 * max(len(panel["items"]) for panel in row) for row in stacked]
    figure, grid = plt.subplots(
        len(stacked),
        columns,
        figsize=(7.5 * columns, sum(heights)),
        squeeze=False,
        constrained_layout=True,
        gridspec_kw={"height_ratios": heights},
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for row, axes_row in zip(stacked, grid, strict=True):
        for panel, axes in zip(row, axes_row, strict=False):
            _bars(axes, panel)
    machine = report["machine"]
    where = machine.get("gpu") or machine["cpu"]
    figure.suptitle(
        f"{where}, {machine['cores']} cores, {machine['date'][:10]}, sattxt {machine['sattxt']}", fontsize=11
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axes: Any, panel: dict[str, Any]) -> None:
    axes.set_axis_on()
    labels, values = [item[0] for item in panel["items"]], [item[1] for item in panel["items"]]
    colours = ["#9a9a9a" if "reference" in label or "CLIP" in label else "#1f77b4" for label in labels]
    bars = axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), labels, fontsize=8)
    axes.invert_yaxis()
    if panel["log"]:
        axes.set_xscale("log")
    axes.bar_label(bars, [_cell(value) for value in values], padding=3, fontsize=8)
    axes.margins(x=0.16)
    axes.set_title(panel["panel"], fontsize=9, loc="left")
    axes.set_xlabel(panel["unit"], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    right = [all(isinstance(row.get(column, 0.0), (int, float)) for row in rows) for column in columns]
    rule = ["---:" if number else "---" for number in right]
    return ["| " + " | ".join(line) + " |" for line in (columns, rule, *cells)]


def _cell(value: Any) -> str:
    """Three significant digits; nothing in exponential form."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == 0 or abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.{max(0, 2 if abs(value) >= 1 else 3)}f}" if abs(value) >= 0.01 else f"{value:.2g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
