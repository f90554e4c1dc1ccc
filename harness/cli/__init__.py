"""The command line `python -m harness`: words in, one `RunSpec` a job.

`arguments` puts a line into Hydra's spelling, with `path_overrides` for paths and `syntax` for
mistakes in one word. `run` composes it and runs the job or the sweep. `recipe_name` names a recipe
that was changed, `explain` explains Hydra's errors (`hydra_messages`), `hydra_files` masks secrets.

`keys` and `field_docs` answer `--help task=mmlu`. `spelling` and `plain_logging` serve
`harness.run`, which takes the same words from Python.
"""
