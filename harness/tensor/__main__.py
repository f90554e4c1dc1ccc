"""`python -m harness.tensor`: errors of formats on tensors of a file, and the list of formats."""

import argparse
import sys
from pathlib import Path

from harness import __version__, signals

if __name__ == "__main__":
    signals.leave_at_once()  # the imports below take seconds

from harness.errors import HarnessError, of_this_machine
from harness.messages import program
from harness.output.redacted_streams import redacted_streams
from harness.output.stdout import printing
from harness.output.temporary import check_temporary


def main() -> None:
    """Run the command; exit with 1 and an explanation if it fails."""
    arguments = parser().parse_args()
    try:
        check_temporary()
        with signals.stoppable("no file was left half written"):
            with signals.held():  # imported here: --help needs no torch
                from harness.tensor import commands  # noqa: PLC0415

            with printing():
                getattr(commands, arguments.run)(arguments)
    except Exception as reason:
        said = str(reason) if isinstance(reason, HarnessError) else of_this_machine(reason)
        if said is None:
            raise
        sys.stderr.write(f"{said}\n")
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    whole = argparse.ArgumentParser(
        prog=program("harness.tensor"),
        description=(
            "Quantize the tensors of a safetensors file to low-precision formats; list the formats."
        ),
    )
    whole.add_argument("--version", action="version", version=f"quant-harness {__version__}")
    commands = whole.add_subparsers(required=True, metavar="error | formats | plot")
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument(
        "--format",
        required=True,
        metavar="NAMES",
        help=(
            "names of conf/format or QType descriptors, separated by commas; "
            "all takes all of conf/format"
        ),
    )
    chosen.add_argument(
        "--tensor", default="*", metavar="GLOB", help="only tensors whose names match"
    )

    written = argparse.ArgumentParser(add_help=False)
    written.add_argument("--force", action="store_true", help="overwrite an existing file at --out")

    command = commands.add_parser(
        "error", parents=[chosen, written], help="print a row of errors for each tensor and format"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a safetensors file")
    command.add_argument(
        "--out",
        metavar="FILE",
        help="write the dequantized tensors, float32, as TENSOR/FORMAT",
    )
    command.set_defaults(run="tabulate_errors")

    command = commands.add_parser("formats", help="list every format of conf/format")
    command.set_defaults(run="list_formats")

    command = commands.add_parser(
        "plot",
        parents=[chosen, written],
        help="draw grids.png, the values of elements; with FILE also error.png, error against bits",
    )
    command.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a safetensors file")
    command.add_argument("--out", required=True, metavar="FOLDER", help="folder for the PNG files")
    command.set_defaults(run="draw")
    return whole


if __name__ == "__main__":
    with redacted_streams():
        main()
