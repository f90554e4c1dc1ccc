"""The choice of the device: what was asked for, or an error; and its lock."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock, Timeout

from harness.errors import ConfigError
from harness.machine import devices


def pretend(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert devices.choose("auto") == torch.device("cpu")


def test_auto_is_the_first_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert devices.choose("auto") == torch.device("cuda", 0)


def test_cpu_is_one_device_whatever_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert devices.choose("cpu") == devices.choose("cpu:0") == torch.device("cpu")


def test_cuda_has_an_index_in_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert devices.choose("cuda") == torch.device("cuda", 0)
    assert devices.choose("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_gpu_that_is_not_there_is_refused(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, count)
    message = f"one of the {count} CUDA devices of this machine, got '{name}'.*device=cpu"
    with pytest.raises(ConfigError, match=message):
        devices.choose(name)


def test_names_of_no_supported_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    names = ("", "gpu", "CUDA", "Auto", "3", "cuda:", "cuda:-1", "cuda:x", "mps", "meta", "xpu")
    for name in names:
        message = f"device must be auto, cpu, cuda or cuda:N, got {name!r}"
        with pytest.raises(ConfigError, match=message):
            devices.choose(name)


def test_jobs_beside_one_another_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert [devices.of_job(n) for n in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    pretend(monkeypatch, 0)
    assert devices.of_job(3) == "cpu"


def test_gpus_that_a_launcher_hides_are_not_replaced_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "GPUS", tmp_path / "none")
    assert devices.of_job(0) == "cpu", "there are none to hide"
    monkeypatch.setattr(devices, "GPUS", tmp_path)
    with pytest.raises(ConfigError, match="must be the number of GPUs of a job"):
        devices.of_job(0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.of_job(0) == "cpu", "nobody hid them; torch has no CUDA"


def test_timed_runs_wait_for_those_on_the_same_gpu_whatever_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids = {0: "aa-0", 1: "bb-1"}
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(uuid=uuids[device.index]),
    )
    monkeypatch.setattr(devices, "LOCKS", tmp_path)

    def is_free(device: torch.device) -> bool:
        with devices.exclusive(device):  # one at a time: this makes the files
            pass
        return True

    zero, one = torch.device("cuda", 0), torch.device("cuda", 1)
    assert is_free(zero)
    assert is_free(one)
    locks = sorted(file.name for file in tmp_path.glob("*.lock"))
    assert locks == ["quant-harness-GPU-aa-0.lock", "quant-harness-GPU-bb-1.lock"]
    with devices.exclusive(zero):
        assert is_free(one), "another GPU"
        with pytest.raises(Timeout):
            FileLock(tmp_path / locks[0]).acquire(timeout=0)
        # A process that sees the second GPU alone calls it cuda:0 too.
        uuids[0] = uuids[1]
        assert is_free(zero)
