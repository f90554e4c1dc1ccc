"""The core works without lm-eval, matplotlib and gguf, and their features say what to install."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from harness import extras
from harness.errors import ConfigError

WITHOUT = """
import json, sys
for package in ("lm_eval", "matplotlib", "gguf"):
    sys.modules[package] = None  # an import of it is an ImportError

import harness
from harness.errors import ConfigError
from harness.tensor import __main__ as tensor

def said(call):
    try:
        call()
    except ConfigError as reason:
        return str(reason)

data = ("model=tiny", "data=embedded", "device=cpu")
record = harness.run(*data, "task=perplexity", "task.window=64", "task.limit_windows=2")
sys.argv = ["tensor", "plot", "--format", "mxfp4", "--out", "plots"]
found = {
    "core": record.status,
    "lmeval": said(lambda: harness.run(*data, "task=lm_eval", "task.tasks=[wikitext]")),
    "gguf": said(lambda: harness.run("model=gguf", "model.path=m.gguf", *data[1:])),
}
print(json.dumps(found))
sys.stdout.flush()
tensor.main()
"""


def test_core_runs_without_the_extras_and_each_feature_names_its_own(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found.pop("core") == "ok"
    found["plots"] = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    for extra, by in (
        ("lmeval", "task=lm_eval"),
        ("gguf", "a GGUF file"),
        ("plots", "tensor plot"),
    ):
        assert found[extra].startswith(f"{by} ")
        assert found[extra].endswith(f"; pip install 'llm-quant-harness[{extra}]'")


def test_a_package_that_is_too_old_is_named() -> None:
    with pytest.raises(ConfigError) as caught, extras.needed("plots", by="task=x"):
        from harness.stats import nothing  # type: ignore[attr-defined]  # noqa: F401
    assert str(caught.value).startswith(
        "task=x must find the packages of the extra plots, got: cannot import name 'nothing' from "
    )
