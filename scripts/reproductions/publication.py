"""Puts pictures, verdicts and tables into the documentation, between the markers of its pages."""

from __future__ import annotations

import os
import re
import shutil

from es_rl.files import write_text
from reproductions.report import Report, verdict_table

__all__ = ["page_of", "publish", "renewed"]


def page_of(docs: str, figure: str) -> str:
    """Return the path of the page of DOCS/reproductions with the line `<!-- verdicts: FIGURE -->`.

    Raises:
        ValueError: if there is none.
    """
    pages = os.path.join(docs, "reproductions")
    marker = f"<!-- verdicts: {figure} -->"
    for name in sorted(os.listdir(pages)):
        page = os.path.join(pages, name)
        if name.endswith(".md") and marker in _text(page):
            return page
    raise ValueError(
        f"--publish: no page of {pages} has the lines {marker} and <!-- end -->; add them"
    )


def publish(docs: str, report: Report) -> str:
    """Copy a figure's pictures to the documentation and renew its tables there.

    On the page of `page_of`, what stands between the line that is looked for and the next
    `<!-- end -->` becomes the table of verdicts, and what stands after
    `<!-- table: FIGURE/NAME -->` the table NAME. Pictures go to DOCS/images/reproductions.

    Returns:
        the page's path.

    Raises:
        ValueError: if there is no such page.
    """
    page = page_of(docs, report.figure)
    text = renewed(_text(page), f"verdicts: {report.figure}", verdict_table(report.verdicts()))
    for table, content in report.tables.items():
        text = renewed(text, f"table: {report.figure}/{table}", content)
    images = os.path.join(docs, "images", "reproductions")
    os.makedirs(images, exist_ok=True)
    for picture in report.pictures:
        shutil.copyfile(picture, os.path.join(images, os.path.basename(picture)))
    write_text(page, text)
    return page


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def renewed(text: str, marker: str, content: str) -> str:
    """Return `text` with `content` after the line `<!-- MARKER -->`, if there is one."""
    begin = f"<!-- {marker} -->\n"
    found = re.search(re.escape(begin) + r".*?(?=<!-- end -->)", text, re.DOTALL)
    if found is None:
        return text
    return f"{text[: found.start()]}{begin}\n{content}\n\n{text[found.end() :]}"
