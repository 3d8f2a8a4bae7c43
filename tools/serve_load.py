"""Load on ``kparity serve``: what the server costs beside the bare engine, and whether many completions change it.

``python -m tools.serve_load overhead`` generates the same tokens by turns with the engine in this process and through
a server at one client, and prints the ratio of tokens/s of each round. ``python -m tools.serve_load many --plot
docs/serve.png`` sends completions one after the other, then eight at a time, and draws what each took, the memory,
open files and threads of the server's processes, and where a text is not the first one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model

PROMPT = "In the beginning"
BEYOND = 1.05
"""Of the median time of the first fifth: what the last fifth may take."""


class Sample(msgspec.Struct):
    """After a completion: seconds that it took, its text, and the server's processes together."""

    at: float
    seconds: float
    text: str
    rss_mib: float
    files: int
    threads: int


@contextmanager
def server(backend: str, *arguments: str) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a server in a process of its own, and its id."""
    command = [sys.executable, "-m", "kparity", "serve", "--port", "0", "-b", backend, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(found[1] for line in process.stderr if (found := re.search(r"at (http://\S+)/v1", line)))
        with httpx.Client(base_url=url, timeout=600) as client:
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def completion(client: httpx.Client, tokens: int, prompt: str = PROMPT) -> str:
    """A greedy one of exactly this many tokens, or fewer where the model ends it."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
    reply = client.post("/v1/completions", json=body).raise_for_status()
    return str(reply.json()["choices"][0]["text"])


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


def overhead(backend: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Tokens/s by turns."""
    engine = Engine(load_model(None), open_backend(backend))
    prompt = engine.model.tokenizer.encode(PROMPT)
    ratios, bare, served = list[float](), list[float](), list[float]()
    with server(backend) as (client, _):
        for at in range(rounds + 1):
            started = time.perf_counter()
            engine.reset()
            ids = list(engine.generate(prompt, tokens))
            between = time.perf_counter()
            text = completion(client, tokens)
            ended = time.perf_counter()
            assert text == engine.model.tokenizer.decode([*prompt, *ids])[len(PROMPT) :], "the texts differ"
            if at:  # the first round warms both
                bare.append(len(ids) / (between - started))
                served.append(len(ids) / (ended - between))
                ratios.append(served[-1] / bare[-1])
    engine.close()
    return {"backend": backend, "tokens": tokens, "rounds": rounds,
            "bare tokens/s": round(statistics.median(bare), 1), "served tokens/s": round(statistics.median(served), 1),
            "ratio": round(statistics.median(ratios), 4)}  # fmt: skip


def many(backend: str, count: int, tokens: int, clients: int) -> tuple[list[Sample], list[Sample]]:
    """One after the other, and then as many again from several clients at once."""

    def sampled(client: httpx.Client, pid: int) -> Sample:
        begun = time.perf_counter()
        text = completion(client, tokens)
        return Sample(begun - started, time.perf_counter() - begun, text, *state(pid))

    with server(backend, "--parallel", str(clients)) as (client, pid):
        started = time.perf_counter()
        completion(client, tokens)
        alone = [sampled(client, pid) for _ in range(count)]
        with ThreadPoolExecutor(clients) as pool:
            beside = list(pool.map(lambda _: sampled(client, pid), range(count)))
    return alone, beside


def judged(samples: list[Sample]) -> dict[str, Any]:
    """Growth and drift of a run: the last fifth beside the first."""
    part = max(1, len(samples) // 5)
    first, last = samples[:part], samples[-part:]
    seconds = [statistics.median(each.seconds for each in some) for some in (first, last)]
    return {
        "completions": len(samples), "texts": len({each.text for each in samples}),
        "median_ms": [round(1e3 * each, 2) for each in seconds], "slowdown": round(seconds[1] / seconds[0] - 1, 4),
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
    axes[0].plot(numbers, [1e3 * each.seconds for each in both], ".", ms=2)
    axes[0].set_ylabel("ms of a completion")
    axes[0].set_yscale("log")
    axes[1].plot(numbers, [each.rss_mib for each in both])
    axes[1].set_ylabel("resident MiB")
    axes[2].plot(numbers, [each.files for each in both], label="open files")
    axes[2].plot(numbers, [each.threads for each in both], label="threads")
    axes[2].plot(
        numbers, [float(each.text != alone[0].text) for each in both], label="another text (1) or the same (0)"
    )
    axes[2].legend(loc="upper left")
    axes[2].set_xlabel(f"completion: {len(alone)} one after the other, then {len(beside)} from several clients")
    for each in axes:
        each.axvline(len(alone) + 0.5, color="gray", lw=0.8)
    figure.savefig(path, dpi=100)


def main() -> int:
    """Command line; exit code 1 where the server costs, slows down, grows or drifts more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "many"))
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--completions", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    if options.what == "overhead":
        found = overhead(options.backend, options.rounds, options.tokens)
        print(json.dumps(found))
        return int(found["ratio"] < 1 / BEYOND)
    alone, beside = many(options.backend, options.completions, options.tokens, options.clients)
    verdicts = [judged(alone), judged(beside)]
    for each in verdicts:
        print(json.dumps(each))
    if options.plot:
        drawn(alone, beside, options.plot)
    texts = {each.text for each in (*alone, *beside)}
    right = all(each["slowdown"] <= BEYOND - 1 for each in verdicts) and len(texts) == 1
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
