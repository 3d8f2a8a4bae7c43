"""Train the embedded model and write it to `kparity/data`: `python -m training.train [--text FILE]`.

Needs torch, tokenizers, gguf and numpy, and the King James text: `apt-get install bible-kjv`, or a file with the output
of `bible -f gen1:1-rev22:21`. Takes about a quarter of an hour on two idle CPU cores with bfloat16 instructions.
Checkpoints go to `--work`; a run that was interrupted continues from the last one, and `--export-only` writes the model
files from it at any time.

Beside the GGUF file stand the held-out text, and what was measured on the file. The measuring reads it back by the
plain forward pass of kparity, which shares no code with the network under training: a mistake in packing, in tensor
names or in the graph shows as a perplexity that differs from the one at the end of the training curve.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from kparity import plain
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.host import files
from kparity.model import load_model
from kparity.model.writer import ARRAY, BOOL, I32, STRING, U32, Entry, Key, Spec, encode, graph_keys, write_file
from training.net import BOS_ID, EOS_ID, SOURCE, Corpus, Net, Shape, TernaryLinear, TokenStream, ternary, windows

DATA = Path(__file__).resolve().parent.parent / "kparity" / "data"
PROMPTS = ("In the beginning", "And the LORD said unto", "Blessed are", "The sword of", "Then Jesus answered")
CONTINUED = 48
"""Tokens of a continuation at most."""
TQ2_0_FILE = 37
"""``general.file_type`` of a file whose linear layers are TQ2_0 (llama.h, ``enum llama_ftype``)."""
NORMAL, CONTROL = 1, 3
"""Token types (llama.h, ``enum llama_token_type``)."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome, beside the text."""

    seed: int = 20250101
    steps: int = 2600
    batch: int = 8  # windows
    window: int = 512  # tokens
    warmup: int = 100  # steps
    lr_first: float = 3e-3
    lr_second: float = 1.5e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    every: int = 100  # steps between held-out losses and checkpoints


@dataclass
class Progress:
    """What a checkpoint holds beside the weights: the curve so far and the seconds spent."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def schedule(settings: Settings, step: int) -> tuple[float, float]:
    """Learning rate and weight decay at `step`, in the two stages of the BitNet b1.58 2B4T report (2.2).

    The rate falls linearly in each; the second stage is lower and has no weight decay.
    """
    half = settings.steps // 2
    if step < half:
        warm = min(1.0, (step + 1) / settings.warmup)
        fall = settings.lr_first - (settings.lr_first - settings.lr_second) * step / half
        return warm * fall, settings.weight_decay
    return settings.lr_second * max(0.0, 1 - (step - half) / (settings.steps - half)), 0.0


def make_optimizer(net: Net) -> torch.optim.AdamW:
    """AdamW of two groups: matrices, and norm gains (vectors), which get no weight decay."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in net.parameters():
        groups[parameter.ndim == 1]["params"].append(parameter)
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


@torch.no_grad()
def held_out_loss(net: Net, tokenizer: Tokenizer, chapters: list[str]) -> float:
    """Nats per token over the chapters, in windows of the context length that each begin with `<s>`."""
    total, count = 0.0, 0
    for chapter in chapters:
        ids = tokenizer.encode(chapter, add_special_tokens=False).ids
        for source, target in windows(ids, net.shape.context):
            total += float(net.loss(torch.tensor([source]), torch.tensor([target]))) * len(target)
            count += len(target)
    return total / count


