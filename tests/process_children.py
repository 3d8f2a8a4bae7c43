"""The programs of the children in tests of ``kparity.process``: each does what its request says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from kparity.process import Done, Link, Stage, Tick

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def main(link: Link) -> int:
    """Obey the requests, one after the other, until they end."""
    print("vendor library: hello", flush=True)
    code = 0
    for request in link.requests(dict[str, Any]):
        kind, value = request["do"], request.get("value", 0)
        if kind == "say":
            link.send(Tick(value))
        elif kind == "stage":
            link.stage(value)
        elif kind == "raw":
            os.write(link._pipe, value.encode())
        elif kind == "flood":
            for _ in range(value):
                os.write(link._pipe, b"x" * (1 << 16))
        elif kind == "drip":
            while True:
                os.write(link._pipe, b"x")
                time.sleep(0.01)
        elif kind == "wait":
            time.sleep(value)
        elif kind == "start":
            process = subprocess.Popen(SLEEP, start_new_session=value == "session", pass_fds=(link._pipe,))
            link.send(Stage(str(process.pid), 0.0))
        elif kind == "done":
            link.send(Done())
        elif kind == "exit":
            code = value
            break
    return code
