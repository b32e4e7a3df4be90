"""Just enough SVG for a bar chart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

PAPER: Final = "#ffffff"
INK: Final = "#1f2933"

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Font:
    """How words look. ``halo`` keeps them readable over a line."""

    size: int = 12
    fill: str = INK
    bold: bool = False
    italic: bool = False
    halo: bool = False

    def attributes(self) -> str:
        """As attributes of a text element."""
        found = [f'font-size="{self.size}" fill="{self.fill}"']
        if self.bold:
            found.append('font-weight="600"')
        if self.italic:
            found.append('font-style="italic"')
        if self.halo:
            found.append(f'paint-order="stroke" stroke="{PAPER}" stroke-width="3"')
        return " ".join(found)


@dataclass(slots=True)
class Canvas:
    """Elements in the order in which they are painted."""

    elements: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, font: Font, anchor: Anchor = "start") -> None:
        """Writes words with their baseline at a place."""
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.elements.append(f"<text {where} {font.attributes()}>{escape(words)}</text>")

    def rect(self, x: float, y: float, width: float, height: float, fill: str, title: str = "") -> None:
        """Draws a filled rectangle; the title shows where a pointer rests."""
        inner = f"<title>{escape(title)}</title>" if title else ""
        size = f'width="{max(width, 0.5):.1f}" height="{height:.1f}"'
        self.elements.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{fill}">{inner}</rect>')

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, *, dashed: bool = False) -> None:
        """Draws a line."""
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.elements.append(f'<line {ends} stroke="{stroke}" stroke-width="1.6"{dash}/>')

    def document(self, width: float, height: float, label: str) -> str:
        """The whole file, on light paper whatever the page around it is."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label={quoteattr(label)} '
            'font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif">'
        )
        paper = f'<rect width="{width:.0f}" height="{height:.0f}" fill="{PAPER}"/>'
        return "\n".join([head, paper, *self.elements, "</svg>"]) + "\n"
