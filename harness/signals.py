"""Ctrl-C and SIGTERM: a stopped run closes its record, and the command says so in one line.

- A first signal raises `Interrupted` in the main thread, so that files are closed on the way out.
- A second signal ends the process at once.

`scancel`, the time limit of a cluster and `docker stop` send SIGTERM. A terminal sends SIGINT to
every process of a command.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)
WORDS = {signal.SIGINT: "interrupted (Ctrl-C)", signal.SIGTERM: "terminated (SIGTERM)"}
POLL_S = 0.2
"""How often a worker checks whether its sweep was stopped [s]."""
_received: list["Interrupted"] = []


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        """Name the signal."""
        super().__init__(WORDS[signal.Signals(signum)])
        self.signum = signum


def describe(reason: KeyboardInterrupt) -> str:
    """Return what stopped a run, in words for a record or a terminal."""
    return str(reason) or WORDS[signal.SIGINT]


def exit_code(reason: KeyboardInterrupt) -> int:
    """Return the exit code of a command that the signal ended, as in a shell: 130 or 143."""
    return 128 + getattr(reason, "signum", signal.SIGINT)


def leave_at_once() -> None:
    """End this process with one line at a signal, until another handler is set.

    Use it during imports, when nothing is open yet.
    """

    def leave(signum: int, _frame: FrameType | None) -> None:
        os.write(2, f"{WORDS[signal.Signals(signum)]}\n".encode())
        os._exit(128 + signum)

    _set_all(leave)


def received() -> Interrupted | None:
    """Return the interrupt if a signal came, else None.

    An interrupted library may raise any error in its place.
    """
    return _received[-1] if _received else None


@contextmanager
def held() -> Iterator[None]:
    """Context manager: hold a signal back until the block ends. Use it around imports.

    An interrupted import may end in any error, or leave half a module. A second signal ends the
    process at once, unless it is a worker.
    """
    came: list[int] = []

    def keep(signum: int, _frame: FrameType | None) -> None:
        if came and before[signal.Signals(signum)] is _interrupt:
            os._exit(128 + signum)
        came.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    _set_all(keep)
    try:
        yield
    finally:
        _restore(before)
        if came:
            os.kill(os.getpid(), came[0])


@contextmanager
def stoppable(advice: str) -> Iterator[None]:
    """Context manager: if a signal stops the block, end this process with a line and an exit code.

    An interrupted extension module may raise any error: after a signal every error counts as the
    interrupt.

    Args:
        advice: What the line says after the signal, such as what to do next.
    """
    try:
        with interrupting():
            yield
    except (Exception, KeyboardInterrupt) as reason:
        interrupt = reason if isinstance(reason, KeyboardInterrupt) else received()
        if interrupt is None:
            raise
        sys.stderr.write(f"{describe(interrupt)}; {advice}\n")
        sys.exit(exit_code(interrupt))
    finally:
        _received.clear()


@contextmanager
def interrupting() -> Iterator[None]:
    """Context manager: raise `Interrupted` in the block at a signal."""
    with _handled(_interrupt):
        yield


@contextmanager
def announced(stop: Callable[[int], None], leave: Callable[[], None]) -> Iterator[None]:
    """Context manager: call a function at a first signal; the block goes on.

    For a block that waits for other processes.

    Args:
        stop: Called with the number of a first signal.
        leave: Called before a second signal ends this process.
    """

    def again(signum: int, _frame: FrameType | None) -> None:
        leave()
        os._exit(128 + signum)

    def first(signum: int, _frame: FrameType | None) -> None:
        _set_all(again)
        stop(signum)

    with _handled(first):
        yield


@contextmanager
def in_worker(stopped: Callable[[], int | None]) -> Iterator[None]:
    """Context manager: SIGTERM, or the end of the sweep, interrupts the block; Ctrl-C does not.

    A terminal sends Ctrl-C to the parent process too, which then stops the sweep. Signals stay
    ignored after the block: a worker that dies between two jobs may take others with it.

    Args:
        stopped: Returns the signal that stopped the whole sweep, or None.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def once(signum: int, _frame: FrameType | None) -> None:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # the record is closed now: ignore further signals
        raise _remembered(stopped() or signum)

    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            if stopped():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        done.set()
        watcher.join()
        _received.clear()


def interrupt(signum: int) -> NoReturn:
    """Raise `Interrupted`, as a signal does; from now on a signal ends this process at once."""
    _set_all(_leave)
    raise _remembered(signum)


def _remembered(signum: int) -> Interrupted:
    _received.append(Interrupted(signum))
    return _received[-1]


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Context manager: processes that the block starts do not receive Ctrl-C.

    This process receives it in a thread that called `receive_here`. Processes inherit the mask of
    signals, not their handlers: hence the mask.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        receive_here()


def receive_here() -> None:
    """Let the calling thread receive Ctrl-C; Python still handles it in the main thread."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    interrupt(signum)


def _leave(signum: int, _frame: FrameType | None) -> None:
    os._exit(128 + signum)


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """Context manager: handle `STOPPING`, except signals that the process ignores (`nohup`)."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # handlers can be set in the main thread only
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    _set_all(handler)
    try:
        yield
    except KeyboardInterrupt:
        raise  # `_leave` stays: a second signal ends the clean-up at once
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(before: Mapping[signal.Signals, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


def _set_all(handler: Handler) -> None:
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
