"""Draw the report's charts as SVG: plain shapes whose colours come from the page's style sheet, hover texts as ``<title>``.

Only numbers and words of our own go in, so nothing needs escaping; names from the data never come here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from autopoly.report.survey import EDGES, Survey

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
INNER_W, INNER_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def histogram(counts: Sequence[int], of: str) -> str:
    """Draw how many instances have which value in [0, 1], in equal bins; ``of`` names the value."""
    top, total, width = max(max(counts), 1), max(sum(counts), 1), INNER_W / len(counts)
    parts = [_horizontal(share, f"{round(share * top):,}") for share in (0, 0.5, 1)]
    for at, count in enumerate(counts):
        height = INNER_H * count / top
        low, high = at / len(counts), (at + 1) / len(counts)
        said = f"{of} {low:.2f} to {high:.2f}: {count:,} ({100 * count / total:.1f} %)"
        parts.append(
            f'<g><rect class="hit" x="{LEFT + at * width:.1f}" y="{TOP}" width="{width:.1f}" height="{INNER_H}"/>'
            f'<rect class="bar" x="{LEFT + at * width + 1:.1f}" y="{TOP + INNER_H - height:.1f}" width="{width - 2:.1f}"'
            f' height="{height:.1f}"/><title>{said}</title></g>'
        )
    return _chart([*parts, *_units(of)], f"Histogram of {of}")


def calibration(curve: Iterable[Mapping[str, float]]) -> str:
    """Draw true over estimated IoU; a bubble's area says how many instances are in its bin. On the diagonal, estimates are right."""
    rows = list(curve)
    most = max((row["n"] for row in rows), default=1)
    parts = [_horizontal(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(f'<path class="ideal" d="M{_x(0):.1f} {_y(0):.1f}L{_x(1):.1f} {_y(1):.1f}"/>')
    parts.append(
        '<path class="line" d="M' + "L".join(f"{_x(row['quality']):.1f} {_y(row['iou']):.1f}" for row in rows) + '"/>' if rows else ""
    )
    for row in rows:
        said = f"estimated {row['quality']:.2f}, true {row['iou']:.2f}: {row['n']:,} instances"
        radius = 2.5 + 7 * (row["n"] / most) ** 0.5
        parts.append(
            f'<circle class="dot" cx="{_x(row["quality"]):.1f}" cy="{_y(row["iou"]):.1f}" r="{radius:.1f}"><title>{said}</title></circle>'
        )
    return _chart([*parts, *_units("estimated IoU")], "True IoU over estimated IoU")


def sizes(survey: Survey, of: str) -> str:
    """Draw the value over classes of box size: median (line), quartiles (box), and the count below."""
    width = INNER_W / len(EDGES)
    parts = [_horizontal(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    for at, name in enumerate(size_names()):
        n, low, middle, high = survey.quantiles(at)
        x = LEFT + at * width
        parts.append(f'<text class="tick mid" x="{x + width / 2:.1f}" y="{HEIGHT - 27}">{name}</text>')
        parts.append(f'<text class="tick mid faint" x="{x + width / 2:.1f}" y="{HEIGHT - 16}">{_short(n)}</text>')
        if n:
            said = f"{name} px: {n:,} instances, median {of} {middle:.2f}, half of them in {low:.2f} to {high:.2f}"
            inner = f'x="{x + 10:.1f}" width="{width - 20:.1f}"'
            parts.append(
                f'<g><rect class="hit" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{INNER_H}"/>'
                f'<rect class="bar soft" {inner} y="{_y(high):.1f}" height="{max(_y(low) - _y(high), 1):.1f}"/>'
                f'<rect class="bar" {inner} y="{_y(middle) - 1.5:.1f}" height="3"/><title>{said}</title></g>'
            )
    parts.append(
        f'<text class="tick mid" x="{LEFT + INNER_W / 2}" y="{HEIGHT - 2}">shorter side of the box, px; number of instances</text>'
    )
    return _chart(parts, f"{of} over box size")


def size_names() -> list[str]:
    """Name the classes of box size."""
    pairs = itertools.pairwise(EDGES)
    return [f"{low}–{high}" if low else f"under {high}" for low, high in pairs] + [f"{EDGES[-1]}+"]


def bar(share: float) -> str:
    """Draw a value in [0, 1] as the bar of a table's cell."""
    return (
        f'<svg class="cell" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" '
        f'height="8"/><rect class="bar" width="{100 * min(max(share, 0.0), 1.0):.1f}" height="8"/></svg>'
    )


def _chart(parts: Iterable[str], label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _x(share: float) -> float:
    return LEFT + share * INNER_W


def _y(share: float) -> float:
    return TOP + (1 - share) * INNER_H


def _horizontal(share: float, label: str) -> str:
    y = _y(share)
    return f'<path class="grid" d="M{LEFT} {y:.1f}h{INNER_W}"/><text class="tick end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{label}</text>'


def _units(label: str) -> list[str]:
    """Write the ticks and the name of a horizontal axis in [0, 1]."""
    ticks = [f'<text class="tick mid" x="{_x(share):.1f}" y="{HEIGHT - 24}">{share:g}</text>' for share in (0, 0.25, 0.5, 0.75, 1)]
    return [*ticks, f'<text class="tick mid" x="{LEFT + INNER_W / 2}" y="{HEIGHT - 6}">{label}</text>']


def _short(count: int) -> str:
    for limit, unit in ((1_000_000, "M"), (1000, "k")):
        if count >= limit * 10:
            return f"{count / limit:.0f}{unit}"
    return f"{count:,}"
