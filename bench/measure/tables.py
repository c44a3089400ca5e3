"""Tables of text."""

from collections.abc import Sequence

Row = tuple[str, Sequence[str]]


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Prints a table whose columns are as wide as what is in them."""
    width = max(len(name) for name in [title, *(name for name, _ in rows)])
    cells = [columns, *(values for _, values in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for name, values in [(title, columns), *rows]:
        print(f"{name:{width}}" + "".join(f"  {value:>{size}}" for value, size in zip(values, widths, strict=True)))
