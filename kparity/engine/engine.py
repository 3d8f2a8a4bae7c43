"""An engine: a model on a backend, tokens in, logits out. A decode step is one recorded program that stays on the
device.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kparity.device.adapter import Backend, Program
from kparity.engine.canary import Canary
from kparity.engine.column_sums import ColumnSums
from kparity.engine.graph import FusedGraph, Graph, Kernels, Options
from kparity.engine.weights import Weights, silent, upload
from kparity.errors import DeviceFault, Refused, WrongInput
from kparity.model import Model
from kparity.ops.spec import Array, Case

DEFAULT_CHUNK = 32
"""Rows of a prefill chunk: one program serves every prompt length."""
MAX_CONTEXT = 4096
"""Cache length when neither the caller nor the model asks for less."""


def served_context(asked: int, most: int) -> int:
    """Positions that a cache holds: those asked for or, for 0, at most MAX_CONTEXT, and never more than the model's."""
    return min(asked or MAX_CONTEXT, most)


@dataclass(frozen=True)
class Recorded:
    """A graph and the program that replays it."""

    graph: Graph
    program: Program


class Engine:
    """A model on an opened backend.

    ``act`` is the activation quantisation (``token`` as BitNet does, ``block256`` as llama.cpp does), ``kv`` the
    element type of the cache, ``context`` its length in positions, ``chunk`` the rows of one prefill program;
    ``fused`` chooses between the two graphs of ``graph.py``; ``tick`` is called with a few words
    after each piece of work. Tokens are ids; logits are f32 [vocab]. The state is the cache and the number of tokens
    in it. It works in the process that made it and in no other: a driver does not survive a fork.
    """

    def __init__(
        self, model: Model, backend: Backend, *, act: str = "token", kv: str = "f16", context: int = 0,
        chunk: int = DEFAULT_CHUNK, fused: bool = True, tick: Callable[[str], None] = silent,
    ) -> None:  # fmt: skip
        if chunk < 1:
            raise WrongInput(f"chunk is {chunk}, expected at least 1")
        self.model, self.backend, self.chunk = model, backend, chunk
        length = served_context(context, model.hparams.context)
        self.options = Options(act, kv, length, fused)
        self.graph_class: type[Graph] = FusedGraph if fused else Graph
        self.tick, self._process = tick, os.getpid()
        self.kernels = Kernels(backend, tick)
        self.weights: Weights = upload(model, backend, fused, tick)
        shape = (length, model.hparams.kv_dim)
        self.cache = [(backend.empty(shape, kv), backend.empty(shape, kv)) for _ in range(model.hparams.n_layer)]
        self.position, self.full = 0, False
        self.proved: int | None = None
        """The last position that may be fed, where a probe proved no more; None: all of the context."""
        self.sums: ColumnSums | None = None
        self.column_sums_every = 0
        """Tokens of ``generate`` after which the column sums of every matrix are looked at; 0: never."""
        self.canary: Canary | None = None
        """What looks, before a run and after an answer, whether the device still computes what it did at first."""
        self.programs: dict[tuple[int, bool], Recorded] = {}
        self.bodies: dict[int, Program] = {}

    @property
    def context(self) -> int:
        """Positions that the cache holds."""
        return self.options.context

    def recorded(self, rows: int = 1, every_row: bool = False) -> Recorded:
        """The program for a number of rows, recorded at its first use."""
        key = (rows, every_row)
        if key not in self.programs:
            graph = self.graph_class(
                self.model.hparams, self.kernels, self.weights, self.cache, self.options, rows, every_row=every_row
            )
            self.programs[key] = Recorded(graph, self.backend.record(graph.launches))
        return self.programs[key]

    def body(self, rows: int) -> Program:
        """The program for a number of rows without the head: for a part of a prompt whose logits nobody reads."""
        if rows not in self.bodies:
            self.bodies[rows] = self.backend.record(self.recorded(rows).graph.body)
        return self.bodies[rows]

    def launch_each(self, rows: int) -> None:
        """Launch every kernel of a program of ``rows`` rows once, by itself and over rows that are padding: some
        compilers work at the first launch. The cache stays as it is.
        """
        graph = self.recorded(rows).graph
        self._feed(graph, [], rows)
        seen: set[Case | None] = set()
        for launch in graph.launches:
            if launch.case is None or launch.case not in seen:
                self.backend.record([launch]).run()
                self.backend.sync()
                self.tick(f"first launch of {launch.kernel_id}, {rows} rows")
            seen.add(launch.case)

    def beside(self) -> Engine:
        """Another engine on the same device and weights, with kernels, cache and programs of its own."""
        other = copy.copy(self)
        other.kernels, other.programs, other.bodies = Kernels(self.backend, self.tick), {}, {}
        other.cache = [
            (self.backend.empty(k.shape, k.dtype), self.backend.empty(v.shape, v.dtype)) for k, v in self.cache
        ]
        other.position, other.full = 0, False
        return other

    def woven(self, other: Engine) -> Program:
        """The launches of a step of both engines, one of each in turn, as one program."""
        pairs = zip(self.recorded().graph.launches, other.recorded().graph.launches, strict=True)
        return self.backend.record([launch for pair in pairs for launch in pair])

    def step_beside(self, other: Engine, token: int, others: int, woven: Program | None = None) -> tuple[Array, Array]:
        """A step of two engines, both started before either is read, or ``woven``; f32 logits [vocab] of each."""
        pair = ((self, token), (other, others))
        for engine, each in pair:
            engine._check([each])
            engine._feed(engine.recorded().graph, [each], 1)
        for program in [woven] if woven else [engine.recorded().program for engine, _ in pair]:
            program.run()
        for engine, _ in pair:
            engine.position += 1
        self.tick(f"positions {self.position} and {other.position}")
        return self.row_of(self.recorded().graph), other.row_of(other.recorded().graph)

    def rewind(self, position: int) -> None:
        """Forget the tokens from a position on; raises WrongInput for a position that was not reached."""
        if not 0 <= position <= self.position:
            raise WrongInput(f"cannot rewind to position {position}: {self.position} tokens are in the cache")
        self.position = position

    def reset(self) -> None:
        """Forget every token. The cache's bytes stay: causal attention never reads a position that was not written
        since.
        """
        self.position = 0

    def step(self, token: int, eager: bool = False) -> Array:
        """Feed one token; f32 logits [vocab] for the next. ``eager`` launches one by one instead of the recording."""
        return self.row_of(self._run([token], 1, every_row=False, eager=eager))

    def step_greedy(self, token: int) -> int:
        """Feed one token; the id of the largest logit. Only that id leaves the device."""
        return self.best_of(self.run_step(token))

    def run_step(self, token: int) -> Graph:
        """Feed one token; the graph that ran, for ``best_of`` and ``row_of``."""
        return self._run([token], 1, every_row=False)

    def fed(self, tokens: Sequence[int], eager: bool = False) -> Iterator[Graph]:
        """Feed a prompt piece by piece; after each the graph that ran, the head of the last one's too."""
        if not tokens:
            raise WrongInput("the prompt has no token")
        for at, rows, head in self.pieces(len(tokens)):
            yield self._run(list(tokens[at : at + rows]), rows, every_row=False, eager=eager, head=head)

    def best(self) -> int:
        """The id that the device found largest in the last step; -1 where the logits held NaN."""
        self._at_home()
        return int(self.backend.download(self.recorded(1).graph.best)[0])

    def prefill(self, tokens: Sequence[int], eager: bool = False) -> Array:
        """Feed a prompt in chunks; f32 logits [vocab] after its last token. ``eager`` as in ``step``."""
        return self.row_of(self._prefill(tokens, eager))

    def pieces(self, length: int) -> Iterator[tuple[int, int, bool]]:
        """Where each piece of a prompt begins, the rows of its program, and whether its head runs: whole and padded
        chunks of ``chunk`` rows; a remainder below a quarter of a chunk goes step by step.
        """
        at = 0
        while at < length:
            begin, rows = at, self.chunk if (length - at) * 4 >= self.chunk else 1
            at += rows
            yield begin, rows, at >= length

    def prefill_timed(self, tokens: Sequence[int]) -> float:
        """Feed a prompt; its seconds by the device's own clock."""
        spent = 0.0
        for at, rows, head in self.pieces(len(tokens)):
            piece = list(tokens[at : at + rows])
            self._check(piece)
            self._feed(self.recorded(rows).graph, piece, rows)
            spent += (self.recorded(rows).program if head else self.body(rows)).run_timed()
            self.position += len(piece)
        return spent

    def score(self, tokens: Sequence[int], rows: int = 0) -> Array:
        """Feed tokens in chunks of ``rows``; f32 logits [len(tokens), vocab] after each of them."""
        rows = rows or self.chunk
        if not tokens:
            raise WrongInput("score needs at least one token")
        logits = []
        for at in range(0, len(tokens), rows):
            piece = list(tokens[at : at + rows])
            graph = self._run(piece, rows, every_row=True)
            logits.append(self.backend.download(graph.logits)[: len(piece)])
        return np.concatenate(logits)

    def generate(self, prompt: Sequence[int], max_tokens: int) -> Iterator[int]:
        """Greedy continuation: ids one by one, until ``max_tokens``, the end-of-sequence id, or a full cache, after
        which ``full`` is true. Raises Tripped where a canary finds the device wrong.
        """
        yield from self._continued(prompt, max_tokens)
        if self.canary:
            self.canary.at_end()

    def _continued(self, prompt: Sequence[int], max_tokens: int) -> Iterator[int]:
        self.full = False
        if not prompt:
            raise WrongInput("the prompt has no token")
        token = self.best_of(self._prefill(prompt)) if len(prompt) > 1 else self.step_greedy(prompt[0])
        for count in range(1, max_tokens + 1):
            if token == self.model.hparams.eos:
                return
            yield token
            if count == max_tokens:
                return
            if self.column_sums_every and count % self.column_sums_every == 0:
                self.check_column_sums()
            if self.position >= self.context:
                self.full = True
                return
            token = self.step_greedy(token)

    def check_column_sums(self) -> None:
        """Raise Tripped where it serves with a canary, else DeviceFault, where the weights on the device, or what is
        computed with them, are not the file's.
        """
        self.sums = self.sums or ColumnSums(self)
        if wrong := next(self.sums.wrong(), ""):
            if self.canary:
                self.canary.sure = min(self.canary.sure, self.sums.sure)
                self.canary.fail(wrong)
            raise DeviceFault(f"{self.backend.name}, after {self.position} tokens: {wrong}", "KP-RESIDENT")
        self.sums.sure = self.position

    def close(self) -> None:
        """Close the backend; the engine must not be used afterwards."""
        self._at_home()
        self.programs.clear()
        self.bodies.clear()
        self.sums = None
        self.backend.close()

    def options_dict(self) -> dict[str, int | str]:
        """What a receipt says about this engine."""
        return {**dataclasses.asdict(self.options), "chunk": self.chunk}

    def _prefill(self, tokens: Sequence[int], eager: bool = False) -> Graph:
        """The pieces of a prompt, one after the other."""
        *_, graph = self.fed(tokens, eager)
        return graph

    def _run(self, tokens: list[int], rows: int, every_row: bool, eager: bool = False, head: bool = True) -> Graph:
        self._check(tokens)
        if self.canary:
            self.canary.before_run()
        recorded = self.recorded(rows, every_row)
        graph = recorded.graph
        program = recorded.program if head else self.body(rows)
        self._feed(graph, tokens, rows)
        (program.run_eager if eager else program.run)()
        self.position += len(tokens)
        self.tick(f"position {self.position}")
        return graph

    def _feed(self, graph: Graph, tokens: Sequence[int], rows: int) -> None:
        """Ids and positions of a run; rows without a token are padding."""
        count = len(tokens)
        ids, pos = np.zeros(rows, np.int32), np.full(rows, -1, np.int32)
        ids[:count] = tokens
        pos[:count] = np.arange(self.position, self.position + count)
        self.backend.write(graph.ids, ids)
        self.backend.write(graph.pos, pos)
        if rows > 1 and not graph.every_row:
            self.backend.write(graph.last, np.array([max(count - 1, 0)], np.int32))

    def _check(self, tokens: Sequence[int]) -> None:
        self._at_home()
        vocab = self.model.hparams.vocab
        for token in tokens:
            if not 0 <= token < vocab:
                raise WrongInput(f"token {token} is outside the vocabulary of {vocab}")
        if self.position + len(tokens) > self.context:
            raise WrongInput(
                f"{self.position + len(tokens)} tokens exceed the context of {self.context} positions; "
                "shorten the prompt or raise --context"
            )
        if self.proved is not None and self.position + len(tokens) > self.proved + 1:
            raise self._unproved(self.position + len(tokens))

    def _unproved(self, end: int) -> Refused:
        return Refused(
            f"{self.backend.name} is proved to position {self.proved}, and {end} tokens reach position {end - 1}; give "
            "--depth full and the --context that is to be served, or --beyond-proof (beyond_proof=True)"
        )

    def _at_home(self) -> None:
        """Raise WrongInput in another process than the one that opened the device: there it would wait for ever."""
        if os.getpid() != self._process:
            raise WrongInput(
                f"this engine was opened by process {self._process} and is used in process {os.getpid()}; "
                "open one in the process that uses it"
            )

    def row_of(self, graph: Graph) -> Array:
        """f32 logits [vocab] after the last token of a run."""
        return np.asarray(self.backend.download(graph.logits)[0])

    def best_of(self, graph: Graph) -> int:
        """The id of the largest logit of a run; raises DeviceFault where one is NaN."""
        best = int(self.backend.download(graph.best)[0])
        if best < 0:
            why = f"{self.backend.name}: the logits hold NaN at position {self.position - 1}"
            raise DeviceFault(why, "KP-POS-NONFINITE")
        return best
