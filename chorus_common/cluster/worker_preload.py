"""What every local worker process imports as it starts: Ctrl-C goes to the whole process group, and the client alone
answers it, in one line; workers that printed tracebacks of their own would bury it. They end with the client.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by dask in the worker's main thread, after its event loop has set handlers of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
