"""Train the embedded model and write it to `kparity/data`: `python -m training.train [--text FILE]`.

Needs torch, tokenizers, gguf and numpy, and the King James text: `apt-get install bible-kjv`, or a file with the output
of `bible -f gen1:1-rev22:21`. Takes about a quarter of an hour on two idle CPU cores with bfloat16 instructions.
Checkpoints go to `--work`; a run that was interrupted continues from the last one, and `--export-only` writes the model
files from it at any time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from training.export import write_model_files
from training.net import Net, Shape
from training.text import BOS_ID, Corpus, TokenStream, read_corpus, train_tokenizer

DATA = Path(__file__).resolve().parent.parent / "kparity" / "data"


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
        ids = torch.tensor(tokenizer.encode(chapter, add_special_tokens=False).ids)
        for target in ids.split(net.shape.context):
            source = torch.cat([torch.tensor([BOS_ID]), target[:-1]])
            total += float(net.loss(source[None], target[None])) * len(target)
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


def main() -> None:
    """Parse the command line, train, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="verses, one per line (default: ask the `bible` program)")
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the model files")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument(
        "--export-only", action="store_true", help="no training: export the checkpoint or an untrained model"
    )
    args = parser.parse_args()

    settings = Settings(seed=args.seed, steps=args.steps)
    corpus = read_corpus(args.text)
    tokenizer = train_tokenizer(corpus.train, Shape.vocab)
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
