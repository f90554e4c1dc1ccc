"""Provenance: what a run was made with, read from the machine itself."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from repository import ROOT

from harness import __version__
from harness.machine import provenance
from harness.results.record import Provenance

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What a process looks up once must not outlive a test."""
    caches = (provenance._git, provenance._packages, provenance._cpuinfo)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which the harness takes for its own."""
    package = tmp_path / "harness" / "machine"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path


def test_provenance_says_what_this_process_runs_on() -> None:
    found = provenance.collect({"task.seed": 7}, CPU)
    assert found.python == platform.python_version()
    assert found.packages["torch"] == version("torch")
    assert found.packages["transformers"] == version("transformers")
    assert found.threads == torch.get_num_threads()
    assert found.seeds == {"task.seed": 7}
    assert found.cpu
    assert (found.gpu, found.cuda) == (None, None)
    assert Provenance.model_validate_json(found.model_dump_json()) == found


def test_what_multiplied_is_on_file_where_it_is_installed() -> None:
    found = provenance.collect({}, CPU).packages
    for name in ("torchao", "bitsandbytes", "compressed-tensors", "accelerate", "triton", "vllm"):
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = None
        assert found.get(name) == installed


def test_machine_and_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "node-7")
    assert provenance.collect({}, CPU).host == "node-7"
    assert provenance.collect({}, CPU).gpu_uuid is None
    properties = SimpleNamespace(uuid="1b2c")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    monkeypatch.setattr(provenance, "settings", lambda device: {})
    found = provenance.collect({}, torch.device("cuda:1"))
    assert (found.gpu, found.gpu_uuid) == ("H200", "GPU-1b2c")
    monkeypatch.setattr(platform, "node", lambda: "")  # a system without a name
    assert provenance.collect({}, CPU).host is None


def test_flags_of_torch_are_those_in_force() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "highest"):
            torch.set_float32_matmul_precision(precision)
            flags = provenance.collect({}, CPU).torch_flags
            assert flags["float32_matmul_precision"] == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_attention_kernels_that_are_switched_off_are_not_listed() -> None:
    assert "flash" in provenance.collect({}, CPU).torch_flags["sdpa_kernels"].split(",")
    torch.backends.cuda.enable_flash_sdp(enabled=False)
    try:
        assert "flash" not in provenance.collect({}, CPU).torch_flags["sdpa_kernels"].split(",")
    finally:
        torch.backends.cuda.enable_flash_sdp(enabled=True)


def test_cpu_flags_are_a_part_of_those_of_the_machine() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("needs /proc/cpuinfo")
    words = set(cpuinfo.read_text().split())
    found = provenance.collect({}, CPU).cpu_flags
    assert set(found) == words & set(provenance.CPU_FLAGS)


def test_machine_without_cpuinfo_still_has_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> str:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert (provenance._cpuinfo("model name"), provenance._cpuinfo("flags")) == ("", "")
    found = provenance.collect({}, CPU)  # which remembers what was just looked up
    assert found.cpu
    assert found.cpu_flags == ()


def test_the_checkout_is_the_one_that_holds_the_source() -> None:
    if (ROOT / ".git").exists():
        assert provenance._git()[0] == git(ROOT, "rev-parse", "HEAD")


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    assert provenance._git() == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("change", ["harness/machine/provenance.py", "harness/new.py", "conf.yaml"])
def test_changed_or_new_file_makes_a_checkout_dirty(change: str, checkout: Path) -> None:
    (checkout / change).write_text("changed")
    assert provenance._git() == (git(checkout, "rev-parse", "HEAD"), True)


@pytest.mark.parametrize("change", ["results/a.json", "reports/b.md", "harness/c.tmp"])
def test_results_reports_and_ignored_files_do_not(change: str, checkout: Path) -> None:
    (checkout / change).parent.mkdir(exist_ok=True)
    (checkout / change).write_text("new")
    assert provenance._git()[1] is False


def test_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "harness" / "machine" / "provenance.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance._git() == (None, None)


def test_machine_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert provenance._git() == (None, None)


def test_broken_repository_has_no_commit(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert provenance._git() == (None, None)


def test_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-anywhere"))
    found = provenance.collect({}, CPU).packages
    assert found == {"quant-harness": __version__, "numpy": version("numpy")}


def test_command_is_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["/x/bin/python3", "-m", "harness", "-m", "quant=none,int8_row", "task.subjects=[a, b]"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    expected = "python -m harness -m quant=none,int8_row 'task.subjects=[a, b]'"
    assert provenance.command_line() == expected


def test_nothing_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ThisIsASecret")
    found = json.dumps(provenance.collect({}, CPU).model_dump(mode="json"))
    assert "ThisIsASecret" not in found
