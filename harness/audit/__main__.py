"""`python -m harness.audit`: print what the tables of a Markdown file get wrong."""

import argparse
import sys
from pathlib import Path

from harness import __version__, signals

if __name__ == "__main__":
    signals.leave_at_once()  # the imports below take a while

from harness.audit.audit import audit
from harness.audit.study import study
from harness.messages import plural, program, visible
from harness.output.redacted_streams import redacted_streams
from harness.output.stdout import printing


def main() -> None:
    """Audit the file of the command line; exit with 1 for findings and 2 for nothing to audit."""
    arguments = parser().parse_args()
    with signals.stoppable("the audit did not finish"):
        try:
            text = arguments.file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as reason:
            said = reason.strerror if isinstance(reason, OSError) else "it is not UTF-8"
            sys.stderr.write(f"the file must be readable Markdown, got {arguments.file}: {said}\n")
            sys.exit(2)
        document = study(text, arguments.n)
        findings = audit(document)
    num_tables, num = len(document.document.tables), len(findings)
    if not num_tables:
        sys.stderr.write(
            f"the file must have a table (a header, a line such as |---|---|, and rows), got none "
            f"in {arguments.file}\n"
        )
        sys.exit(2)
    with printing():
        for each in findings:
            found = visible(f"{each.fault}: {each.text}")
            sys.stdout.write(f"{arguments.file}:{each.line}: {found}\n")
        sys.stdout.write(
            f"{num or 'no'} {plural('finding', num)} in {num_tables} "
            f"{plural('table', num_tables)}\n"
        )
    if findings:
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog=program("harness.audit"),
        description="Read somebody else's Markdown and print, line by line, what its tables get "
        "wrong or cannot support: means, differences, units, ranks, baselines, bfloat16 codes, "
        "gaps that are too small for the number of samples, and sentences that the table beside "
        "them contradicts.",
        epilog="The exit code is 0 without findings, 1 with findings, and 2 if the file has no "
        "table or cannot be read. docs/audit.md describes the checks.",
    )
    found.add_argument("--version", action="version", version=f"quant-harness {__version__}")
    found.add_argument("file", type=Path, metavar="TABLE.md", help="Markdown file")
    found.add_argument(
        "--n",
        type=_count,
        help="samples behind an accuracy, for tables beside which the file does not say it",
    )
    return found


def _count(text: str) -> int:
    """Return the number of samples of the command line."""
    number = text.replace(",", "")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of samples, got {text}")
    return int(number)


if __name__ == "__main__":
    with redacted_streams():
        main()
