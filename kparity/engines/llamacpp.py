"""llama.cpp as an engine: ``llama.cpp:FOLDER?device=Vulkan0&ngl=99``, or the wheel's without a folder.

Logits are those of ``llama_get_logits_ith``, traces those that ``cb_eval`` gives: the tensors of the very graph that
serves.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence

import numpy as np

from kparity.engines.base import Engine, Facts, Spec
from kparity.engines.llama_abi import CPU, INT, Device, Library, Watch, refused
from kparity.errors import WrongInput
from kparity.ops.spec import Array

ROWS = 64
"""Tokens that are computed at a time."""
SOFTWARE = re.compile("llvmpipe|lavapipe|swiftshader", re.IGNORECASE)
"""Names of Vulkan devices that are processors; ggml lists them as GPUs."""


class LlamaCpp(Engine):
    """A model in llama.cpp; ``context`` positions, ``threads`` of the processor."""

    def __init__(self, spec: Spec, *, model: str, context: int, threads: int, act: str, kv: str) -> None:
        spec.only("device", "ngl", "ubatch")
        self.lib = Library(spec.place)
        self.rows = spec.number("ubatch", ROWS)
        chosen = self._chosen(spec)
        params, self._kept = self.lib.model_params(chosen, spec.number("ngl", 999))
        api = self.api = self.lib.llama
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise WrongInput(f"llama.cpp does not read {model}: {self.lib.complaint()}")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.length = context or min(4096, api.llama_model_n_ctx_train(self.model))
        self.watched: Callable[..., bool] | None = None
        self._failed: BaseException | None = None
        self._watch = Watch(self._asked)
        self.context = self._opened(threads)
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(self.rows, 0, 1)
        self.position = 0
        self.facts = self._facts(model, chosen)
        self._prove()

    def _chosen(self, spec: Spec) -> list[Device]:
        """The devices that ``device`` names; without it every one that is not the processor, as llama.cpp does."""
        devices = self.lib.devices()
        name = spec.options.get("device", "")
        if not name:
            return [each for each in devices if each.type != CPU]
        found = [each for each in devices if each.name.lower() == name.lower()]
        if not found:
            names = ", ".join(each.name for each in devices)
            raise WrongInput(f"{spec.text}: llama.cpp has no device {name!r} here; it has: {names}")
        return [each for each in found if each.type != CPU]

    def _opened(self, threads: int) -> int:
        params = self.lib.context_params(self.length, self.rows, self._watch)
        context = self.api.llama_init_from_model(self.model, params)
        if not context:
            raise WrongInput(f"llama.cpp opens no context of {self.length} positions: {self.lib.complaint()}")
        self.api.llama_set_n_threads(context, threads, threads)
        taken = self.api.llama_n_ctx(context), self.api.llama_n_ubatch(context), self.api.llama_n_threads(context)
        if taken[0] < self.length or taken[1:] != (self.rows, threads):
            raise refused(f"llama.cpp did not take its options: it has {taken}")
        return int(context)

    def _facts(self, model: str, chosen: list[Device]) -> Facts:
        api, desc = self.api, ctypes.create_string_buffer(256)
        api.llama_model_desc(self.model, desc, len(desc))
        log = "".join(self.lib.messages)
        layers = re.search(r"offloaded (\d+)/(\d+) layers", log)
        offloaded = (int(layers[1]), int(layers[2])) if layers and chosen else None
        kind = "cpu" if not chosen else "software" if SOFTWARE.search(chosen[0].description) else "gpu"
        flash = (
            "flash attention"
            if re.search(r"flash.attn\w*\s*[=:].*(enabled|= *1)|Flash Attention enabled", log)
            else "plain attention"
        )
        processor = next((each for each in self.lib.devices() if each.type == CPU), None)
        device = chosen[0] if chosen else processor
        cache = re.search(r"K \((\w+)\).*V \((\w+)\)", log)
        buffers = dict.fromkeys(re.findall(r"(\S+) model buffer size", log))
        return Facts(
            name=f"llama.cpp {self.lib.version}", device=device.description if device else "", kind=kind,
            api=chosen[0].name if chosen else "CPU", numerics=f"llama.cpp {'GPU' if chosen else 'CPU'}, {flash}",
            model=model, vocab=api.llama_vocab_n_tokens(self.vocab), context=self.length,
            layers=api.llama_model_n_layer(self.model), width=api.llama_model_n_embd(self.model),
            kv=" ".join(dict.fromkeys(cache.groups())) if cache else "", bos=api.llama_vocab_bos(self.vocab),
            eos=api.llama_vocab_eos(self.vocab), add_bos=api.llama_vocab_get_add_bos(self.vocab), offloaded=offloaded,
            notes=tuple(f"weights in {name}" for name in buffers),
        )  # fmt: skip

    def _prove(self) -> None:
        """One token: the watch must be asked for tensors that have names, or it stands in another field."""
        names: list[str] = []
        self.watched = lambda tensor, asks: bool(asks and names.append(self._name(tensor)))  # never wants the data
        self._fed([max(self.facts.bos, 0)], every=False)
        self.watched = None
        self.reset()
        if not any(name.startswith("result_output") for name in names):
            raise refused(f"cb_eval of this llama.cpp was called for {len(names)} tensors, none of them result_output")

    def _name(self, tensor: object) -> str:
        return str(self.lib.ggml.ggml_get_name(tensor).decode(errors="replace"))

    def _asked(self, tensor: object, asks: bool, _user: object) -> bool:
        """What ggml calls before a tensor is computed (``asks``: is it wanted?) and after it (go on?)."""
        if self.watched is None:
            return not asks
        try:
            wants = self.watched(tensor, asks)
        except BaseException as error:  # it cannot go through C
            self._failed = self._failed or error
            return False
        return wants if asks else True

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        raw = text.encode()
        for room in (len(raw) + 8, 4 * len(raw) + 64):
            ids = (INT * room)()
            count = self.api.llama_tokenize(self.vocab, raw, len(raw), ids, room, True, True)
            if count >= 0:
                return list(ids[:count])
        raise WrongInput(f"llama.cpp cuts a text of {len(raw)} bytes into more than {room} tokens")

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.api.llama_memory_clear(self.memory, False)
        self.position = 0

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        rows = [self._fed(tokens[at : at + self.rows], every=True) for at in range(0, len(tokens), self.rows)]
        return np.concatenate(rows)

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self._fed([token], every=False)[0]

    def _fed(self, tokens: Sequence[int], every: bool) -> Array:
        """One batch; the logits of every token, or of the last."""
        if self.position + len(tokens) > self.length:
            raise WrongInput(f"{self.position + len(tokens)} tokens exceed the context of {self.length} positions")
        batch = self.batch
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at] = token, self.position + at
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, every or at == len(tokens) - 1
        status = self.api.llama_decode(self.context, batch)
        if self._failed:
            failed, self._failed = self._failed, None
            raise failed
        self.position += len(tokens)
        held = self.api.llama_memory_seq_pos_max(self.memory, 0) + 1
        if status or held != self.position:
            raise WrongInput(f"llama_decode returned {status} and holds {held} tokens, not {self.position}")
        rows = [self.api.llama_get_logits_ith(self.context, at) for at in range(len(tokens)) if batch.logits[at]]
        vocab = self.facts.vocab if hasattr(self, "facts") else self.api.llama_vocab_n_tokens(self.vocab)
        return np.stack([np.ctypeslib.as_array(row, (vocab,)).astype(np.float32) for row in rows])

    def close(self) -> None:
        """As ``Engine.close``."""
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)
