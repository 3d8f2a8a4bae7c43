"""``kparity receipt``: verify, sign, show, list, compare receipts, and make a page of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kparity.cli.command import File, Group
from kparity.cli.options import FOLDER, Number, index_option, json_option
from kparity.host.files import write_json
from kparity.host.streams import log

if TYPE_CHECKING:
    from kparity.receipts.cutover import CutoverStatement
    from kparity.receipts.findings import Finding
    from kparity.receipts.record import Statement
    from kparity.receipts.store import Stored

FILE, OUT = File(path_type=Path), File(written=True, path_type=Path)


@click.group(cls=Group)
def receipt() -> None:
    """Receipts: what was measured, bound to what it was measured on (see docs/receipts.md)."""


@receipt.command(
    examples=(
        "kparity receipt verify probe.json",
        "kparity receipt verify probe.json --json=findings.json",
    ),
)
@click.argument("files", nargs=-1, type=FILE, metavar="FILE...")
@click.option("--require-gpu-kernels", is_flag=True, help="Refuse what no GPU computed.")
@click.option("--trust-claims", is_flag=True, help="With it: take a GPU that no driver tells of, where the run did.")
@click.option("--require-parity", is_flag=True, help="Refuse speeds whose output was not judged right.")
@click.option("--key", type=FILE, metavar="PUB", help="Public key (PEM) that must have signed them.")
@click.option("--model", type=FILE, metavar="FILE", help="The model that must have been measured.")
@click.option("--commit", default="", metavar="SHA", help="The commit that must have been measured, unchanged.")
@click.option("--nonce", metavar="N", help="The word from which their work must have been drawn.")
@click.option("--max-age", "max_age_days", type=Number(min=0), metavar="DAYS", help="Refuse what is older.")
@json_option
@click.pass_context
def verify(ctx: click.Context, /, files: tuple[Path, ...], json_path: str | None, **demands: Any) -> None:
    """Hold receipts against their schema, digest, samples, devices, gates and signatures.

    Every reason to refuse one is a line on stdout. Exit codes: 0 all pass, 1 one was refused, 2 one cannot be read,
    3 none was given.
    """
    from kparity.cli.table import say
    from kparity.errors import WrongInput
    from kparity.receipts import document

    document.spare(json_path)
    if demands["trust_claims"] and not demands["require_gpu_kernels"]:
        raise WrongInput("--trust-claims loosens --require-gpu-kernels, which is not given; add it")
    if not files:
        log("no receipt was given")
        ctx.exit(3)
    findings, unreadable = _verified(files, demands)
    for name in map(str, files if json_path != "-" else ()):
        if name in unreadable:
            log(f"{name}: unreadable: {unreadable[name]}")
            continue
        for finding in findings[name]:
            say(f"{name}: {finding}")
        say(f"{name}: {f'refused ({len(findings[name])})' if findings[name] else 'PASS'}")
    if json_path != "-" and [] in findings.values():
        from kparity.receipts.recompute import SELF_REPORTED

        log(f"self-reported in what passes: {SELF_REPORTED}; receipt recompute proves model and output")
    if json_path:
        rows = [
            {
                "file": name, "passed": findings.get(name) == [], "unreadable": unreadable.get(name),
                "findings": [dataclasses.asdict(each) for each in findings.get(name, [])],
            }
            for name in map(str, files)
        ]  # fmt: skip
        write_json(json_path, {"schema": "kparity-receipt-verify-v1", "receipts": rows})
    ctx.exit(2 if unreadable else int(any(findings.values())))


def _verified(files: tuple[Path, ...], demands: dict[str, Any]) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Findings of every file that can be read, replays among them, and what is wrong with the others."""
    from kparity.errors import WrongInput
    from kparity.receipts import document, sign, verify
    from kparity.receipts.rules.identity import form

    findings: dict[str, list[Finding]] = {}
    unreadable: dict[str, str] = {}
    sound = []
    for path in files:
        try:
            read = document.read(path)
        except WrongInput as error:
            unreadable[str(path)] = str(error)
            continue
        findings[str(path)] = verify.verify(read, **demands)
        if not any(finding.code in ("RCPT-SCHEMA", "RCPT-PAYLOAD-TYPE") for finding in findings[str(path)]):
            sound += [(str(path), each) for each in [form(sign.statement_of(read))[0]] if each]
        if demands["key"] is None and document.is_envelope(read):
            log(f"{path}: signed; the signature was not looked at, give --key")
    for name, replayed in verify.replays(sound).items():
        findings[name] += replayed
    return findings, unreadable


