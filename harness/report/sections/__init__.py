"""The parts of a report, one table a file."""
