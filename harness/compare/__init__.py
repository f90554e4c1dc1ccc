"""Compare two runs, or two folders of runs, and say it with an exit code: a gate for CI.

`pairs` finds the runs that are compared. `gate` decides, `words` writes the result, and `__main__`
is the command.
"""
