"""What is measured: a folder a task, each a frozen dataclass with `run(loaded) -> TaskResult`. No task knows a recipe.

`base` has the protocols. `windows` cuts text into windows of tokens, `segments` scores them, `baselines` says what a task
compares with, and `degenerate` warns of data that no number should be trusted on.
"""
