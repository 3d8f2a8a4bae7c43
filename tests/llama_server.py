"""llama.cpp's own HTTP server, of the wheel ``xllamacpp``, with the embedded model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kparity.model.gguf_file import embedded

SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel = 512, 1
params.warmup = params.fit_params = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def serving() -> Iterator[str]:
    """Its address."""
    command = [sys.executable, "-c", SERVER, str(embedded())]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert child.stdout is not None
        yield next((line.strip() for line in child.stdout if line.startswith("http")), "http://127.0.0.1:9")
    finally:
        child.kill()  # it does not end by itself
        child.wait()
