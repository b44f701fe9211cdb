"""What ties a process to the one that has started it, so that none is left where that one is killed."""

import ctypes
import os
import signal
import sys

PARENT = "DPO_LAUNCHED_BY"
"""Holds the number of the process that starts others, in the environment of these."""

PR_SET_PDEATHSIG = 1  # of prctl(2)


def of_this_process() -> dict[str, str]:
    """Give the variable by which processes know that this one has started them."""
    return {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Be sent SIGTERM when the `dpo train` that has started this process ends; on Linux which has a call for it."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit() or sys.platform != "linux":
        return
    if os.getppid() == int(parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    try:
        os.kill(int(parent), 0)  # sends nothing
    except ProcessLookupError:  # it has ended in the meantime
        os.kill(os.getpid(), signal.SIGTERM)
    except PermissionError:  # it is there, under another user
        pass
