"""`python -m harness.export`."""

from harness.export.command import main

if __name__ == "__main__":
    main()
