"""Run the jobs of one command under any launcher of Hydra, with the same rows, lines and exit code.

`python -m harness -m` runs its jobs one after another in its own process (`basic`), or in other processes: on this machine (`joblib`,
`submitit_local`) or on a cluster (`submitit_slurm`, `ray`). A job is sent as a `Job` (`job`) and returns a `JobResult`. The `Job` carries
all that it needs, because another process does not share the globals of this one. Jobs also write their start and their result to
files (`journal`), which `watch` reads while a launcher runs. `gather` launches the jobs and keeps a row for each.
"""
