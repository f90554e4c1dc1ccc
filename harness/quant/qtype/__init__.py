"""qtype."""
