"""Tokenizers of GGUF files in folders of transformers, and the other way."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from kparity.engines.base import needed
from kparity.errors import WrongInput
from kparity.model import tokenizer as rules
from kparity.model.gguf_file import GgufFile
from kparity.model.gguf_header import ARRAY, BOOL, STRING
from kparity.model.tokenizer import Tokenizer
from kparity.model.writer import I32, U32, Key

CODE = "KP-TRANSFORMERS-NOLIB"
EITHER_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
"""How tokenizers of transformers write the contractions of ``kparity.model.tokenizer``."""


def of_file(path: str, vocab: int) -> Tokenizer:
    """That of a GGUF file."""
    with closing(GgufFile.open(path)) as file, file.naming():
        return Tokenizer.from_keys(file.keys, vocab)


def of_folder(folder: str) -> Tokenizer | None:
    """That of a folder of transformers, with the BOS that its own rules put in front; None where it has none."""
    transformers = needed("transformers", "hf", CODE)
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        bos, first = theirs.bos_token_id, theirs("a")["input_ids"][:1]
        return Tokenizer(theirs.backend_tokenizer, bos, theirs.eos_token_id, bos is not None and first == [bos])
    except Exception:  # whatever a file in it does to the library; ids can be scored all the same
        return None


def save(words: Tokenizer, folder: Path) -> None:
    """Write a tokenizer as transformers does; its rules put BOS in front where the model's do."""
    backend, special = words.backend, {}
    for name, token in (("bos_token", words.bos), ("eos_token", words.eos)):
        if token is not None:
            special[name] = backend.id_to_token(token)
    if words.add_bos:
        start, rule = special["bos_token"], needed("tokenizers.processors", "hf", CODE).TemplateProcessing
        backend.post_processor = rule(f"{start} $A", special_tokens=[(start, words.bos)])
    transformers = needed("transformers", "hf", CODE)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def keys(words: Tokenizer) -> list[Key]:
    """The keys of a GGUF file; raises WrongInput for what is no byte-level BPE that cuts texts as one of its names for
    that says (``tokenizer.ggml.pre``).
    """
    told = json.loads(words.backend.to_str())
    model, name = told["model"], _name_of_rules(told)
    if not name:
        raise WrongInput(
            "its tokenizer is no byte-level BPE whose rules have a name in GGUF; llama.cpp converts others"
        )
    added = {each["id"]: (each["content"], each["special"]) for each in told["added_tokens"]}
    texts = {token: text for text, token in model["vocab"].items()} | {at: text for at, (text, _) in added.items()}
    tokens = [texts.get(at, f"[PAD{at}]") for at in range(max(texts) + 1)]
    kinds = [rules.NORMAL if at in texts else rules.UNUSED for at in range(len(tokens))]
    for at, (_, special) in added.items():
        kinds[at] = rules.CONTROL if special else rules.USER_DEFINED
    ends = {"bos": words.bos, "eos": words.eos}
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, name),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)), ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(pair) for pair in model["merges"]])),
        ("tokenizer.ggml.add_bos_token", BOOL, words.add_bos),
        *((f"tokenizer.ggml.{end}_token_id", U32, token) for end, token in ends.items() if token is not None),
    ]  # fmt: skip


def _name_of_rules(told: dict[str, Any]) -> str:
    """``tokenizer.ggml.pre`` of a tokenizer.json; empty where it has none. NFC is left out as llama.cpp does."""
    before = told["pre_tokenizer"] or {}
    *cuts, last = before.get("pretokenizers", [before])
    found = [each.get("pattern", {}).get("Regex", "").replace(EITHER_CASE, rules.CONTRACTION) for each in cuts]
    known = all((each.get("behavior"), each.get("invert")) == ("Isolated", False) for each in cuts)
    bytewise = told["model"]["type"] == "BPE" and last.get("type") == "ByteLevel" and not last["add_prefix_space"]
    if not (known and bytewise) or (told["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return ""
    made = (*found, *((rules.GPT2,) if last["use_regex"] else ()))
    whole = bool(told["model"].get("ignore_merges"))
    fitting = (name for name, each in rules.RULES.items() if each == made and whole == (name in rules.IGNORE_MERGES))
    return next(fitting, "")
