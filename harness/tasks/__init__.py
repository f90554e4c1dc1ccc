"""What is measured: a folder a task, each task a frozen dataclass with `run(engine) -> TaskResult`.

A task asks an engine something and says what the answers mean. It knows nothing of quantization: no
task imports a recipe, a format or a backend. How a model runs is the business of
`harness.engines`.

`base` has the protocols. Tasks on text share three modules: `windows` cuts a text into windows of
tokens, `segments` are the requests of perplexity protocols, and `degenerate` warns of scores that
say nothing of a model.
"""
