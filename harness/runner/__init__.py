"""One run, from a specification to a record on file. Others call `run.run` with a `spec.RunSpec`.

`spec` builds the parts that a configuration names. `run` finds the record of an identical run (`on_file`), or opens one, loads,
quantizes, measures, and closes it. `checks` holds everything that says no to a run, in the order in which it is tried.
`foreign_code` identifies classes of a user's own, which have no version.
"""
