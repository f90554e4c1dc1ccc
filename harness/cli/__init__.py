"""The command line `python -m harness`: words in, one `RunSpec` a job.

`arguments`, `syntax` and `path_overrides` put what was typed into Hydra's spelling; `run` composes and runs it; `explain` answers
mistakes with the legal words; `recipe_name` says what was changed in a recipe; `hydra_files` masks secrets in Hydra's files.
"""
