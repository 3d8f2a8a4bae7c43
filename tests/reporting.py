"""The program of the children in tests of ``kparity.processes``: does what its request says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Report the lines, wait, close the pipe, wait, and end with the code; before, start a process that sleeps."""
    request = json.load(sys.stdin)
    print("vendor library: hello", flush=True)
    os.set_inheritable(request["pipe"], False)
    with os.fdopen(request["pipe"], "w") as out:
        if "sleeper" in request:
            request["lines"].append(str(subprocess.Popen(["sleep", "600"]).pid))
        out.write("".join(line + "\n" for line in request["lines"]) + request.get("rest", ""))
        out.flush()
        time.sleep(request.get("before_s", 0))
    time.sleep(request.get("after_s", 0))
    return int(request.get("code", 0))
