"""A model: hyper-parameters, weights and tokenizer of one GGUF file, read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kparity.errors import BadModel, UnknownName, WrongInput
from kparity.model import graph
from kparity.model.digest import file_sha256
from kparity.model.gguf_file import HELD, GgufFile
from kparity.model.hparams import Hparams, read_hparams
from kparity.model.tensors import Dense, Ternary, load_ternary, load_vector
from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.model.tokenizer import Tokenizer


class Model:
    """An open model file. Names and shapes are checked on opening; values are when they are loaded."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.path = file, file.path
        with self.file.naming():
            parts = file.keys.get("split.count", 0)
            if not isinstance(parts, int) or parts > 1:
                raise BadModel("one part of a model that is split over several files; join them with llama-gguf-split")
            embedding = file.tensors.get(graph.EMBEDDING)
            if embedding is None:
                raise BadModel(f"tensor {graph.EMBEDDING} is missing")
            self.hparams: Hparams = read_hparams(file.keys, embedding.rows)
            graph.check_tensors(file.tensors, self.hparams)
            self.hparams = replace(self.hparams, rope_factors=self._rope_factors())

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def n_bytes(self) -> int:
        """Bytes of the file."""
        return self.file.n_bytes

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the whole file; BadModel where that is not the one that was opened any more."""
        digest = file_sha256(self.path)
        self.file.unchanged()
        return digest

    @property
    def tied(self) -> bool:
        """Whether the LM head is the embedding."""
        return graph.HEAD not in self.file.tensors

    @property
    def ternary_types(self) -> tuple[str, ...]:
        """Types of the ternary linear layers, for example ``("TQ2_0",)``."""
        inside = (each for name, each in self.file.tensors.items() if name.startswith("blk."))
        return tuple(sorted({each.type.name for each in inside if each.type.ternary}))

    @cached_property
    def mixed(self) -> tuple[tuple[int, str], ...]:
        """Layer and name of the linear layers that are not ternary: their activations are not quantised."""
        places = [(layer, name) for layer in range(self.hparams.n_layer) for name in graph.LINEARS]
        return tuple(each for each in places if not self.file.tensors["blk.{}.{}.weight".format(*each)].type.ternary)

    def linear(self, layer: int, name: str) -> Ternary:
        """The packed weights of a ternary linear layer, repacked at every call: upload them and let them go."""
        if name not in graph.LINEARS:
            raise UnknownName("linear layer", name, graph.LINEARS)
        if not 0 <= layer < self.hparams.n_layer:
            raise WrongInput(f"{self.path} has layers 0 to {self.hparams.n_layer - 1}, not {layer}")
        stem = f"blk.{layer}.{name}"
        scale = math.prod(self._separate_scale(beside) for beside in graph.scale_names(stem))
        with self.file.naming():
            return load_ternary(self.file, self.file.tensors[f"{stem}.weight"], scale)

    def dense(self, layer: int, name: str) -> Dense:
        """The weights of a linear layer that is not ternary, [N, K]."""
        with self.file.naming():
            return Dense(self.file, self.file.tensors[f"blk.{layer}.{name}.weight"])

    def vector(self, name: str) -> Array:
        """A norm's weights, f32 [K]; BadModel where one is not finite."""
        if name not in self.file.tensors:
            raise UnknownName("tensor", name, self.file.tensors)
        values = load_vector(self.file, self.file.tensors[name])
        if not np.isfinite(values).all():
            where = int(np.argmin(np.isfinite(values)))
            self.file.fail(f"tensor {name}: element {where} is {values[where]}, expected a finite number")
        return values

    def embedding(self) -> Dense:
        """The token embeddings [vocab, width]."""
        return self._table(graph.EMBEDDING)

    def head(self) -> Dense:
        """The LM head [vocab, width]: ``output.weight``, or the embedding itself where there is none."""
        return self._table(graph.EMBEDDING if self.tied else graph.HEAD)

    def _table(self, name: str) -> Dense:
        with self.file.naming():
            return Dense(self.file, self.file.tensors[name], self.tied)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the file's own vocabulary."""
        from kparity.model.tokenizer import Tokenizer

        with self.file.naming():
            return Tokenizer.from_keys(self.file.keys, self.hparams.vocab)

    def inspect(self) -> dict[str, Any]:
        """Keys, tensor types and norm statistics as plain values (``kparity model inspect``)."""
        from kparity.model.inspection import inspect_model

        with self.file.naming():
            return inspect_model(self)

    def _rope_factors(self) -> tuple[float, ...]:
        """By what frequencies are divided; BadModel where one is no finite number above 0."""
        if graph.FACTORS not in self.file.tensors:
            return ()
        values = load_vector(self.file, self.file.tensors[graph.FACTORS])
        wrong = values[~((values > 0) & (values < np.inf))]
        if wrong.size:
            raise BadModel(f"tensor {graph.FACTORS} holds {wrong[0]}, expected finite numbers above 0")
        return tuple(values.tolist())

    def close(self) -> None:
        """Nothing can be read any more; arrays that were are kept by who has them."""
        self.file.close()

    def _separate_scale(self, name: str) -> float:
        tensor = self.file.tensors.get(name)
        if tensor is None:
            return 1.0
        scale = float(load_vector(self.file, tensor)[0])
        if not 0 <= scale < float("inf"):
            self.file.fail(f"tensor {name} is {scale}, expected a finite number of at least 0")
        return scale


@contextmanager
def held(path: str | Path | None = None) -> Iterator[Model]:
    """A model whose file stays one until the block ends: what is opened by its name meanwhile, for a digest too, raises
    BadModel where it is another by then.
    """
    with closing(load_model(path)) as model:
        HELD[model.path] = model.file.identity
        try:
            yield model
        finally:
            HELD.pop(model.path, None)


def load_model(path: str | Path | None = None) -> Model:
    """Open a GGUF file; ``None`` is the model that is part of the package."""
    file = GgufFile.open(path)
    try:
        return Model(file)
    except BadModel:
        file.close()
        raise
