"""What may happen to a long run from outside: a signal that asks it to stop, a disk that fills up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from chorus_common.runtime.errors import is_full_disk


class StopRequest:
    """Whether a signal has asked the run to end."""

    def __init__(self) -> None:
        self.made = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Ctrl-C and SIGTERM only make the request, so that the run can end after its current step with its state saved; a
    second signal ends it at once. Outside the main thread, where signals cannot be caught, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def stop(number: int, frame: object) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def survive_full_disk(say: Callable[[str], None], what: str) -> Iterator[None]:
    """Turn a full disk into a warning that says `what` it cost: files are replaced whole, and the next attempt may find
    space.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        say(f"warning: disk full, {what}. Free some space")
