"""``kparity serve``: the first backend that passes its probe, behind an HTTP interface of OpenAI's kind."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kparity.cli.command import Command, outputs
from kparity.cli.options import FILE, OUT, Dispatch, Number, dispatch_options

if TYPE_CHECKING:
    from kparity.engines.chat import Chat
    from kparity.model import Model

PARALLEL, QUEUE, BODY = 4, 64, 4 << 20
KEY_BYTES, TEMPLATE_BYTES = 4096, 1 << 20


@click.command(cls=Command, examples=("kparity serve -b cpu", "kparity serve -b cuda,cpu --port 8181 --parallel 8"))
@dispatch_options
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8180, show_default=True, help="0 for a free one.")
@click.option("--name", metavar="NAME", help="What clients call the model [default: the file's name].")
@click.option(
    "--api-key-file", "key_file", type=FILE, metavar="FILE", help="A file with the key that clients must show."
)
@click.option("--parallel", type=click.IntRange(1, 64), default=PARALLEL, show_default=True, metavar="N",
              help="Sequences side by side, each with a cache of its own.")  # fmt: skip
@click.option("--queue", type=click.IntRange(min=1), default=QUEUE, show_default=True, metavar="N",
              help="Requests that may wait; one more is told to come back (429).")  # fmt: skip
@click.option("--max-body", type=click.IntRange(min=1), default=BODY, show_default=True, metavar="BYTES",
              help="Of a request.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=0), default=0, metavar="N",
              help="That one answer may have [default: what the context holds].")  # fmt: skip
@click.option("--max-seconds", type=Number(min=0.1), default=600.0, show_default=True, metavar="T",
              help="That a request may take.")  # fmt: skip
@click.option("--silent", type=Number(min=1), default=60.0, show_default=True, metavar="T",
              help="End a backend that says nothing for so long while it works.")  # fmt: skip
@click.option("--drain", type=Number(min=0), default=30.0, show_default=True, metavar="T",
              help="What is under way at SIGTERM may take so long.")  # fmt: skip
@click.option(
    "--beyond-proof", is_flag=True, help="Serve positions, too, up to which nothing was proved (--depth bos)."
)
@click.option("--canary", type=click.IntRange(min=0), default=None, metavar="N",
              help="Repeat a known step after every N runs, and before an answer is complete; 0: never [default: 256, "
              "or more where that would take over 1 % of the time].")  # fmt: skip
@click.option("--canary-seconds", type=Number(min=0), default=0.0, metavar="T", help="And after T seconds.")
@click.option("--tokenizer", type=FILE, metavar="FILE", help="A tokenizer.json [default: the model's].")
@click.option("--chat-template", "template", type=FILE, metavar="FILE",
              help="A chat template of Jinja [default: the model's].")  # fmt: skip
@click.option("--receipt", type=OUT, metavar="FILE",
              help="Write what was found before the first answer, and on what, to FILE.")  # fmt: skip
@click.pass_context
def serve(
    ctx: click.Context, /, dispatch: Dispatch, host: str, port: int, name: str | None, key_file: str | None,
    parallel: int, queue: int, max_body: int, max_tokens: int, max_seconds: float, silent: float, drain: float,
    beyond_proof: bool, canary: int | None, canary_seconds: float, tokenizer: str | None, template: str | None,
    receipt: str | None,
) -> int:  # fmt: skip
    """Serve completions, chats and perplexity on the first backend that passes its probe (docs/serve.md). One that goes
    wrong while it serves is rejected aloud, and the next one takes over. At SIGTERM what is under way comes to its end.
    """
    from kparity.errors import WrongInput
    from kparity.host import install, streams
    from kparity.model import held
    from kparity.model.tokenizer import Tokenizer

    for library in ("starlette", "uvicorn"):
        install.library(library, "serve", "kparity serve")
    from kparity.receipts.statement import now
    from kparity.serve import run
    from kparity.serve.messages import Opening
    from kparity.serve.service import Limits

    if "-" in outputs().values():
        raise WrongInput("--receipt cannot be stdout while it serves; name a file")
    begun = now()
    order, forced = dispatch.order()
    model = ctx.with_resource(held(dispatch.model))
    h = model.hparams
    dispatch.fit(model)
    words = model.tokenizer if tokenizer is None else Tokenizer.from_file(tokenizer, h.bos, h.eos, h.add_bos)
    chat = _chat(model, template)
    key = _key(key_file) if key_file else ""
    opening = Opening(order, forced, dispatch.request(), [*model.file.identity], dispatch.cached, beyond_proof, canary,
                      canary_seconds, parallel, receipt or "", ("kparity", *sys.argv[1:]), begun)  # fmt: skip
    limits = Limits(max_body, max_tokens, max_seconds)
    settings = run.Settings(host, port, key, queue, silent, drain, limits)
    run.serve(opening, model, words, chat, name or model.path.stem, settings, streams.log)
    return 0


def _key(path: str) -> str:
    """The key in a file; raises WrongInput for none."""
    from kparity.errors import WrongInput
    from kparity.host import files

    key = files.read_text(path, "a key", KEY_BYTES).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise WrongInput(f"{path} holds no key; write one line of printable ASCII without blanks into it")
    return key


def _chat(model: Model, path: str | None) -> Chat | None:
    """The template that was given, or the model's; None where there is none."""
    from kparity.engines.chat import Chat
    from kparity.host import files

    text = (
        files.read_text(path, "a chat template", TEMPLATE_BYTES)
        if path
        else model.file.keys.get("tokenizer.chat_template")
    )
    return Chat(text, path or str(model.path), "serve", "a chat template") if isinstance(text, str) else None
