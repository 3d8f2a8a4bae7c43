"""Load on ``kparity serve``: what the server costs beside the bare engine, and whether many completions change it.

``python -m tools.serve_load overhead`` generates the same tokens by turns with the engine in this process, its canary
included as ``kparity run`` has it, and through a server at one client, and prints the ratio of tokens/s of each round.
``python -m tools.serve_load many --plot docs/serve.png`` sends completions one after the other, then eight at a time,
and draws what each took, the memory, open files and threads of the server's processes, and where a text is not the
first one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.engine.canary import Canary
from kparity.model import load_model

PROMPT = "In the beginning"
BEYOND = 1.05
"""Of what a completion of the first fifth costs: what one of the last fifth may; and of a token, what one may that is
served.
"""


class Sample(msgspec.Struct):
    """After a completion: seconds that it took, its text, and of the server's processes together: seconds of processors
    so far, memory, files, threads. ``bare`` is what the engine took for the same right after it, by itself.
    """

    seconds: float
    bare: float
    spent: float
    text: str
    rss_mib: float
    files: int
    threads: int


@contextmanager
def server(backend: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """Host and port of a server in a process of its own, and its id."""
    command = [sys.executable, "-m", "kparity", "serve", "--port", "0", "-b", backend, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield (
            next(found[1] for line in process.stderr if (found := re.search(r"at http://(\S+)/v1", line))),
            process.pid,
        )
    finally:
        process.terminate()
        process.wait()


def completion(client: HTTPConnection, tokens: int) -> str:
    """A greedy one of this many tokens, or fewer where the model ends it. The client is the plainest: what it costs is
    not the server's.
    """
    body = json.dumps({"prompt": PROMPT, "max_tokens": tokens, "temperature": 0})
    client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    return str(json.loads(client.getresponse().read())["choices"][0]["text"])


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += family(int(child))
    return found


def state(pid: int) -> tuple[float, int, int]:
    """MiB of resident memory, open files and threads of a family."""
    rss = files = threads = 0
    for each in family(pid):
        status = Path(f"/proc/{each}/status").read_text()
        rss += int(re.findall(r"^VmRSS:\s+(\d+)", status, re.M)[0])
        threads += int(re.findall(r"^Threads:\s+(\d+)", status, re.M)[0])
        files += len(os.listdir(f"/proc/{each}/fd"))  # noqa: PTH208
    return rss / 1024, files, threads


def spent(pid: int) -> float:
    """Seconds of processors that the threads of a process had."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def overhead(backend: str, rounds: int, tokens: int, path: str | None) -> dict[str, Any]:
    """Tokens/s by turns, where the quartiles tell how much neighbours on the machine disturbed them, and ``fastest`` is
    the ratio of the fastest rounds; and, of processors, what a token costs the bare engine, the process of the device
    and that of the server, which neighbours hardly change.
    """
    engine = Engine(load_model(path), open_backend(backend))
    engine.canary = Canary(engine)
    prompt = engine.model.tokenizer.encode(PROMPT)
    of = ("--model", path, "--depth", "bos", "--beyond-proof") if path else ()
    ratios, bare, served = list[float](), list[float](), list[float]()
    costs = list[list[float]]()
    with server(backend, *of) as (address, pid):
        client = HTTPConnection(address)
        device = max(family(pid)[1:], key=spent)
        for at in range(rounds + 1):
            before = [spent(each) for each in (os.getpid(), device, pid)]
            started = time.perf_counter()
            engine.reset()
            ids = list(engine.generate(prompt, tokens))
            between = time.perf_counter()
            here = spent(os.getpid())
            asked = time.perf_counter()
            text = completion(client, tokens)
            ended = time.perf_counter()
            after = [here, spent(device), spent(pid)]
            assert text == engine.model.tokenizer.decode([*prompt, *ids])[len(PROMPT) :], "the texts differ"
            if at:  # the first round warms both
                bare.append(len(ids) / (between - started))
                served.append(len(ids) / (ended - asked))
                ratios.append(served[-1] / bare[-1])
                costs.append([1e6 * (b - a) / len(ids) for a, b in zip(before, after, strict=True)])
    engine.close()
    us = [round(statistics.median(each), 1) for each in zip(*costs, strict=True)]
    return {"backend": backend, "model": engine.model.name, "tokens": tokens, "rounds": rounds,
            "bare tokens/s": round(statistics.median(bare), 1), "served tokens/s": round(statistics.median(served), 1),
            "ratio": round(statistics.median(ratios), 4),
            "quartiles": [round(each, 4) for each in statistics.quantiles(ratios)[::2]],
            "fastest": round(max(served) / max(bare), 4),
            "processor us/token": dict(zip(("bare", "device", "server"), us, strict=True))}  # fmt: skip


