"""``outmask bench``: run one benchmark, print its table, and keep it as JSON or in a document."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from rich.table import Table

from outmask.app import DONE
from outmask.app.arguments import check_file
from outmask.app.bench.comparison import Report, machine
from outmask.app.terminal import say, stdout
from outmask.errors import OutmaskError
from outmask.output.files import replacing, write_json

BENCHMARKS = ("speed", "scores", "deformable", "growth", "gpu", "metrics", "train")
"""Each is a function of its name in a module of its name."""


def bench(what: str, json: str | None, markdown: str | None) -> int:
    """Run one benchmark, print its table; returns the exit code.

    Args:
        what: one of :data:`BENCHMARKS`.
        json: a file for the numbers.
        markdown: a document that holds ``<!-- bench WHAT -->`` and ``<!-- end -->``: what is between becomes the table.

    Raises:
        OutmaskError: where a peer is not installed, a file can't be written, or the document has no such place.
    """
    check_file("--json", json)
    check_file("--markdown", markdown)
    document = None if markdown is None else _document(Path(markdown), what)
    run = getattr(importlib.import_module(f"outmask.app.bench.{what}"), what)
    report: Report = run()
    table = Table(title=f"outmask bench {what}", caption=report.caption)
    for index, column in enumerate(report.columns):
        table.add_column(column, justify="left" if index == 0 or column == "peer" else "right")
    for row in report.rows:
        table.add_row(*row)
    stdout.print(table)
    measured_on = machine()
    for note in [*report.notes, f"machine  {measured_on}"]:
        say(note)
    if json is not None:
        write_json(Path(json), {"machine": measured_on, **report.values})
    if document is not None and markdown is not None:
        before, after = document
        with replacing(Path(markdown)) as file:
            file.write(f"{before}\n{_markdown(report, what, measured_on)}\n{after}".encode())
    return DONE


def _document(path: Path, what: str) -> tuple[str, str]:
    """What stands before and after a benchmark's place."""
    place = re.compile(rf"(?P<before>.*<!-- bench {what} -->).*?(?P<after><!-- end -->.*)", re.DOTALL)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = place.fullmatch(text)
    if found is None:
        raise OutmaskError(f"--markdown {path}: expected a document with '<!-- bench {what} -->' and '<!-- end -->'")
    return found["before"], found["after"]


def _markdown(report: Report, what: str, measured_on: str) -> str:
    def line(cells: Any) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"

    rows = [line(report.columns), line("---" for _ in report.columns), *(line(row) for row in report.rows)]
    notes = [f"- {note}" for note in (report.caption, *report.notes, f"measured on {measured_on}")]
    return "\n".join([f"`outmask bench {what}`:", "", *rows, "", *notes])
