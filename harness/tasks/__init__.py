"""What is measured: a folder a task, each task a frozen dataclass with `run(engine) -> TaskResult`.

A task asks an engine and says what the answers mean. It knows token ids and samples; engines
(`harness.engines`) know how a model runs. No task imports a recipe or a backend, and only `matmul`,
which measures formats without a model, imports formats.

`base` has the protocols. Several tasks share these modules: `windows` cuts a text into windows of
tokens, `segments` has the requests of perplexity protocols, `chat` writes prompts as conversations,
and `degenerate` warns of scores that say nothing about a model.
"""