def many(backend: str, count: int, tokens: int, clients: int) -> tuple[list[Sample], list[Sample]]:
    """One after the other, each followed by the bare engine, and then as many again from several clients at once."""
    engine, local = Engine(load_model(None), open_backend(backend)), threading.local()
    prompt = engine.model.tokenizer.encode(PROMPT)

    def sampled(address: str, pid: int, beside: bool = True) -> Sample:
        local.client = getattr(local, "client", None) or HTTPConnection(address)
        begun = time.perf_counter()
        text = completion(local.client, tokens)
        between = time.perf_counter()
        if not beside:
            engine.reset()
            list(engine.generate(prompt, tokens))
        bare = time.perf_counter() - between
        return Sample(between - begun, bare, sum(map(spent, family(pid))), text, *state(pid))

    with server(backend, "--parallel", str(clients)) as (address, pid):
        completion(HTTPConnection(address), tokens)
        alone = [sampled(address, pid, beside=False) for _ in range(count)]
        with ThreadPoolExecutor(clients) as pool:
            beside = list(pool.map(lambda _: sampled(address, pid), range(count)))
    engine.close()
    return alone, beside


def judged(samples: list[Sample], alone: bool) -> dict[str, Any]:
    """Growth and drift of a run: the last fifth beside the first. Neighbours on the machine slow both down: what counts
    is the time beside that of the bare engine in turn or, of several clients, the processors' time.
    """
    part = max(2, len(samples) // 5)
    first, last = samples[:part], samples[-part:]
    seconds = [statistics.median(each.seconds for each in some) for some in (first, last)]
    spent = [(some[-1].spent - some[0].spent) / (len(some) - 1) for some in (first, last)]
    cost = [statistics.median(each.seconds / each.bare for each in some) for some in (first, last)] if alone else spent
    return {
        "completions": len(samples), "texts": len({each.text for each in samples}),
        "median_ms": [round(1e3 * each, 2) for each in seconds],
        **({"beside the bare engine": [round(each, 3) for each in cost]} if alone else
           {"processor_ms": [round(1e3 * each, 3) for each in cost]}),
        "slowdown": round(cost[1] / cost[0] - 1, 4),
        "rss_mib": [round(max(each.rss_mib for each in some), 1) for some in (first, last)],
        "files": [max(each.files for each in some) for some in (first, last)],
        "threads": [max(each.threads for each in some) for some in (first, last)],
    }  # fmt: skip


def drawn(alone: list[Sample], beside: list[Sample], path: str) -> None:
    """Latency, memory, files and threads by number, and the texts that are another one than the first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    both = [*alone, *beside]
    numbers = range(1, len(both) + 1)
    axes[0].plot(numbers, [1e3 * each.seconds for each in both], ".", ms=2, label="by the clock")
    cost = [1e3 * (b.spent - a.spent) for run in (alone, beside) for a, b in pairwise(run)]
    axes[0].plot([*range(2, len(alone) + 1), *range(len(alone) + 2, len(both) + 1)], cost, ".", ms=2,
                 label="of processors")  # fmt: skip
    axes[0].legend(loc="upper left")
    axes[0].set_ylabel("ms of a completion")
    axes[0].set_yscale("log")
    axes[1].plot(numbers, [each.rss_mib for each in both])
    axes[1].set_ylabel("resident MiB")
    axes[2].plot(numbers, [each.files for each in both], label="open files")
    axes[2].plot(numbers, [each.threads for each in both], label="threads")
    axes[2].plot(
        numbers, [float(each.text != alone[0].text) for each in both], label="another text (1) or the same (0)"
    )
    axes[2].legend(loc="center left")
    axes[2].set_xlabel(f"completion: {len(alone)} one after the other, then {len(beside)} from several clients")
    for each in axes:
        each.axvline(len(alone) + 0.5, color="gray", lw=0.8)
    figure.savefig(path, dpi=100)


def main() -> int:
    """Command line; exit code 1 where the server costs, slows down, grows or drifts more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "many"))
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--model", metavar="FILE", help="another than the embedded one, for overhead")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--completions", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    if options.what == "overhead":
        found = overhead(options.backend, options.rounds, options.tokens, options.model)
        print(json.dumps(found))
        return int(found["ratio"] < 1 / BEYOND)
    alone, beside = many(options.backend, options.completions, options.tokens, options.clients)
    verdicts = [judged(alone, True), judged(beside, False)]
    for each in verdicts:
        print(json.dumps(each))
    if options.plot:
        drawn(alone, beside, options.plot)
    texts = {each.text for each in (*alone, *beside)}
    right = all(each["slowdown"] <= BEYOND - 1 for each in verdicts) and len(texts) == 1
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
