"""Tables that people read."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO


def render(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], footer: Sequence[str] = ()) -> str:
    """A table as text: the first column to the left, the others to the right; lines of plain text below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    buffer = StringIO()
    console = Console(file=buffer, width=240, color_system=None, markup=False, emoji=False)
    console.print(table, highlight=False)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join([title, *(line for line in lines if line), *footer])


def bytes_written(nbytes: int) -> str:
    """Bytes for people: 12,345 B as 12.1 KiB."""
    if nbytes < 1024:
        return f"{nbytes} B"
    size, units = nbytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:,.1f} {units[0]}"


def shape_written(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "()"
