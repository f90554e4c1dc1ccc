"""`python -m harness`."""

from harness.cli import main
from harness.redacted_output import redacted_streams

if __name__ == "__main__":
    with redacted_streams():
        main()
