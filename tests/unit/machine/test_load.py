"""Load by others, from tables like those of /proc/stat."""

import os
from pathlib import Path

import pytest
import torch

from harness.machine import load as busy
from harness.machine import nvml
from harness.machine.load import LoadWatch

CPU = torch.device("cpu")


class Stat:
    """A /proc/stat of three processors; this process may run on the first two. A tick is 10 ms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [[1000, 0, 500, 9000, 100, 0, 10, 5, 0, 0] for _ in range(3)]
        self.own_s = 3.0
        self.write()

    def write(self) -> None:
        lines = [f"cpu{i} " + " ".join(map(str, row)) for i, row in enumerate(self.rows)]
        self.path.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8", *lines, "ctxt 12"]))

    def spend(self, cpu: int, *, user: int = 0, idle: int = 0, steal: int = 0) -> None:
        row = self.rows[cpu]
        row[0], row[3], row[7] = row[0] + user, row[3] + idle, row[7] + steal
        self.write()


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stat:
    made = Stat(tmp_path / "stat")
    monkeypatch.setattr(busy, "STAT", made.path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(busy, "_own_s", lambda: made.own_s)
    return made


def test_what_this_process_uses_is_no_load(stat: Stat) -> None:
    watch = LoadWatch(CPU)
    stat.spend(0, user=1000)
    stat.spend(1, idle=1000)
    stat.own_s += 10.0
    load = watch.load()
    assert load is not None
    assert load.others == pytest.approx(0)
    assert watch.warnings() == []


def test_what_others_use_of_our_processors_is(stat: Stat) -> None:
    watch = LoadWatch(CPU)
    stat.spend(0, user=1000)
    stat.spend(1, user=200, idle=800)
    stat.own_s += 10.0
    load = watch.load()
    assert load is not None
    assert load.others == pytest.approx(0.1)  # 2 s of 20 s
    assert "other processes took 10%" in watch.warnings()[0]


def test_other_processors_do_not_count(stat: Stat) -> None:
    watch = LoadWatch(CPU)
    stat.spend(0, idle=1000)
    stat.spend(1, idle=1000)
    stat.spend(2, user=1000)
    assert watch.warnings() == []


def test_time_of_other_virtual_machines_is_told_apart(stat: Stat) -> None:
    watch = LoadWatch(CPU)
    stat.spend(0, idle=900, steal=100)
    stat.spend(1, idle=900, steal=100)
    load = watch.load()
    assert load is not None
    assert load.steal == pytest.approx(0.1)
    assert load.others == pytest.approx(0)
    assert "other virtual machines 10%" in watch.warnings()[0]


def test_a_system_that_does_not_tell_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy, "STAT", tmp_path / "absent")
    watch = LoadWatch(CPU)
    assert watch.load() is None
    assert "does not report it" in watch.warnings()[0]


def test_a_loop_of_our_own_is_seen_as_ours() -> None:
    if not busy.STAT.exists():
        pytest.skip("needs /proc/stat")
    watch = LoadWatch(CPU)
    x = torch.ones(256, 256)
    for _ in range(200):
        x @ x
    load = watch.load()
    assert load is None or (0 <= load.others <= 1 and 0 <= load.steal <= 1)


def test_other_processes_on_the_gpu_are_counted(
    stat: Stat, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shared:
        def num_processes(self) -> int:
            return 3

    monkeypatch.setattr(nvml.Gpu, "find", lambda device: Shared())
    watch = LoadWatch(torch.device("cuda", 0))
    stat.spend(0, idle=100)
    assert watch.warnings() == ["2 other processes compute on the GPU; repeat it on an idle one"]
