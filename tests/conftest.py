"""Fixtures: a tiny model, data that is always there, and a command line in a child process."""

import os

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # workers share the cores; torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import WarmChildren, run_cold, run_warm

from harness.data.embedded import EmbeddedData
from harness.export import verify
from harness.machine import devices, peaks
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel

pytest.register_assert_rewrite("quantized_folders", "runs")  # they check for several test files

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _locks_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests from waiting for a timed run of this machine."""
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(autouse=True)
def _warm_children(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let the children that exports and timed runs start be forks, which import nothing; marker `cold` starts real ones."""
    if request.node.get_closest_marker("cold") is None:
        for module in (verify, peaks):
            monkeypatch.setattr(module, "subprocess", WarmChildren())


@pytest.fixture(scope="session")
def _tiny() -> LoadedModel:
    return TinyModel().load(CPU)


@pytest.fixture
def tiny(_tiny: LoadedModel) -> Iterator[LoadedModel]:
    """The tiny model with its float weights; whatever a test swaps in is taken out again."""
    yield _tiny
    _tiny.restore()


@pytest.fixture(scope="session")
def exact_int_mm() -> None:
    """Skip a test where this processor adds pairs of 8-bit products in 16 bits, which saturate.

    Backends refuse INT8 inputs there, and multiply INT8 weights in float: tests that stand in for such a processor run everywhere.
    """
    codes = torch.full((64, 64), 127, dtype=torch.int8)
    if int(torch._int_mm(codes, codes)[0, 0]) != 64 * 127 * 127:
        pytest.skip("torch._int_mm is not exact on this processor")


@pytest.fixture
def embedded() -> EmbeddedData:
    return EmbeddedData()


@pytest.fixture
def hub_root() -> Path:
    """The folder with the real WikiText-2 and MMLU, or a skip."""
    root = os.environ.get("HARNESS_DATA")
    if not root or not Path(root, "cais/mmlu").is_dir():
        pytest.skip("needs HARNESS_DATA with Salesforce/wikitext and cais/mmlu")
    return Path(root)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child: no network, no color, quiet tokenizers."""
    offline = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    return os.environ | offline | changes


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `python -m harness ARGUMENTS` in a process of its own and a fresh folder; `cold` imports all libraries anew."""

    def call(
        *arguments: str, module: str = "harness", timeout: float = 120, cold: bool = False
    ) -> subprocess.CompletedProcess[str]:
        run = run_cold if cold else run_warm
        return run(module, arguments, tmp_path, environment(), timeout)

    return call


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user that root's rights do not help; the test runs as that user."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    is_root = os.geteuid() == 0
    nobody = 65534
    if is_root:
        os.chown(folder, nobody, nobody)
        os.setegid(nobody)
        os.seteuid(nobody)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        for made in [folder, *folder.rglob("*")]:
            if made.is_dir() and not made.is_symlink():
                made.chmod(0o700)
        shutil.rmtree(folder)