def _whole(path: Path) -> tuple[dict[str, Any], Statement | CutoverStatement]:
    """The statement in a file, plain and as a record; raises WrongInput with the first thing that is wrong with it."""
    from kparity.errors import WrongInput
    from kparity.receipts import document, sign
    from kparity.receipts.cutover import CutoverStatement, is_cutover
    from kparity.receipts.rules.identity import form, form_of

    plain = sign.statement_of(document.read(path))
    statement, malformed = form_of(plain, CutoverStatement) if is_cutover(plain) else form(plain)
    if statement is None:
        raise WrongInput(f"{path} is no receipt of this version: {malformed[0]}; see docs/receipts.md")
    return plain, statement


def _statement(path: Path) -> tuple[dict[str, Any], Statement]:
    """The same of what was measured: raises WrongInput for a cutover, too."""
    from kparity.errors import WrongInput
    from kparity.receipts.record import Statement

    plain, statement = _whole(path)
    if not isinstance(statement, Statement):
        raise WrongInput(f"{path} is of a cutover, which measures nothing; name a receipt of a probe or a benchmark")
    return plain, statement


@receipt.command(
    examples=("kparity receipt sign probe.json --key team.pem --output signed.json",),
)
@click.argument("file", type=FILE)
@click.option("--key", required=True, type=FILE, metavar="PRIV", help="Private key (PEM, Ed25519).")
@click.option(
    "--output",
    type=File(written=True, over=True, path_type=Path),
    metavar="OUT",
    help="Where to write the envelope [default: over FILE].",
)
def sign(file: Path, key: Path, output: Path | None) -> None:
    """Sign a receipt, or its test result: a DSSE envelope around it, with an Ed25519 key. What does not verify is not
    signed.
    """
    import msgspec

    from kparity.errors import WrongInput
    from kparity.receipts import document, results, sign, statement, verify

    plain = document.read(file)
    if results.is_result(plain):
        try:
            msgspec.convert(plain, results.ResultStatement)
        except msgspec.ValidationError as error:
            raise WrongInput(f"{file} is no test result: {error}; make it with kparity receipt test-result") from error
    else:
        plain = _whole(file)[0]
        for finding in verify.verify(plain):
            raise WrongInput(f"{file} would be refused: {finding}; sign a receipt that passes kparity receipt verify")
    envelope = sign.sign(plain, key)
    statement.write(output or file, envelope)
    log(f"{output or file}: signed by {envelope['signatures'][0]['keyid']}")


@receipt.command(
    examples=("kparity receipt recompute probe.json --model model.gguf -b cpu",),
)
@click.argument("file", type=FILE)
@click.option("--model", required=True, type=FILE, metavar="FILE", help="The model that was measured.")
@click.option("-b", "--backend", default="cpu", show_default=True, metavar="B", help="Where to compute it again.")
@index_option
@click.pass_context
def recompute(ctx: click.Context, file: Path, model: Path, backend: str, index: int) -> None:
    """Compute the logits of a receipt again, on a backend of this machine.

    Exit codes: 0 they are the same within the noise, 1 they are others or the receipt is refused, 2 it cannot be read
    or is of another model.
    """
    from kparity.cli.table import say
    from kparity.receipts import recompute, verify

    plain, statement = _statement(file)
    findings = verify.verify(plain)
    for finding in findings:
        say(f"{file}: {finding}")
    found = [] if findings else list(recompute.recomputed(statement.predicate, model, backend, index))
    for each in found:
        verdict = "PASS" if each.passed else "refused"
        say(
            f"{each.backend}: {verdict}: cosine {each.cosine:.6f}, {each.noise:.2f} times the noise, over "
            f"{each.positions} positions; {each.same_bits} with the same bits"
        )
    passed = bool(found) and all(each.passed for each in found)
    if passed:
        say(f"proved: model, tokens, output; self-reported: {recompute.SELF_REPORTED}")
    ctx.exit(int(not passed))


