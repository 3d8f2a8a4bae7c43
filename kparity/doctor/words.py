"""The vocabulary: its size, how text is cut before it (``pre``), its special tokens, and the chat template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from kparity.doctor.patient import Patient
from kparity.doctor.record import Change, Finding
from kparity.doctor.structure import some
from kparity.errors import KparityError
from kparity.host import install
from kparity.model.hparams import LLAMA3_PRE
from kparity.model.tokenizer import CONTROL, RULES, USER_DEFINED

PRE, TEMPLATE = "tokenizer.ggml.pre", "tokenizer.chat_template"
BOS, EOS, ADD_BOS = (f"tokenizer.ggml.{name}" for name in ("bos_token_id", "eos_token_id", "add_bos_token"))
FIRST = ("<|begin_of_text|>", "<s>", "<|bos|>", "<bos>")
LAST = ("<|end_of_text|>", "</s>", "<|eos|>", "<eos>", "<|endoftext|>", "<|im_end|>")
"""Texts of the tokens that begin and end a sequence in published vocabularies, the likeliest first."""
FAMILIES = ("gpt-2", "llama-bpe", "qwen2", "starcoder", "falcon", "default")
"""A ``pre`` of each rule that is known here."""
LOOKED = 20_000
"""Tokens that are cut, spread over the vocabulary."""
MORE = 0.01
"""By how much more of the vocabulary one rule must cut apart than another, to be the wrong one."""
MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>")


def findings(patient: Patient) -> Iterator[Finding]:
    """Of the words of a file."""
    tokens = patient.tokens
    if not tokens:
        if patient.file is not None:
            yield Finding("vocabulary", "wrong", "tokenizer.ggml.tokens is missing, or holds no strings")
        return
    yield _vocabulary(patient, tokens)
    yield _pre(patient, tokens)
    yield _special(patient, tokens)
    yield _template(patient, tokens)


def _vocabulary(patient: Patient, tokens: Sequence[str]) -> Finding:
    item, kind = "vocabulary", patient.text("tokenizer.ggml.model")
    embedding = patient.placed.get("token_embd.weight")
    rows = embedding.rows if embedding else 0
    key, told = f"{patient.arch}.vocab_size", f"{len(tokens)} tokens of {kind or 'no kind'}"
    if len(set(tokens)) != len(tokens):
        return Finding(item, "wrong", f"{told}, and {len(tokens) - len(set(tokens))} are there twice")
    if rows and len(tokens) > rows:
        return Finding(item, "wrong", f"{told}, and the embedding has {rows} rows: tokens without one")
    stored = patient.keys.get(key)
    if rows and stored is not None and stored != rows:
        fix = (Change("set", key, rows),)
        return Finding(item, "wrong", f"{key} is {stored}, and the embedding has {rows} rows", fix)
    if kind not in ("gpt2", "llama"):
        return Finding(item, "doubtful", f"{told}: not read here (gpt2 and llama are)")
    return Finding(item, "ok", f"{told} for {rows or 'unknown'} rows of the embedding")


def cut_apart(tokens: Sequence[str], types: Sequence[int]) -> dict[str, float]:
    """The share of ordinary tokens that each rule cuts apart, so that no text becomes them, by a ``pre`` of the rule.

    The tokens are those of a byte-level vocabulary; what is no UTF-8 by itself is left out.
    """
    from tokenizers import Regex, pre_tokenizers

    from kparity.model.writer import byte_alphabet

    spelled = {letter: byte for byte, letter in enumerate(byte_alphabet())}
    ordinary = [token for token, kind in zip(tokens, types, strict=True) if kind not in (CONTROL, USER_DEFINED)]
    looked = [token for token in ordinary[:: max(1, len(ordinary) // LOOKED)] if set(token) <= set(spelled)]
    texts = [bytes(spelled[letter] for letter in token).decode("utf-8", "replace") for token in looked]
    texts = [text for text in texts if "\ufffd" not in text]
    found = {}
    for name in FAMILIES:
        rule = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(each), "isolated") for each in RULES[name]])
        apart = sum(len(rule.pre_tokenize_str(text)) > 1 for text in texts)
        found[name] = apart / max(1, len(texts))
    return found


def likely(patient: Patient, tokens: Sequence[str], apart: dict[str, float]) -> str:
    """The ``pre`` that a vocabulary looks like by its special tokens, else by what the rules cut; empty without one."""
    known = set(tokens[-4096:]) | set(tokens[:4096])
    if "<|begin_of_text|>" in known:
        return "llama-bpe"
    if ">>TITLE<<" in known:
        return "falcon3" if len(tokens) > 100_000 else "falcon"
    if {"<|im_start|>", "<|endoftext|>"} <= known and len(tokens) > 150_000:
        return "qwen2"
    least = min(apart.values())
    best = [name for name, share in apart.items() if share <= least + MORE]
    return best[0] if len(best) == 1 else ""


def _same_rule(one: str, other: str) -> bool:
    return RULES.get(one) == RULES.get(other)


def _pre(patient: Patient, tokens: Sequence[str]) -> Finding:
    item, stored = "pre", patient.keys.get(PRE)
    if patient.text("tokenizer.ggml.model") != "gpt2":
        return Finding(item, "not applicable", "no byte-level vocabulary: nothing is cut before it")
    types = patient.keys.get("tokenizer.ggml.token_type")
    kinds = [int(each) for each in types] if types is not None and len(types) == len(tokens) else [1] * len(tokens)
    apart = cut_apart(tokens, kinds)
    guess = likely(patient, tokens, apart)
    told = ", ".join(f"{name} {share:.1%}" for name, share in apart.items())
    told = f"tokens that no text becomes, by rule: {told}"
    fix = (Change("set", PRE, guess),) if guess else ()
    if not isinstance(stored, str):
        looks = f"the vocabulary looks like {guess!r}" if guess else "the vocabulary does not tell which it is"
        return Finding(
            item, "wrong", f"{PRE} is missing, and engines fall back to rules that differ; {looks}; {told}", fix
        )
    if stored not in RULES:
        return Finding(item, "doubtful", f"{stored!r} is not known here, and the file is refused; {told}")
    mine = next((share for name, share in apart.items() if _same_rule(name, stored)), 0.0)
    if guess and not _same_rule(guess, stored):
        worse = mine > apart.get(guess, mine) + MORE
        return Finding(item, "wrong" if worse else "doubtful", f"{stored!r}, and it looks like {guess!r}; {told}", fix)
    if mine > min(apart.values()) + MORE:
        return Finding(item, "doubtful", f"{stored!r} cuts {mine:.1%} of its own tokens apart; {told}")
    return Finding(item, "ok", f"{stored!r}; {told}")


def _special(patient: Patient, tokens: Sequence[str]) -> Finding:
    """BOS, EOS, and whether a prompt starts with the first."""
    item, notes, fixes, wrong = "special tokens", list[str](), list[Change](), False
    kind = patient.text("tokenizer.ggml.model")
    for key, texts, usual in ((BOS, FIRST, 1), (EOS, LAST, 2)):
        token, name = patient.keys.get(key), key.split(".")[-1]
        known = [tokens.index(text) for text in texts if text in tokens][:1]
        if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < len(tokens):
            continue
        if token is None and (kind == "llama" or (key == BOS and not known)):
            notes.append(f"{name} is missing" + (f", and {usual} is assumed" if kind == "llama" else ""))
            continue
        wrong = wrong or token is not None or key == EOS
        looks = f"; it looks like {known[0]} {tokens[known[0]]!r}" if known else ""
        notes.append(f"{name} is {'missing' if token is None else token}, of {len(tokens)} tokens{looks}")
        fixes += [Change("set", key, known[0])] if known else []
    if wrong:
        return Finding(item, "wrong", "; ".join(notes), tuple(fixes))
    bos, eos, adds = (patient.keys.get(key) for key in (BOS, EOS, ADD_BOS))
    named = [("BOS", bos), ("EOS", eos)]
    told = [f"{name} {token} {tokens[token]!r}" for name, token in named if isinstance(token, int)]
    types = patient.keys.get("tokenizer.ggml.token_type")
    if types is not None and len(types) == len(tokens):
        notes += [f"token {each} {tokens[each]!r} is no control token" for each in (bos, eos) if isinstance(each, int)
                  if int(types[each]) not in (CONTROL, USER_DEFINED)]  # fmt: skip
    if adds is None and bos is not None:
        usual_ = kind == "llama" or patient.text(PRE) in LLAMA3_PRE
        notes.append(f"add_bos_token is missing: {'BOS' if usual_ else 'no BOS'} is put in front of a prompt here")
    elif adds is not None:
        told.append("put in front of a prompt" if adds else "not put in front of a prompt")
    return Finding(item, "doubtful" if notes else "ok", "; ".join([*told, *notes]), tuple(fixes))


def _template(patient: Patient, tokens: Sequence[str]) -> Finding:
    item, text = "chat template", patient.keys.get(TEMPLATE)
    if not isinstance(text, str) or not text.strip():
        return Finding(item, "not applicable", "there is none: a chat with it is not what it was trained on")
    marks = [mark for mark in dict.fromkeys(MARK.findall(text)) if mark not in tokens]
    if marks:
        return Finding(item, "wrong", f"{some(marks)}: written by the template, and no token of the vocabulary")
    eos = patient.keys.get(EOS)
    ends = [mark for mark in ("<|eot_id|>", "<|im_end|>") if mark in text]
    spelled = tokens[eos] if isinstance(eos, int) and 0 <= eos < len(tokens) else ""
    if find_spec("jinja2") is None:
        return Finding(item, "not applicable", f"not tried: jinja2 is not installed; {install.extra('serve')}")
    try:
        filled = _filled(patient, text, spelled)
    except KparityError as error:
        return Finding(item, "wrong", str(error))
    if ends and spelled not in ends:
        return Finding(item, "doubtful", f"it ends a turn with {ends[0]}, and EOS is {spelled!r}: answers may not stop")
    return Finding(item, "ok", f"a question becomes {filled[:60]!r}")


def _filled(patient: Patient, text: str, eos: str) -> str:
    from kparity.engines.chat import Chat

    chat = Chat(text, patient.path.name, "serve", "fills in chat templates")
    try:
        return chat.filled([{"role": "user", "content": "Who?"}], "", eos)
    finally:
        chat.close()