def load(path: Path, net: Net, optimizer: torch.optim.AdamW | None = None) -> Progress:
    """Read a checkpoint, where there is one, into `net` and `optimizer`."""
    if not path.exists():
        return Progress()
    state = torch.load(path, weights_only=True)
    net.load_state_dict(state["net"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def train(settings: Settings, net: Net, tokenizer: Tokenizer, corpus: Corpus, checkpoint: Path) -> Progress:
    """Train from the last checkpoint, or from the start, to the last step."""
    optimizer = make_optimizer(net)
    progress = load(checkpoint, net, optimizer)
    stream = TokenStream.build(tokenizer, corpus.train)
    loss_of: Callable[..., torch.Tensor] = torch.compile(net.loss)
    begun, recent = time.monotonic() - progress.seconds, []
    for step in range(progress.step, settings.steps):
        rate, decay = schedule(settings, step)
        matrices, vectors = optimizer.param_groups
        matrices.update(lr=rate, weight_decay=decay)
        vectors.update(lr=rate)
        # A generator per step: a continued run sees the same windows as an uninterrupted one.
        rng = np.random.default_rng([settings.seed, step])
        loss = loss_of(*stream.batch(rng, settings.batch, settings.window))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            progress.step, progress.seconds = step + 1, round(time.monotonic() - begun, 1)
            held_out = held_out_loss(net, tokenizer, corpus.held_out)
            point = {"step": step + 1, "train": round(float(np.mean(recent)), 4), "held_out": round(held_out, 4)}
            progress.curve.append(point)
            print(f"{point} {progress.seconds:.0f} s", file=sys.stderr, flush=True)
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
            part = checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(checkpoint)  # a reader never sees half of it
            recent = []
    return progress


def keys(shape: Shape, tokenizer: Tokenizer) -> list[Key]:
    """Hyper-parameters and the byte-level BPE vocabulary: tokens in the order of their ids, merges in that of rank."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [CONTROL if index in (BOS_ID, EOS_ID) else NORMAL for index in range(len(tokens))]
    return [
        ("general.architecture", STRING, "bitnet"),
        ("general.name", STRING, "kparity embedded"),
        ("general.description", STRING, "Ternary language model for parity checks, trained on the King James Bible"),
        ("general.license", STRING, "Apache-2.0"),
        ("general.file_type", U32, TQ2_0_FILE),
        *graph_keys(Spec(arch="bitnet", **asdict(shape))),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, types)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(pair) for pair in model["merges"]])),
        ("tokenizer.ggml.bos_token_id", U32, BOS_ID),
        ("tokenizer.ggml.eos_token_id", U32, EOS_ID),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_eos_token", BOOL, False),
    ]


def tensors(net: Net) -> Iterator[Entry]:
    """Ternary weights as TQ2_0, the embedding as F16, the norm gains as F32."""
    for name, module in net.named_modules():
        if not hasattr(module, "weight"):
            continue
        weight = module.weight.detach()
        if isinstance(module, TernaryLinear):
            codes, scale = ternary(weight)
            scales = np.full((len(codes), codes.shape[1] // 256), scale.item(), np.float32)
            kind, raw = "tq2_0", encode("tq2_0", codes.numpy().astype(np.int8), scales)
        else:
            kind, dtype = ("f16", "<f2") if weight.ndim == 2 else ("f32", "<f4")
            raw = weight.numpy().astype(dtype).tobytes()
        yield Entry.of(f"{name}.weight", tuple(reversed(weight.shape)), kind, lambda raw=raw: [raw])


def perplexity(path: Path, chapters: list[str]) -> dict[str, float]:
    """Perplexity per token and bits per byte, in windows of the context length that each begin with `<s>`."""
    model = load_model(path)
    nats, tokens = 0.0, 0
    for chapter in chapters:
        for source, target in windows(model.tokenizer.encode(chapter, bos=False), model.hparams.context):
            logits = plain.logits(path, source, act="token", kv="f32").logits
            nats += float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(target)), target]).sum())
            tokens += len(target)
    octets = sum(len(chapter.encode()) for chapter in chapters)
    return {
        "perplexity": round(math.exp(nats / tokens), 4),
        "nats_per_token": round(nats / tokens, 5),
        "bits_per_byte": round(nats / math.log(2) / octets, 4),
        "tokens": tokens,
        "bytes": octets,
    }


def continuations(path: Path) -> dict[str, str]:
    """Greedy continuations of a few prompts."""
    model = load_model(path)
    engine, texts = Engine(model, open_backend("cpu")), {}
    for prompt in PROMPTS:
        engine.reset()
        texts[prompt] = model.tokenizer.decode(list(engine.generate(model.tokenizer.encode(prompt), CONTINUED)))
    engine.close()
    return texts


def write_model_files(net: Net, tokenizer: Tokenizer, corpus: Corpus, training: dict[str, Any], out: Path) -> None:
    """Write `embedded.gguf`, `heldout.txt` and the record `embedded.json`, whose numbers are measured on the file."""
    path = write_file(out / "embedded.gguf", keys(net.shape, tokenizer), list(tensors(net)))
    files.write(out / "heldout.txt", "\n".join(corpus.held_out))  # an empty line between chapters
    record = {
        "source": SOURCE,
        "tokenizer": {"kind": "byte-level BPE", "pre": "gpt-2", "tokens": net.shape.vocab},
        "training": training,
        "versions": {name: version(name) for name in ("torch", "tokenizers", "gguf", "numpy")},
        "held_out": perplexity(path, corpus.held_out),
        "continuations": continuations(path),
        "file": {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    files.write(out / "embedded.json", json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("held_out", "continuations", "file")}, indent=1))


def main() -> None:
    """Parse the command line, train, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="verses, one per line (default: ask the `bible` program)")
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the model files")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--export-only", action="store_true", help="export the checkpoint, or an untrained model")
    args = parser.parse_args()
    files.refuse_no_folder(args.out)

    settings = Settings(seed=args.seed, steps=args.steps)
    corpus = Corpus.read(args.text)
    tokenizer = corpus.train_tokenizer(Shape.vocab)
    torch.manual_seed(settings.seed)
    net = Net(Shape())
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"
    exporting = args.export_only
    progress = load(checkpoint, net) if exporting else train(settings, net, tokenizer, corpus, checkpoint)
    training = {"settings": asdict(settings), "seconds": progress.seconds, "curve": progress.curve}
    write_model_files(net, tokenizer, corpus, training, args.out)


if __name__ == "__main__":
    main()
