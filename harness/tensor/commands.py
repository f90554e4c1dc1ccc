"""What the three commands do, from parsed arguments to what is printed and written."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from matplotlib.figure import Figure

from harness.errors import ConfigError, DataError
from harness.quant.tensor import TensorFormat
from harness.tensor import catalog, plot, table
from harness.tensor.error import Error, pool
from harness.tensor.facts import SHAPE, facts
from harness.tensor.files import TensorFile, new_file, write_header, write_tensor
from harness.tensor.measure import measure


def list_formats(_: argparse.Namespace) -> None:
    """Print every format of conf/format."""
    rows = [
        table.fact_cells(name, facts(catalog.load(name)), catalog.description(name))
        for name in catalog.names()
    ]
    shape = " x ".join(str(size) for size in SHAPE)
    sys.stdout.write(
        f"{len(rows)} formats. Bits per element count codes and scales of a matrix of {shape}; range, precision and\n"
        "specials are those of the element, before scales.\n\n"
    )
    table.show(table.FACT_COLUMNS, rows, table.FACT_NUMBERS)


def tabulate_errors(arguments: argparse.Namespace) -> None:
    """Print the table of errors, and write the dequantized tensors if asked to."""
    formats = catalog.find(arguments.format)
    file, names = _open(arguments)
    out: Path | None = arguments.out
    if out and out.exists() and out.samefile(file.path):
        raise DataError(f"--out must not be the file that is read, got {out}; name another file")
    errors: dict[tuple[str, str], Error] = {}
    with ExitStack() as stack:
        stream = stack.enter_context(new_file(out)) if out else None
        if stream:
            pairs = [(name, fmt) for name in names for fmt in formats]
            write_header(stream, {f"{name}/{fmt}": file.shape(name) for name, fmt in pairs})
        for item in measure(file, names, formats):
            errors[item.tensor, item.format] = item.error
            if stream:
                write_tensor(stream, item.values)
    rows = [(name, _spell(file.shape(name)), fmt, error) for (name, fmt), error in errors.items()]
    if len(names) > 1:
        rows += [(f"all {len(names)}", "", fmt, _pooled(errors, fmt)) for fmt in formats]
    table.show(
        table.ERROR_COLUMNS,
        [(*place, *table.error_cells(error)) for *place, error in rows],
        table.ERROR_NUMBERS,
    )
    if out:
        sys.stdout.write(f"dequantized tensors: {out}\n")


def draw(arguments: argparse.Namespace) -> None:
    """Write the drawings and print their paths."""
    formats = catalog.find(arguments.format)
    figures = _errors_figure(arguments, formats) if arguments.file is not None else {}
    gridded = {name: fmt for name, fmt in formats.items() if plot.has_grid(fmt)}
    if missing := [name for name in formats if name not in gridded]:
        _tell(f"not in grids.png, too many values: {', '.join(missing)}")
    if gridded:
        figures["grids.png"] = plot.draw_grids(gridded)
    if not figures:
        raise ConfigError(
            f"--format must name a format that can be drawn, got {arguments.format}; add one of at most "
            f"{plot.MOST_BITS} bits"
        )
    folder: Path = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise DataError(
            f"--out must be a folder that can be written, got {folder}: {reason}"
        ) from reason
    for name, figure in figures.items():
        with new_file(folder / name) as stream:
            figure.savefig(stream, format="png")
        sys.stdout.write(f"{folder / name}\n")


def _errors_figure(
    arguments: argparse.Namespace, formats: Mapping[str, TensorFormat]
) -> dict[str, Figure]:
    """Return the drawing of errors by its name, or nothing if no format has an error to draw."""
    file, names = _open(arguments)
    found = {(item.tensor, item.format): item.error for item in measure(file, names, formats)}
    errors = {name: _pooled(found, name) for name in formats}
    for name, error in errors.items():
        if error.problem:
            _tell(f"not in error.png: {name}: {error.problem}")
    drawn = {name: e for name, e in errors.items() if not e.problem and not e.exact}
    exact = ", ".join(name for name, error in errors.items() if error.exact)
    if not drawn:
        _tell(f"no error.png: no format has an error to draw{f', exact: {exact}' if exact else ''}")
        return {}
    n = next(iter(errors.values())).n
    what = names[0] if len(names) == 1 else f"{len(names)} tensors"
    title = f"Error against storage: {file.path.name}, {what}, {n:,} elements"
    title += f"\nexact, not drawn: {exact}" if exact else ""
    return {"error.png": plot.draw_errors(drawn, formats, title)}


def _open(arguments: argparse.Namespace) -> tuple[TensorFile, list[str]]:
    """Return the file and the tensors asked for; name what cannot be taken on standard error."""
    file = TensorFile(arguments.file)
    names, others = file.floating(arguments.tensor)
    if others:
        _tell(f"left out, not floating point: {', '.join(others)}")
    return file, names


def _pooled(errors: Mapping[tuple[str, str], Error], fmt: str) -> Error:
    return pool(error for (_, own), error in errors.items() if own == fmt)


def _spell(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
