"""Ctrl-C and SIGTERM: one line, the exit code of shells, and closed files."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness import signals
from harness.signals import Interrupted

BOTH = pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    yield
    signals._received.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def in_child(act: Callable[[], object]) -> int:
    """Run a function in a fork; return its exit code, or minus the signal that ended it."""
    if (child := os.fork()) == 0:
        try:
            act()
        except SystemExit as leave:
            os._exit(int(leave.code or 0))
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(5)  # which the signal ends


@BOTH
def test_block_is_left_through_its_clean_up_and_says_one_line(
    signum: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = []

    def act() -> None:
        with signals.stoppable("files are closed"):
            try:
                send(signum)
            finally:
                closed.append(True)

    with pytest.raises(SystemExit) as caught:
        act()
    assert caught.value.code == code
    assert closed == [True]
    assert capsys.readouterr().err == f"{signals.WORDS[signal.Signals(signum)]}; files are closed\n"


@BOTH
def test_second_signal_ends_the_process_at_once(signum: int, code: int) -> None:
    def act() -> None:
        with signals.stoppable("never said"):
            try:
                send(signal.SIGINT)
            finally:
                send(signum)

    began = time.monotonic()
    assert in_child(act) == code
    assert time.monotonic() - began < 4


@BOTH
def test_signal_during_the_imports_of_a_command_ends_it(
    signum: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        signals.leave_at_once()
        send(signum)

    assert in_child(act) == code
    assert capfd.readouterr().err == f"{signals.WORDS[signal.Signals(signum)]}\n"


@BOTH
def test_signal_that_a_process_was_started_to_ignore_stays_ignored(signum: int, code: int) -> None:
    signal.signal(signum, signal.SIG_IGN)
    with signals.stoppable("never said"):
        os.kill(os.getpid(), signum)
    with signals.announced(pytest.fail, pytest.fail):
        os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) is signal.SIG_IGN
    assert code


def test_handlers_are_back_behind_a_block_that_ended_well_or_with_an_error() -> None:
    before = [signal.getsignal(number) for number in signals.STOPPING]
    with signals.stoppable(""):
        assert [signal.getsignal(number) for number in signals.STOPPING] != before
    with pytest.raises(KeyError), signals.stoppable(""):
        raise KeyError
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


def test_keyboard_interrupt_of_python_itself_is_ctrl_c() -> None:
    assert signals.describe(KeyboardInterrupt()) == signals.describe(Interrupted(signal.SIGINT))
    assert signals.exit_code(KeyboardInterrupt()) == 130


def test_imports_are_not_broken_off_and_the_signal_comes_behind_them() -> None:
    done = []

    def act() -> None:
        with signals.stoppable(""):
            with signals.held():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("import")
            done.append("more")

    with pytest.raises(SystemExit) as caught:
        act()
    assert caught.value.code == 143
    assert done == ["import"]


@BOTH
def test_any_error_after_a_signal_is_the_signal(
    signum: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        with signals.stoppable("files are closed"):
            try:
                send(signum)
            except KeyboardInterrupt:
                raise ImportError from None  # as numpy does where its C code is interrupted

    with pytest.raises(SystemExit) as caught:
        act()
    assert caught.value.code == code
    assert capsys.readouterr().err == f"{signals.WORDS[signal.Signals(signum)]}; files are closed\n"


def test_second_signal_during_imports_ends_a_command_and_no_worker() -> None:
    def twice() -> None:
        with signals.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os.write(writes, b"imported")

    def command() -> None:
        with signals.stoppable(""):
            twice()

    def worker() -> None:
        with contextlib.suppress(Interrupted), signals.in_worker(lambda: None):
            twice()
        os._exit(7)

    reads, writes = os.pipe()
    assert in_child(command) == 143
    assert in_child(worker) == 7
    assert os.read(reads, 99) == b"imported"


def test_error_that_a_broken_off_library_raises_is_known_to_be_the_signal() -> None:
    def act() -> None:
        with signals.stoppable(""):
            assert signals.received() is None
            try:
                send(signal.SIGTERM)
            except KeyboardInterrupt:
                reason = signals.received()
                assert reason is not None
                raise reason from RuntimeError("half a module")

    with pytest.raises(SystemExit) as caught:
        act()
    assert caught.value.code == 143


def test_announced_signal_does_not_interrupt_and_a_second_one_ends_all() -> None:
    def act() -> None:
        told: list[int] = []
        with signals.announced(told.append, lambda: os.write(writes, b"left")):
            os.kill(os.getpid(), signal.SIGTERM)
            assert told == [signal.SIGTERM]
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(1)

    reads, writes = os.pipe()
    assert in_child(act) == 130
    assert os.read(reads, 9) == b"left"


def test_worker_heeds_sigterm_once_and_never_ctrl_c() -> None:
    def act() -> None:
        try:
            with signals.in_worker(lambda: None):
                os.kill(os.getpid(), signal.SIGINT)
                try:
                    send(signal.SIGTERM)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)  # while the record is being closed
        except Interrupted as reason:
            os.kill(os.getpid(), signal.SIGTERM)  # between two jobs
            os._exit(reason.signum)

    assert in_child(act) == signal.SIGTERM


def test_worker_is_interrupted_by_the_stop_of_its_sweep() -> None:
    def act() -> None:
        asked = iter([None, None])
        try:
            with signals.in_worker(lambda: next(asked, signal.SIGINT)):
                time.sleep(10)
        except Interrupted as reason:
            os._exit(reason.signum)

    assert in_child(act) == signal.SIGINT


def test_thread_that_can_set_no_handlers_runs_the_block() -> None:
    ran = []

    def act() -> None:
        with signals.stoppable(""), signals.in_worker(lambda: None):
            ran.append(True)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert ran == [True]


def test_ctrl_c_is_kept_from_what_the_block_starts_and_reaches_a_thread_here() -> None:
    told: list[int] = []
    ready, done = threading.Event(), threading.Event()

    def receive() -> None:
        signals.receive_here()
        ready.set()
        done.wait(10)

    with signals.announced(told.append, pytest.fail), signals.kept_from_children():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
        child_mask = in_child(
            lambda: os._exit(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))
        )
        assert child_mask == 1, "children inherit the mask"
        thread = threading.Thread(target=receive)
        thread.start()
        ready.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        done.set()
        thread.join()
    assert told == [signal.SIGINT]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
