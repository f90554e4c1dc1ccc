"""The command line `python -m harness`: words in, one `RunSpec` a job.

`arguments` puts a line into Hydra's spelling: `path_overrides` quotes paths, `old_words` renames
keys of earlier versions, and `syntax` checks each word. `run` composes the configuration and runs
the job or the sweep. `recipe_name` names a recipe that was changed, `explain` explains Hydra's
errors (with `hydra_messages`), and `hydra_files` masks secrets.

`keys` and `field_docs` answer `--help task=mmlu`. `spelling` and `plain_logging` serve
`harness.run`, which takes the same words from Python.
"""
