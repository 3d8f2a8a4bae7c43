"""llama.cpp as an engine: ``llama.cpp:FOLDER?device=Vulkan0&ngl=99``, or the wheel's without a folder.

Logits are those of ``llama_get_logits_ith``, traces those that ``cb_eval`` gives: the tensors of the very graph that
serves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kparity.device.fingerprint import version
from kparity.engines.base import DeviceRow, Engine, Facts, Placed, Sink, Spec, matching
from kparity.engines.llama_abi import CPU, GPU, INT, Device, Library, Watch
from kparity.engines.llama_layout import refused
from kparity.errors import WrongInput
from kparity.ops.spec import Array

ROWS, CONTEXT = 64, 4096
"""Tokens that are computed at a time, and positions where nobody asks for a number."""
ALL_LAYERS = 999
SOFTWARE = re.compile("llvmpipe|lavapipe|swiftshader", re.IGNORECASE)
"""Names of Vulkan devices that are processors; ggml lists them as GPUs."""
ACTIVATIONS = (
    ("Q8_K", re.compile(r"tq[12]_0|q[2-6]_k|iq[1-4]_(?!nl)\w+")),
    ("Q8_0", re.compile(r"q[24568]_0|iq4_nl")),
    ("Q8_1", re.compile("q[45]_1")),
)
"""What ggml's processor code makes of the activations that meet weights of a type."""
BUFFER = re.compile(r"(\S+) +(model|KV|compute|output) +buffer size += +([\d.]+) MiB")


