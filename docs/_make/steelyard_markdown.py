"""Markdown of these pages that the generator does not know: formulas as MathML, tables that read on a telephone.

A fence ```` ```math ````, a paragraph between ``$$`` and ``$`...`$`` in a line hold LaTeX, as on GitHub. All become
MathML while the pages are built, so that no script and no font is fetched to show them. Cells of tables carry the head
of their column, which a narrow page shows beside the value in place of the head row.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.treeprocessors import Treeprocessor

#: From how many columns a table is set smaller, and from how many smaller still.
MANY, VERY_MANY = 6, 9


class Pages(Extension):
    """Formulas in lines, and tables."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        # before code in backquotes (190), which would take the formula
        md.inlinePatterns.register(Formula(r"\$`([^`]+)`\$", md), "steelyard-formula", 195)
        md.parser.blockprocessors.register(Paragraph(md.parser), "steelyard-paragraph", 75)
        # after the cells were read
        md.treeprocessors.register(Tables(md), "steelyard-tables", 5)


class Formula(InlineProcessor):
    """``$`x^2`$``."""

    def handleMatch(self, m: Any, data: str) -> tuple[str, int, int]:  # noqa: N802
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class Paragraph(BlockProcessor):
    """``$$x^2$$`` as a paragraph."""

    def test(self, parent: Element, block: str) -> bool:
        return len(block) > 4 and block.startswith("$$") and block.endswith("$$")

    def run(self, parent: Element, blocks: list[str]) -> None:
        formula = SubElement(parent, "div", {"class": "formula"})
        formula.text = self.parser.md.htmlStash.store(shown(blocks.pop(0)[2:-2].strip()))


def block(source: str, *_: Any, **__: Any) -> str:
    """A fence of mathematics: one formula for each paragraph of it."""
    formulas = (part.strip() for part in source.split("\n\n"))
    return "".join(f'<div class="formula">{shown(part)}</div>' for part in formulas if part)


def shown(formula: str) -> str:
    """A formula of its own: the converter knows the rows of ``aligned`` by another name."""
    return convert(formula.replace("{aligned}", "{align*}"), display="block")


class Tables(Treeprocessor):
    """Every cell says what its column is; tables of many columns say so."""

    def run(self, root: Element) -> None:
        for table in root.iter("table"):
            heads = ["".join(cell.itertext()) for cell in table.iter("th")]
            if len(heads) >= MANY:
                table.set("data-columns", "many" if len(heads) < VERY_MANY else "very-many")
            for row in table.iterfind("tbody/tr"):
                for head, cell in zip(heads, row, strict=False):
                    cell.set("data-label", head)


def makeExtension(**settings: Any) -> Pages:  # noqa: N802
    """What Python-Markdown asks a module for."""
    return Pages(**settings)
