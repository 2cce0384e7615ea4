"""Bar charts as SVG, readable on a light and on a dark page."""

from html import escape

WIDTH, LABEL, VALUE, BAR, GAP, TOP = 720, 170, 90, 22, 8, 40

STYLE = """
  .page { fill: #ffffff }
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px }
  .note { fill: #57606a; font-size: 12px }
  .ours { font-weight: 600 }
  .bar { fill: #8c959f }
  .bar.ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 }
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .bar { fill: #6e7681 }
    .bar.ours { fill: #4493f8 }
  }
"""


def bars(title, note, rows):
    """One chart: `rows` are name, value and how the value is written; adit's own bar stands out."""
    most = max(value for _, value, _ in rows) or 1
    height = TOP + len(rows) * (BAR + GAP) + GAP
    room = WIDTH - LABEL - VALUE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="8" y="18">{escape(title)}</text>',
        f'<text class="note" x="{WIDTH - 8}" y="18" text-anchor="end">{escape(note)}</text>',
    ]
    for place, (name, value, words) in enumerate(rows):
        top, ours = TOP + place * (BAR + GAP), " ours" if name == "adit" else ""
        length = max(1.0, value / most * room)
        parts += [
            f'<text class="{ours.strip()}" x="{LABEL - 8}" y="{top + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="bar{ours}" x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="{ours.strip()}" x="{LABEL + length + 6:.1f}" y="{top + 16}">{escape(words)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
