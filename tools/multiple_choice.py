"""A multiple-choice task for lm-eval of a text that the embedded model was not trained on: which three words follow.

``python -m tools.multiple_choice make DIR`` writes the task ``heldout`` there. ``python -m tools.multiple_choice count
DIR`` counts what a model gets right by the plain pass in fp64, with none of lm-eval's code and none of the server's;
``--samples FILE`` holds each log-likelihood that lm-eval logged against it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small products: its threads would wait for each other

import numpy as np

from kparity.engines.registry import open_here
from kparity.ladder.prompts import built_in, lines
from kparity.model import load_model

TASK = """task: heldout
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
CONTEXT, LONGEST, WORDS, CHOICES = 8, 30, 3, 4
"""Words of a context, at least and at most; of a choice; and choices."""


def questions(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """A verse, the words that follow in it, and as many of other verses."""
    rng, made = random.Random(seed), list[dict[str, Any]]()
    verses = [each.split() for each in lines(built_in()) if len(each.split()) > CONTEXT + 2 * WORDS]
    for verse in verses[:count]:
        at = rng.randrange(CONTEXT, min(len(verse) - WORDS, LONGEST))
        right, choices = " ".join(verse[at : at + WORDS]), list[str]()
        while len(choices) < CHOICES - 1:
            other = rng.choice(verses)
            begin = rng.randrange(len(other) - WORDS)
            words = " ".join(other[begin : begin + WORDS])
            if words != right and words not in choices:
                choices.append(words)
        choices.append(right)
        rng.shuffle(choices)
        made.append({"context": " ".join(verse[:at]), "choices": choices, "answer": choices.index(right)})
    return made


def make(folder: Path, count: int) -> None:
    """Write the task."""
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / "heldout.jsonl").resolve()
    path.write_text("".join(json.dumps(each) + "\n" for each in questions(count)), "utf-8")
    (folder / "heldout.yaml").write_text(TASK.format(path=path), "utf-8")


def likelihoods(question: dict[str, Any], engine: Any, encode: Any) -> list[float]:
    """log p(choice | context) of each choice, cut into tokens as lm-eval does: the whole, less those of the context."""
    found = list[float]()
    for choice in question["choices"]:
        begin, tokens = len(encode(question["context"])), encode(f"{question['context']} {choice}")
        engine.reset()
        rows = engine.score(tokens).astype(np.float64)
        rows -= np.logaddexp.reduce(rows, axis=1)[:, None]
        found.append(float(sum(rows[at - 1, tokens[at]] for at in range(begin, len(tokens)))))
    return found


def count(folder: Path, samples: Path | None) -> dict[str, Any]:
    """What is right by the plain pass; with ``samples`` the largest difference of a log-likelihood, in nats."""
    asked = [json.loads(line) for line in (folder / "heldout.jsonl").read_text("utf-8").splitlines()]
    engine, words = open_here("reference"), load_model(None).tokenizer
    ours = [likelihoods(each, engine, lambda text: words.encode(text, bos=False)) for each in asked]
    right = [int(np.argmax(mine)) == each["answer"] for mine, each in zip(ours, asked, strict=True)]
    found = {"questions": len(asked), "right": sum(right), "acc": sum(right) / len(asked), "chance": 1 / CHOICES}
    if samples:
        logged = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
        logged.sort(key=lambda each: each["doc_id"])
        theirs = [[float(one[0]) for one in each["filtered_resps"]] for each in logged]
        far = np.abs(np.array(theirs) - np.array(ours))
        agreed = sum(int(np.argmax(a)) == int(np.argmax(b)) for a, b in zip(theirs, ours, strict=True))
        found |= {"lm-eval acc": float(np.mean([each["acc"] for each in logged])), "same choice": agreed,
                  "largest difference": round(float(far.max()), 4)}  # fmt: skip
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "count"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--samples", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.what == "make":
        make(options.folder, options.questions)
    else:
        print(json.dumps(count(options.folder, options.samples)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
