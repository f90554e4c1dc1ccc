"""The three commands: from parsed arguments to tables on standard output and files."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from harness import extras
from harness.errors import ConfigError, DataError
from harness.output import place
from harness.output.atomic import new_file
from harness.output.names import local_path
from harness.output.picture import METADATA, is_own
from harness.quant.tensor import TensorFormat
from harness.tensor import format_files, table
from harness.tensor.error import Error, pool
from harness.tensor.files import TensorFile, header, write_tensor
from harness.tensor.format_facts import SHAPE, facts
from harness.tensor.measure import measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUT = "--out"
ERROR_PNG, GRIDS_PNG = "error.png", "grids.png"


def list_formats(_: argparse.Namespace) -> None:
    """Print every format of conf/format."""
    rows = [
        table.fact_cells(name, facts(format_files.load(name)), format_files.description(name))
        for name in format_files.names()
    ]
    shape = " x ".join(str(size) for size in SHAPE)
    sys.stdout.write(
        f"{len(rows)} formats. Bits per element count codes and scales of a matrix of {shape}; "
        "range, precision and\nspecials are those of the element, before scales.\n\n"
    )
    table.show(table.FACT_COLUMNS, rows, table.FACT_NUMBERS)


def tabulate_errors(arguments: argparse.Namespace) -> None:
    """Print the table of errors; with `--out`, write the dequantized tensors."""
    formats = format_files.find(arguments.format)
    file, names = _open(arguments)
    errors: dict[tuple[str, str], Error] = {}
    with ExitStack() as stack:
        write: Callable[[Tensor], None] = _ignore
        if arguments.out is not None:
            shapes = {f"{name}/{fmt}": file.shape(name) for name in names for fmt in formats}
            write = stack.enter_context(_dequantized(arguments, file, shapes))
        for item in measure(file, names, formats):
            errors[item.tensor, item.format] = item.error
            write(item.values)
    rows = [(name, _shape(file.shape(name)), fmt, error) for (name, fmt), error in errors.items()]
    if len(names) > 1:
        rows += [(f"all {len(names)}", "", fmt, _pooled(errors, fmt)) for fmt in formats]
    table.show(
        table.ERROR_COLUMNS,
        [(*place, *table.error_cells(error)) for *place, error in rows],
        table.ERROR_NUMBERS,
    )
    if arguments.out is not None:
        sys.stdout.write(f"dequantized tensors: {arguments.out}\n")


@contextmanager
def _dequantized(
    arguments: argparse.Namespace, file: TensorFile, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Callable[[Tensor], None]]:
    """Context manager that gives a function which appends one tensor to the file of `--out`.

    The file appears at the end of the block, when all tensors of `shapes` are in it.
    """
    out = local_path(arguments.out, OUT)
    if _is_same(out, file.path):
        raise DataError(f"--out must not be the file that is read, got {out}; name another file")
    place.file_to_write(out, OUT, force=arguments.force)
    beginning = header(shapes)
    size = len(beginning) + 4 * sum(map(math.prod, shapes.values()))
    place.check_room(out, OUT, "file", within=out.parent, size=size)
    with new_file(out, OUT, force=arguments.force) as stream:
        stream.write(beginning)
        yield partial(write_tensor, stream)


def _is_same(out: Path, other: Path) -> bool:
    """Say whether two paths lead to one file."""
    try:
        return out.samefile(other)
    except OSError:  # the file or its folder does not exist yet
        return False


def _ignore(_: Tensor) -> None:
    """Write nothing."""


def draw(arguments: argparse.Namespace) -> None:
    """Write the drawings and print their paths.

    Raises:
        ConfigError: Matplotlib is missing, or no format can be drawn.
    """
    with extras.needed("plots", by="tensor plot"):
        from harness.tensor import plot  # noqa: PLC0415 - its package is optional

    formats = format_files.find(arguments.format)
    folder = local_path(arguments.out, OUT)
    place.folder_to_fill(folder, OUT)
    for name in (GRIDS_PNG,) if arguments.file is None else (GRIDS_PNG, ERROR_PNG):
        place.file_to_write(folder / name, OUT, "folder", force=arguments.force, is_own=is_own)
    place.check_room(folder, OUT, "folder", within=folder)
    figures = _errors_figure(arguments, formats) if arguments.file is not None else {}
    gridded = {name: fmt for name, fmt in formats.items() if plot.has_grid(fmt)}
    if missing := [name for name in formats if name not in gridded]:
        _tell(f"not in {GRIDS_PNG}, too many values: {', '.join(missing)}")
    if gridded:
        figures[GRIDS_PNG] = plot.draw_grids(gridded)
    if not figures:
        raise ConfigError(
            f"--format must name a format that can be drawn, got {arguments.format}; "
            f"add one of at most {plot.MOST_BITS} bits"
        )
    for name, figure in figures.items():
        with new_file(folder / name, OUT, "folder", force=arguments.force, is_own=is_own) as stream:
            figure.savefig(stream, format="png", metadata=METADATA)
        sys.stdout.write(f"{folder / name}\n")


def _errors_figure(
    arguments: argparse.Namespace, formats: Mapping[str, TensorFormat]
) -> "dict[str, Figure]":
    """Return the drawing of errors by file name, or nothing if no format has an error to draw."""
    from harness.tensor import plot  # noqa: PLC0415 - its package is optional

    file, names = _open(arguments)
    found = {(item.tensor, item.format): item.error for item in measure(file, names, formats)}
    errors = {name: _pooled(found, name) for name in formats}
    for name, error in errors.items():
        if error.problem:
            _tell(f"not in {ERROR_PNG}: {name}: {error.problem}")
    drawn = {name: e for name, e in errors.items() if not e.problem and not e.exact}
    exact = ", ".join(name for name, error in errors.items() if error.exact)
    if not drawn:
        note = f", exact: {exact}" if exact else ""
        _tell(f"no {ERROR_PNG}: no format has an error to draw{note}")
        return {}
    n = next(iter(errors.values())).n
    what = names[0] if len(names) == 1 else f"{len(names)} tensors"
    title = f"Error against storage: {file.path.name}, {what}, {n:,} elements"
    title += f"\nexact, not drawn: {exact}" if exact else ""
    return {ERROR_PNG: plot.draw_errors(drawn, formats, title)}


def _open(arguments: argparse.Namespace) -> tuple[TensorFile, list[str]]:
    """Return the file and the names of matching tensors; name those left out on standard error."""
    file = TensorFile(arguments.file)
    names, others = file.floating(arguments.tensor)
    if others:
        _tell(f"left out, not floating point: {', '.join(others)}")
    return file, names


def _pooled(errors: Mapping[tuple[str, str], Error], fmt: str) -> Error:
    return pool(error for (_, own), error in errors.items() if own == fmt)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
