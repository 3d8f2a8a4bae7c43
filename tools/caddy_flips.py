"""What clients see of a Caddy whose route changes all the time: whole answers, resets, streams that ended early.

    python -m tools.caddy_flips [--seconds 60] [--clients 6] [--long] [--flush-interval -1]

``--long``: every stream lasts three seconds, so that many changes fall into it. Exit code 1 where a stream ended early.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from kparity.burnin import route
from tests.burnin_server import Faulty, serving
from tests.test_cutover import Traffic, proxied


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--flush-interval", type=int)
    asked = parser.parse_args(arguments)
    extra = {} if asked.flush_interval is None else {"flush_interval": asked.flush_interval}
    route.SETTLE_S = 0.05
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        kind = "hang" if asked.long else ""
        servers = [stack.enter_context(serving(Faulty(kind, delay_s=0.01))) for _ in range(2)]
        admin, public = stack.enter_context(proxied(shutil.which("caddy") or "caddy", folder, servers[0], **extra))
        at, changes, end = route.Caddy(admin, "engine"), 0, time.monotonic() + asked.seconds
        with ExitStack() as clients:
            traffic = [clients.enter_context(Traffic(public)) for _ in range(asked.clients // 2)]  # two threads each
            for server in cycle(servers[::-1]):
                if time.monotonic() > end:
                    break
                route.flip(route.Kept(admin, "engine", at.read()), server.removeprefix("http://"))
                changes += 1
    errors = Counter("reset" if "Errno 104" in each else "early" for one in traffic for each in one.errors)
    print(f"{changes} changes, {sum(one.done for one in traffic)} whole answers, {errors['reset']} resets, "
          f"{errors['early']} streams that ended early")  # fmt: skip
    return int(errors["early"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
