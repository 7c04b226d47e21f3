"""Markdown that a script writes: tables, and blocks of a page that is otherwise written by hand."""

import re
import textwrap
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [headings, ["---", *("---:" for _ in headings[1:])], *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)


def wrapped(text: str, width: int = 120) -> str:
    """Text with no line longer than ``width``, but for tables, headings and what has no space."""
    return "\n".join(
        line
        if line.startswith(("|", "#"))
        else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def replace_block(page: str, name: str, content: str) -> str:
    """The page with ``content`` between ``<!-- NAME -->`` and ``<!-- /NAME -->``, which both stay.

    Raises:
        ValueError: the page does not have the two, once each and in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    found = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", page, re.DOTALL)
    if len(found) != 1 or page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page needs {begin} and then {end}, once each")
    return page.replace(found[0], begin + content + end)