class LlamaCpp(Engine):
    """A model in llama.cpp, on its processor or on a ``device`` with ``ngl`` layers; ``ubatch`` tokens at a time."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        spec.only("device", "ngl", "threads", "kv", "ubatch", "headers")
        layers, threads = spec.number("ngl", ALL_LAYERS), spec.threads()
        kv = spec.choice("kv", "f16", "f32")
        device = spec.options.get("device", "")
        self.lib = Library(spec.place, device, spec.options.get("headers", ""))
        chosen = self._chosen(spec, device)
        api = self.api = self.lib.llama
        self.model = self.lib.model(model, chosen, layers)
        self.vocab = api.llama_model_get_vocab(self.model)
        self.length = context or min(CONTEXT, api.llama_model_n_ctx_train(self.model))
        self.rows = min(spec.number("ubatch", ROWS, 1), self.length)
        self.watched: Callable[[Any, bool], bool] | None = None
        self._failed: BaseException | None = None
        self._watch = Watch(self._asked)
        self.context = self.lib.context(self.model, self.length, threads, rows=self.rows, kv=kv, watch=self._watch)
        self.memory, self.position = api.llama_get_memory(self.context), 0
        self.batch = api.llama_batch_init(self.rows, 0, 1)
        self.facts = self._facts(model, chosen, threads, kv)
        self.facts = self._proved(self.facts)  # which needs the vocabulary
        if not chosen and layers and "ngl" in spec.options:
            alone = f"ngl={layers} was asked for and no layer left the processor: no device was chosen or found"
            self.facts = msgspec.structs.replace(self.facts, weaknesses=(*self.facts.weaknesses, alone))

    def _chosen(self, spec: Spec, name: str) -> list[Device]:
        """The device that was asked for, none for the processor; without a name every GPU, as llama.cpp does it."""
        devices = self.lib.devices()
        if not name:
            return [each for each in devices if each.type == GPU]
        found = [each for each in devices if each.name.lower() == name.lower()]
        if not found:
            names = ", ".join(each.name for each in devices)
            raise spec.wrong(f"llama.cpp has no device {name!r} here; it has {names}")
        return [each for each in found if each.type != CPU]

    def _facts(self, model: str, chosen: list[Device], threads: int, kv: str) -> Facts:
        api, log = self.api, self.lib.log
        devices = self.lib.devices()
        flash = re.search(r"flash_attn += +enabled|Flash Attention enabled", log)
        types = {each for each in re.findall(r"- type +(\w+): +\d+ tensors", log) if not re.match("b?f[13]", each)}
        made = {name for each in types for name, of in ACTIVATIONS if of.fullmatch(each.lower())}
        found = re.search(r"offloaded (\d+)/(\d+) layers", log)
        offloaded = (int(found[1]), int(found[2])) if found and chosen else None
        head = re.search(r"n_embd_head_k += (\d+)\n", log)
        share = " {}/{} layers".format(*offloaded) if offloaded and offloaded[0] < offloaded[1] else ""
        used = [each.name for each in chosen] or [each.name for each in devices if each.type == CPU][:1]
        cache = re.search(r"K \((\w+)\).*V \((\w+)\)", log)
        if cache and cache.groups() != (kv, kv):
            raise refused(f"llama.cpp was asked for a cache of {kv} and has {cache[1]} and {cache[2]}")
        return Facts(
            name=f"llama.cpp {used[0]}", version=f"ggml {self.lib.version}" + self._package(), model=model,
            vocab=api.llama_vocab_n_tokens(self.vocab), context=self.length, layers=api.llama_model_n_layer(self.model),
            width=api.llama_model_n_embd(self.model), kv_heads=api.llama_model_n_head_kv(self.model),
            head_dim=int(head[1]) if head else 0, sequences=2, bos=api.llama_vocab_bos(self.vocab),
            eos=api.llama_vocab_eos(self.vocab), add_bos=api.llama_vocab_get_add_bos(self.vocab),
            devices=tuple(DeviceRow(each.name, each.description, _kind(each), each.name in used) for each in devices),
            numerics=f"ggml {' '.join(used)}{share}, {'flash' if flash else 'plain'} attention", kv=kv, threads=threads,
            traces=True, activations="" if chosen else " ".join(sorted(made)), offloaded=offloaded,
            placed=tuple(Placed(what, name, float(size)) for name, what, size in BUFFER.findall(log)),
            weaknesses=tuple(_weaknesses(offloaded, bool(chosen), kv if flash else "", log)),
        )  # fmt: skip

    def _package(self) -> str:
        return f", xllamacpp {version('xllamacpp')}" if self.lib.path.name.startswith("xllamacpp") else ""

    def _proved(self, facts: Facts) -> Facts:
        """One token: the watch must be asked for tensors that have names, or it stands in another field. Told where
        ggml computed them: a device hands back to the processor what it cannot compute, and with layers on the
        processor it takes over the products of a batch that is large enough. On Vulkan in software the largest batch
        comes first, too: where a later one makes ggml's buffers larger, lavapipe dies in those that it freed.
        """
        some = facts.offloaded is not None and facts.offloaded[0] < facts.offloaded[1]
        soft = any(each.used and each.kind == "software" for each in facts.devices)
        kinds = {"step": 1, **({"batch": self.rows} if some or soft else {})}
        names = "|".join(re.escape(each.name) for each in facts.devices if each.used)
        placed, told = list(facts.placed), list(facts.weaknesses)
        for kind, rows in kinds.items():
            where = self._where([max(facts.bos, 0)] * rows)
            placed += [Placed(kind, name, count) for name, count in where.most_common()]
            far = sum(count for name, count in where.items() if not re.match(rf"({names})(?!\d)", name))
            if facts.offloaded and far:
                what = "a step" if kind == "step" else f"a batch of {rows} tokens"
                told.append(f"{far} of {where.total()} tensors of {what} are computed on the processor")
        return msgspec.structs.replace(facts, placed=tuple(placed), weaknesses=tuple(told))

    def _where(self, tokens: Sequence[int]) -> Counter[str]:
        """Buffer to the number of tensors of a batch that are computed there; raises Unavailable without a watch."""
        names, where = list[str](), Counter[str]()

        def note(tensor: Any, _asks: bool) -> bool:
            names.append(self._name(tensor))
            if tensor.contents.buffer:
                where[self.lib.ggml.ggml_backend_buffer_name(tensor.contents.buffer).decode(errors="replace")] += 1
            return False  # the data of none is wanted

        self.watched = note
        self._fed(tokens, every=False)
        self.watched = None
        self.reset()
        if not any(name.startswith("result_output") for name in names):
            raise refused(f"cb_eval of this llama.cpp was called for {len(names)} tensors, none of them result_output")
        return where

    def _name(self, tensor: Any) -> str:
        return str(self.lib.ggml.ggml_get_name(tensor).decode(errors="replace"))

    def _asked(self, tensor: Any, asks: bool, _user: Any) -> bool:
        """What ggml calls before a tensor is computed (``asks``: is it wanted?) and after it (go on?)."""
        try:
            wants = self.watched is not None and self.watched(tensor, asks)
        except BaseException as error:  # it cannot go through C
            self._failed = self._failed or error
            return False
        return wants if asks else True

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise WrongInput("the text has surrogates, which UTF-8 cannot express") from None
        room = len(raw) + 8
        for _ in range(2):
            ids = (INT * room)()
            count = self.api.llama_tokenize(self.vocab, raw, len(raw), ids, room, True, True)
            if count >= 0:
                return list(ids[:count])
            room = -count
        raise WrongInput(f"llama.cpp cuts a text of {len(raw)} bytes into more than {room} tokens")

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.api.llama_memory_clear(self.memory, False)
        self.position = 0

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return self._all(tokens, every=False)[-1]

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return np.concatenate(self._all(tokens, every=True))

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """As ``Engine.score_beside``: the tokens of both sequences in turn, in a context of their own, so that the one
        that serves has room for one alone.
        """
        for each in (tokens, neighbours):
            self.check(each, 0)
        facts, rows = self.facts, max(2, min(self.rows, 2 * len(tokens)))
        context = self.lib.context(self.model, 2 * len(tokens), facts.threads, rows=rows, kv=facts.kv, sequences=2)
        batch = self.api.llama_batch_init(rows, 0, 1)
        placed = [(ids[at], at, sequence, not sequence) for at in range(len(tokens))
                  for sequence, ids in ((1, neighbours), (0, tokens)) if at < len(ids)]  # fmt: skip
        size = rows // 2 * 2
        pieces = [placed[at : at + size] for at in range(0, len(placed), size)]
        try:
            return np.concatenate([self._decoded(context, batch, piece) for piece in pieces])
        finally:
            self.api.llama_batch_free(batch)
            self.api.llama_free(context)

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``Engine.trace``: a tensor has ggml's name and, since several have the same, the operation that made it:
        ``Qcur-3:ROPE``. One without a dimension of tokens is handed on as it is, the slowest dimension first.
        """

        wanted = matching(slots)

        def watch(tensor: Any, asks: bool) -> bool:
            name = f"{self._name(tensor)}:{self.lib.ggml.ggml_op_desc(tensor).decode(errors='replace')}"
            wants = wanted(name)
            if wants and not asks:
                values = self.lib.array(tensor)
                outer = next((size for size in values.shape if size > 1), 1)
                rows = self.batch.n_tokens
                flat = (outer == rows or rows == 1) and not name.startswith("cache_")
                sink(name, values.astype(np.float32).reshape(rows, -1) if flat else values)
            return wants

        self.watched = watch
        try:
            return self.score(tokens)
        finally:
            self.watched = None

    def _all(self, tokens: Sequence[int], every: bool) -> list[Array]:
        """All batches; of each the logits [rows, vocab] of every token, or [vocab] of the last."""
        self.check(tokens, self.position)
        fed = [self._fed(tokens[at : at + self.rows], every) for at in range(0, len(tokens), self.rows)]
        return fed if every else [each[0] for each in fed]

    def _fed(self, tokens: Sequence[int], every: bool) -> Array:
        """One batch; the logits of every token, or of the last."""
        first, end = self.position, len(tokens) - 1
        self.position += len(tokens)
        placed = [(token, first + at, 0, every or at == end) for at, token in enumerate(tokens)]
        return self._decoded(self.context, self.batch, placed)

    def _decoded(self, context: int, batch: Any, placed: Sequence[tuple[int, int, int, bool]]) -> Array:
        """One batch of tokens, each with its position, its sequence and whether its logits are wanted; these."""
        batch.n_tokens = len(placed)
        for at, (token, position, sequence, wanted) in enumerate(placed):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        status = self.api.llama_decode(context, batch)
        if self._failed:
            failed, self._failed = self._failed, None
            raise failed
        held = self.api.llama_memory_seq_pos_max(self.api.llama_get_memory(context), sequence) + 1
        if status or held != position + 1:
            raise WrongInput(f"llama_decode returned {status} and holds {held} tokens, not {position + 1}")
        rows = [self.api.llama_get_logits_ith(context, at) for at, (*_, wanted) in enumerate(placed) if wanted]
        return np.stack([np.array(np.ctypeslib.as_array(row, (self.facts.vocab,)), np.float32) for row in rows])

    def close(self) -> None:
        """As ``Engine.close``."""
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


def _kind(device: Device) -> str:
    """Of a device as ggml lists it: what it calls a GPU may be a processor."""
    return "cpu" if device.type == CPU else "software" if SOFTWARE.search(device.description) else "gpu"


def _weaknesses(offloaded: tuple[int, int] | None, on_device: bool, flash_kv: str, log: str) -> list[str]:
    """What of placement, numerics and tokenizer a reader must know."""
    found = []
    if on_device and offloaded is None:
        found.append("llama.cpp does not say how many layers are on the device")
    if offloaded and offloaded[0] < offloaded[1]:
        found.append(f"{offloaded[1] - offloaded[0]} of {offloaded[1]} layers stayed on the processor")
    if on_device:
        found.append("on a device the type of the activations depends on the number of rows")
    if flash_kv == "f32":
        found.append("its flash attention rounds keys and values of an f32 cache to f16")
    if guessed := re.search("missing pre-tokenizer type, using: '([^']*)'", log):
        found.append(f"the file has no tokenizer.ggml.pre; text is cut by the rules {guessed[1]!r}")
    return found
