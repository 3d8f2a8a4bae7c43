"""A round with Ray in a process of its own: where the head of a cluster begins anew, Ray's core ends the process that
it is in, and what is said then must be a sentence.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable

from kparity.errors import KparityError, Refused
from kparity.host.streams import log as say

FATAL = re.compile(rb" C \d+ \d+\] [^\n]*?(?:Status not OK: |: +)([^\n]*)")
"""A line of Ray's core before it ends its process."""


def apart(work: Callable[[], int]) -> int:
    """The exit code of ``work``, in a child of this process; raises Refused where the child was ended."""
    with tempfile.TemporaryFile() as told:
        reads, writes = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.setpgid(0, 0)  # a terminal's Ctrl-C comes once, from the parent
            os.close(reads)
            _inside(work, told.fileno(), writes)
        os.close(writes)
        try:
            status = os.waitpid(child, 0)[1]
        except BaseException:
            os.kill(child, signal.SIGINT)
            os.waitpid(child, 0)
            raise
        with os.fdopen(reads, "rb") as pipe:
            whole = pipe.read()
        if whole:
            return os.waitstatus_to_exitcode(status)
        told.seek(0)
        found = FATAL.findall(told.read())
        why = f" ({found[-1].decode(errors='replace')[:200].strip()})" if found else ""
        raise Refused(
            f"Ray ended the round: the head of the cluster is gone, or began anew{why}; what came in is in the ledger: "
            "have the cluster up again, and --resume"
        )


def _inside(work: Callable[[], int], told: int, writes: int) -> None:
    """The child: what Ray's core writes goes to ``told``, what Python writes to where it went."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(told, 2)
    try:
        code = work()
    except KparityError as error:
        say(f"kparity: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(writes, b".")
    os._exit(code)
