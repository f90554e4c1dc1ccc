"""How a model answers: an engine runs a model, and knows no data set and no metric.

    requests    what a task asks, and what an engine answers
    base        the base class of engines
    source      the protocol of the options of `engine=`
    timed       a model that a task can time; `paired` two forms of a recipe that it can compare
    tree        finds the tokens that requests share
    local/      the engine that runs a model in this process
    vllm/       the engine that lets vLLM run a checkpoint folder
    lm_eval     a client: lm-eval asks any engine

The tasks (`harness.tasks`) decide what is asked and what the answers mean. They pass token ids in
and never see an attention mask, a cache or a batch layout. An engine imports models, and nothing
of tasks, recipes or backends. A library that only one engine needs is imported in that engine's
own files.
"""
