"""The jobs of one command, run by whatever launcher of Hydra: rows, lines and exit code do not depend on it.

`python -m harness -m` runs its jobs one after another in its own process (`basic`), or in other processes: on this machine (`joblib`,
`submitit_local`) or on a cluster (`submitit_slurm`, `ray`). A job is sent as a `Job` (`job`), a value that holds what it must know, and
comes back as a `JobResult`. Nothing is shared by globals: another process has its own. Jobs also say what they do in files (`journal`), which
`watch` reads while a launcher runs; `gather` launches them and has a row for each.
"""
