"""What a terminal or a plot shows: `progress` of a loop, the `summary` of a sweep, `labels` beside points."""
