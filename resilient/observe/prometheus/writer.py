"""A thread that repeats some work, and that neither a fork nor the end of the process interrupts.

The work is the writing of files of prometheus-client, whose lock is not renewed in a forked child: after a fork during
a writing, the child could never write. So the thread ends before each fork, and a new one starts after it, in the
parent and in the child. At the end of a process the work is done once more. A fork, or the end of the process, waits
for the thread for a second at most.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable

from resilient._atomic import Wake

__all__ = ["PATIENCE", "Writer"]

PATIENCE = 1.0
"""Seconds for which a fork, and the end of a process, wait for the thread."""

_log = logging.getLogger("resilient")


class Writer:
    """Calls `write` every `interval` seconds in a thread of its own, and `close` at the end.

    It has one thread in each process: the one in which `start` is called, and those that are forked from it until `end`
    is called.

    Args:
        write: it must not raise.
        close: called in a process when it ends or when `end` is called; from the thread, unless there is none. It must
            not raise.
        interval: seconds.
    """

    def __init__(self, write: Callable[[], None], close: Callable[[], None], interval: float) -> None:
        self._write = write
        self._close = close
        self._interval = interval
        self._thread: _Thread | None = None
        self._pauses = 0  # forks in progress, in any thread
        self.cancel_exit: Callable[[], object] | None = None
        """Cancels the call of `end` at the end of a process of multiprocessing."""
        _end_at_exit_of_multiprocessing_children(self)

    def start(self) -> None:
        """Start the thread. A writer that has ended can be started again."""
        _running.add(self)
        _install()
        _end_at_exit_of_multiprocessing(self)
        self._pauses = 0
        self._start_thread()

    def end(self) -> None:
        """Stop the thread, after a last call of `close`. A second call has no effect."""
        if self not in _running:
            return
        _running.discard(self)
        if self.cancel_exit is not None:
            self.cancel_exit()  # it refers to this object
            self.cancel_exit = None
        thread, self._thread = self._thread, None
        if thread is None:
            self._close()
        else:
            thread.end(self._close)

    def pause(self) -> None:
        """Stop the thread until `resume` is called as often as `pause`."""
        self._pauses += 1
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    def resume(self) -> None:
        """Start a thread again, after `pause`."""
        self._pauses = max(0, self._pauses - 1)  # 0 if it was started meanwhile
        if not self._pauses and self._thread is None:
            self._start_thread()

    def renew(self) -> None:
        """In a forked child: start a thread."""
        self._pauses = 0
        self._start_thread()

    def _start_thread(self) -> None:
        thread = _Thread(self._write, self._interval)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            _log.error("resilient.observe.prometheus: no thread can be started: only flush() writes now (%s)", error)
        else:
            self._thread = thread


class _Thread(threading.Thread):
    def __init__(self, write: Callable[[], None], interval: float) -> None:
        super().__init__(name="resilient-prometheus", daemon=True)
        self._write = write
        self._interval = interval
        self._wake = Wake()
        self._is_ending = False
        self._last: Callable[[], None] | None = None

    def run(self) -> None:
        while True:
            self._wake.wait(self._interval)
            if self._is_ending:
                break
            self._write()
        if self._last is not None:
            self._last()

    def end(self, last: Callable[[], None] | None = None) -> None:
        """Let the thread call `last` and end, and wait for that for a second at most."""
        self._last = last
        self._is_ending = True
        self._wake.set()
        if self is not threading.current_thread():
            self.join(PATIENCE)


_running: set[Writer] = set()
"""Writers with a thread."""

_is_installed = False


def _install() -> None:
    """Let forks and the end of the process call this module, once."""
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    atexit.register(_end_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _end_all() -> None:
    for writer in list(_running):
        writer.end()


def _before_fork() -> None:
    for writer in list(_running):
        writer.pause()


def _after_fork() -> None:
    for writer in list(_running):
        writer.resume()


def _in_child() -> None:
    for writer in list(_running):
        writer.renew()


def _end_at_exit_of_multiprocessing(writer: Writer) -> None:
    """Let multiprocessing end the writer at the end of this process, if it is a child of multiprocessing. Such a child
    may end by `os._exit`, without `atexit`."""
    from multiprocessing import util  # only this mode needs it

    writer.cancel_exit = util.Finalize(None, writer.end, exitpriority=0).cancel


def _end_at_exit_of_multiprocessing_children(writer: Writer) -> None:
    """The same in each child that multiprocessing forks from now on, which drops the finalizers of its parent."""
    from multiprocessing import util

    util.register_after_fork(writer, _end_at_exit_of_multiprocessing)
