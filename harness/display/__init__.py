"""What a terminal or a plot shows.

`progress` draws the bar of a long loop, `summary` prints the table after a sweep, `labels` places
texts beside the points of a plot.
"""
