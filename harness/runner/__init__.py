"""One run, from a specification to a record on file. Others call `run.run` with a `spec.RunSpec`.

`spec` builds the parts that a configuration names. `run` finds the record of an identical run
(`on_file`), or opens a record, loads, quantizes, measures, and closes it. `checks` says in order
why a run cannot be made. `loading` loads the model of a run. `foreign_code` hashes the source of a
user's own classes.

`planned` says before a run what it will be able to show, and plans a run that is not made;
`probe` finds out how long it would take.
"""
