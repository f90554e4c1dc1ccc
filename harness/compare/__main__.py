"""`quant-harness compare REFERENCE CANDIDATE`: is the candidate worse than the margin?"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from harness import __version__, signals

if __name__ == "__main__":
    signals.leave_at_once()  # the imports below take a while

from harness.claims.margins import HELP, read_margins
from harness.compare.gate import Decision, decide, overall
from harness.compare.pairs import pairs
from harness.compare.words import as_json, as_markdown, as_text
from harness.errors import HarnessError
from harness.messages import program
from harness.output.redacted_streams import redacted_streams
from harness.output.stdout import printing

FORMATS = {"text": as_text, "github": as_markdown, "json": as_json}
SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file that GitHub shows as the summary of a job."""
EPILOG = """\
The exit code is 0 if every comparison shows that the candidate is not worse than the margin, 1 if
one shows that it is worse, 2 if neither can be told, and 3 if runs cannot be compared. Without
--margin the margin is 0: only a better candidate is "not worse". docs/ci.md has a workflow.
"""


def main() -> None:
    """Compare what the command line names.

    Raises:
        SystemExit: With the code of the decision.
    """
    arguments = parser().parse_args()
    try:
        margins = read_margins(arguments.margin)
        decided = decide(pairs(Path(arguments.reference), Path(arguments.candidate)), margins)
        _write(FORMATS[arguments.format](decided), is_summary=arguments.format == "github")
    except (HarnessError, OSError) as reason:
        sys.stderr.write(f"invalid comparison: {reason}\n")
        sys.exit(Decision.INVALID)
    except Exception:  # Python's own exit code for it would say "worse"
        traceback.print_exc()
        sys.exit(Decision.INVALID)
    sys.exit(overall(decided))


def _write(text: str, *, is_summary: bool) -> None:
    """Print a text, and append it to the summary of the job if there is one.

    Raises:
        OSError: The summary cannot be written.
        OutputError: Standard output cannot be written.
    """
    with printing():
        sys.stdout.write(text)
    if is_summary and (summary := os.environ.get(SUMMARY)):
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(text)


class _Parser(argparse.ArgumentParser):
    """A parser that exits with 3: the 2 of argparse would say "cannot tell"."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong."""
        self.print_usage(sys.stderr)
        self.exit(Decision.INVALID, f"invalid comparison: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = _Parser(
        prog=program("harness.compare"),
        description="Compare a run with a reference, or the runs of two folders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"quant-harness {__version__}")
    found.add_argument("reference", help="a record, or a folder of records")
    found.add_argument("candidate", help="a record, or a folder of records")
    found.add_argument("--margin", default="", help=HELP)
    found.add_argument(
        "--format",
        default="text",
        choices=FORMATS,
        help="github: Markdown, also appended to the summary of the job",
    )
    return found


if __name__ == "__main__":
    with redacted_streams():
        main()
