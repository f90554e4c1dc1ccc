"""`python -m harness`, the same as `quant-harness run`."""

from harness import signals

if __name__ == "__main__":
    signals.leave_at_once()  # the imports below take a while

from harness.cli.run import main
from harness.output.redacted_streams import redacted_streams

if __name__ == "__main__":
    with redacted_streams():
        main()
