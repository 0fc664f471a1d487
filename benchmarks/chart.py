"""Draw the table of `benchmarks.peers --json` as bars of CPU seconds, on a logarithmic scale.

python -m benchmarks.peers --n 1048576 --json > peers.json
python -m benchmarks.chart peers.json benchmarks/peers.svg
"""

import argparse
import json
import math
from html import escape
from pathlib import Path
from typing import Any

LABEL, WIDTH, BAR, GAP, TOP = 330, 460, 20, 8, 34
OURS, THEIRS, TEXT = "#1f6f78", "#b8b8b0", "#333333"


def draw(rows: list[dict[str, Any]], title: str) -> str:
    """Return an SVG with a bar for each row that has a figure `cpu`, the least first."""
    shown = sorted((row for row in rows if row.get("cpu")), key=lambda row: float(row["cpu"]))
    least = math.floor(math.log10(shown[0]["cpu"]))
    most = math.ceil(math.log10(shown[-1]["cpu"]))
    scale = WIDTH / max(1, most - least)
    height = TOP + len(shown) * (BAR + GAP) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 90}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="{TEXT}">',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for power in range(least, most + 1):
        x = LABEL + (power - least) * scale
        lines.append(f'<line x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{height - 20}" stroke="#dddddd"/>')
        lines.append(f'<text x="{x:.0f}" y="{height - 6}" text-anchor="middle">{10.0**power:g} s</text>')
    for place, row in enumerate(shown):
        y, long = TOP + place * (BAR + GAP), (math.log10(row["cpu"]) - least) * scale
        colour = OURS if str(row["peer"]).startswith("Vesica") else THEIRS
        text = f"{row['peer']}, {row['phase']}"
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(text)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{long:.0f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + long + 6:.0f}" y="{y + 15}">{row["cpu"]:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chart", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what benchmarks.peers --json printed")
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    options = parser.parse_args()
    rows = json.loads(options.results.read_text())["rows"]
    sizes = max(row["n"] for row in rows)
    options.picture.write_text(draw(rows, f"CPU seconds of both parties, sets of {sizes:,} (logarithmic)"))


if __name__ == "__main__":
    main()
