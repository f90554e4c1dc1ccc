"""Text and question sets: where they come from, and what makes them the same set."""
