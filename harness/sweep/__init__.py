"""The jobs of one command under any launcher of Hydra: the same rows, lines and exit code.

`python -m harness -m` runs its jobs one after another in its own process (`basic`), or in other
processes: on this machine (`joblib`, `submitit_local`) or on a cluster (`submitit_slurm`, `ray`).

A job is sent as a `Job` (`job`) and returns a `JobResult`. The `Job` carries everything that it
needs, because another process does not share the globals of this one. Each job also writes its
start and its result to files (`journal`). While a launcher runs, `watch` reads these files.
`gather` launches the jobs and keeps a row for each.
"""
