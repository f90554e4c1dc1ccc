"""How a model answers: an engine runs a model, and knows no data set and no metric.

`tree` finds the tokens that requests share.
`local/` runs a model in this process: token ids in, hidden states, float32 logits or tokens out.
`vllm/` hands a checkpoint folder to vLLM: token ids in, greedy tokens and time stamps out.
`base` is the protocol of both. `requests` has what a task asks, and `timed` what it can time.

The tasks (`harness.tasks`) decide what is asked and what the answers mean. They pass token ids in
and never see an attention mask, a cache or a batch layout. An engine imports models, and nothing
of tasks, recipes or backends. A library that only one engine needs is imported in that engine's
own files.
"""
