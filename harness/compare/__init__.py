"""Compare two runs, or two folders of runs, and say it with an exit code: a gate for CI.

`read` reads the runs, and `pairs` finds which are compared. `gate` decides, `words` writes the
result, and `__main__` is the command.
"""