@receipt.command(
    name="test-result",
    examples=("kparity receipt test-result probe.json",),
)
@click.argument("file", type=FILE)
@click.argument("output", type=OUT, default="-", metavar="[OUTPUT]")
def test_result(file: Path, output: Path) -> None:
    """The verdicts of a receipt as an in-toto test result, for policy engines; - is stdout [default]."""
    from kparity.receipts import document, results, verify
    from kparity.receipts.cutover import CutoverStatement

    document.spare(output, "OUTPUT")
    plain, statement = _whole(file)
    findings = verify.verify(plain)
    if isinstance(statement, CutoverStatement):
        write_json(output, results.of_cutover(statement, findings))
    else:
        write_json(output, results.of_receipt(statement, findings))


@receipt.command(
    examples=("kparity receipt keygen team.pem",),
)
@click.argument("private", type=OUT)
@click.option("--public", type=OUT, metavar="PUB", help="Where the public key goes [default: PRIVATE with .pub].")
def keygen(private: Path, public: Path | None) -> None:
    """Make an Ed25519 key pair (PEM); prints the key's id."""
    from kparity.cli.table import say
    from kparity.receipts import sign

    say(sign.keygen(private, public or private.with_suffix(".pub")))


@receipt.command(
    examples=("kparity receipt show probe.json",),
)
@click.argument("file", type=FILE)
def show(file: Path) -> None:
    """One receipt as a page for the terminal."""
    from kparity.cli.receipt_table import print_cutover, print_receipt
    from kparity.receipts import document, verify
    from kparity.receipts.cutover import CutoverStatement

    statement, findings = _whole(file)[1], verify.verify(document.read(file))
    if isinstance(statement, CutoverStatement):
        print_cutover(statement.predicate, findings)
    else:
        print_receipt(statement.predicate, findings)


def _stored(folder: Path) -> list[Stored]:
    """The receipts below a folder; what else lies there is a line on stderr."""
    from kparity.receipts import store

    stored, others = store.load_folder(folder)
    for line in others:
        log(line)
    return stored


@receipt.command(
    name="list",
    examples=("kparity receipt list .",),
)
@click.argument("folder", type=FOLDER)
@click.option("--sql", metavar="SELECT", help="A query over the table receipts (DuckDB).")
@json_option
@click.pass_context
def list_(ctx: click.Context, folder: Path, sql: str | None, json_path: str | None) -> None:
    """The receipts below a folder, a row per measurement: file, time, commit, dirty, backend, device, kind, driver,
    model, measurement, tokens_per_s, low, high, parity, valid.

    Exit codes: 0 rows or not, 2 no such folder or wrong SQL, 3 no receipt.
    """
    from kparity.receipts import document, store

    document.spare(json_path)
    stored = _stored(folder)
    names, rows = store.query(store.rows(stored), sql or store.QUERY)
    if json_path:
        write_json(json_path, [dict(zip(names, row, strict=True)) for row in rows])
    else:
        from kparity.cli.receipt_table import print_rows

        print_rows(names, rows)
    ctx.exit(0 if stored else 3)


@receipt.command(
    examples=("kparity receipt diff probe.json probe.json",),
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def diff(a: Path, b: Path, json_path: str | None) -> None:
    """What two receipts say differently; speeds last, as they stand (kparity bench compare judges them)."""
    from kparity.receipts import diff, document

    document.spare(json_path)
    left, right = (_statement(path)[0]["predicate"] for path in (a, b))
    fields, speeds = diff.differences(left, right), diff.speeds(left, right)
    if json_path:
        write_json(json_path, {
            "differences": [dataclasses.asdict(each) for each in fields],
            "speeds": [dataclasses.asdict(each) for each in speeds],
        })  # fmt: skip
    else:
        from kparity.cli.receipt_table import print_diff

        print_diff(fields, speeds)


@receipt.command(
    examples=("kparity receipt page . --output page.html",),
)
@click.argument("folder", type=FOLDER)
@click.option("--output", required=True, type=OUT, metavar="FILE", help="Where to write the page.")
@click.pass_context
def page(ctx: click.Context, folder: Path, output: Path) -> None:
    """An HTML page of a folder of receipts: tokens/s by device and backend, with parity beside every bar."""
    from kparity.host import files
    from kparity.receipts import document, page

    document.spare(output, "--output")
    stored = _stored(folder)
    if not stored:
        log(f"{folder} has no receipt")
        ctx.exit(3)
    files.write(output, page.html(stored))
    log(f"{output}: {len(stored)} receipts, {sum(not each.valid for each in stored)} of them refused")
