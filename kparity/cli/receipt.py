"""``kparity receipt``: verify, sign, show, list, compare receipts, and make a page of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kparity.receipts.findings import Finding
    from kparity.receipts.record import Statement
    from kparity.receipts.verify import Demands

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def receipt() -> None:
    """Receipts: what was measured, bound to what it was measured on (see docs/receipts.md)."""


@receipt.command()
@click.argument("files", nargs=-1, type=FILE, metavar="FILE...")
@click.option("--require-gpu-kernels", is_flag=True, help="Refuse what no GPU computed.")
@click.option("--require-parity", is_flag=True, help="Refuse speeds whose output was not judged right.")
@click.option("--key", type=FILE, metavar="PUB", help="Public key (PEM) that must have signed them.")
@click.option("--model", type=FILE, metavar="FILE", help="The model that must have been measured.")
@click.option("--commit", default="", metavar="SHA", help="The commit that must have been measured, unchanged.")
@click.option("--max-age", type=click.FloatRange(min=0), metavar="DAYS", help="Refuse what is older.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the findings as JSON; - is stdout.")
@click.pass_context
def verify(
    ctx: click.Context,
    files: tuple[Path, ...],
    require_gpu_kernels: bool,
    require_parity: bool,
    key: Path | None,
    model: Path | None,
    commit: str,
    max_age: float | None,
    json_path: str | None,
) -> None:
    """Hold receipts against their schema, digest, samples, devices, gates and signatures.

    Every reason to refuse one is a line on stdout. Exit codes: 0 all pass, 1 one was refused, 2 one cannot be read,
    3 none was given.
    """
    from kparity.receipts.verify import Demands

    if not files:
        click.echo("no receipt was given", err=True)
        ctx.exit(3)
    demands = Demands(require_gpu_kernels, require_parity, key, model, commit, max_age)
    found, unreadable = _verified(files, demands)
    if json_path != "-":
        for path in files:
            _say(path, found.get(str(path)), unreadable.get(str(path)))
    if json_path:
        _as_json(json_path, files, found, unreadable)
    ctx.exit(2 if unreadable else int(any(found.values())))


def _verified(files: tuple[Path, ...], demands: Demands) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Findings of every file that can be read, replays among them, and what is wrong with the others."""
    from kparity.errors import WrongInput
    from kparity.receipts import document, sign
    from kparity.receipts.rules.identity import form
    from kparity.receipts.verify import replays
    from kparity.receipts.verify import verify as judge

    found: dict[str, list[Finding]] = {}
    unreadable: dict[str, str] = {}
    sound = []
    for path in files:
        try:
            read = document.read(path)
        except WrongInput as error:
            unreadable[str(path)] = str(error)
            continue
        found[str(path)] = judge(read, demands=demands)
        if not any(finding.code in ("RCPT-SCHEMA", "RCPT-PAYLOAD-TYPE") for finding in found[str(path)]):
            sound += [(str(path), each) for each in [form(sign.statement_of(read))[0]] if each]
        if demands.key is None and sign.is_envelope(read):
            click.echo(f"{path}: signed; the signature was not looked at, give --key", err=True)
    for name, findings in replays(sound).items():
        found[name] += findings
    return found, unreadable


def _say(path: Path, findings: list[Finding] | None, unreadable: str | None) -> None:
    if findings is None:
        click.echo(f"{path}: unreadable: {unreadable}", err=True)
        return
    for finding in findings:
        click.echo(f"{path}: {finding}")
    click.echo(f"{path}: {f'refused ({len(findings)})' if findings else 'PASS'}")


def _as_json(where: str, files: tuple[Path, ...], found: dict[str, list[Finding]], unreadable: dict[str, str]) -> None:
    import dataclasses
    import json

    from kparity.receipts.statement import write_text

    rows = [
        {
            "file": str(path), "passed": found.get(str(path)) == [], "unreadable": unreadable.get(str(path)),
            "findings": [dataclasses.asdict(each) for each in found.get(str(path), [])],
        }
        for path in files
    ]  # fmt: skip
    text = json.dumps({"schema": "kparity-receipt-verify-v1", "receipts": rows}, indent=2, ensure_ascii=False)
    if where == "-":
        click.echo(text)
    else:
        write_text(Path(where), text + "\n")


def _statement(path: Path) -> tuple[dict[str, Any], Statement]:
    """The statement in a file, plain and as a record; raises WrongInput with the first thing that is wrong with it."""
    from kparity.errors import WrongInput
    from kparity.receipts import document, sign
    from kparity.receipts.rules.identity import form

    plain = sign.statement_of(document.read(path))
    statement, malformed = form(plain)
    if statement is None:
        raise WrongInput(f"{path} is no receipt of this version: {malformed[0]}; see docs/receipts.md")
    return plain, statement


@receipt.command()
@click.argument("file", type=FILE)
@click.option("--key", required=True, type=FILE, metavar="PRIV", help="Private key (PEM, Ed25519).")
@click.option("-o", "--output", type=FILE, metavar="OUT", help="Where to write the envelope [default: over FILE].")
def sign(file: Path, key: Path, output: Path | None) -> None:
    """Sign a receipt: a DSSE envelope around it, with an Ed25519 key. What does not verify is not signed."""
    from kparity.errors import WrongInput
    from kparity.receipts.sign import sign as enveloped
    from kparity.receipts.statement import write
    from kparity.receipts.verify import verify as judge

    statement, _ = _statement(file)
    for finding in judge(statement):
        raise WrongInput(f"{file} would be refused: {finding}; sign a receipt that passes kparity receipt verify")
    envelope = enveloped(statement, key)
    write(output or file, envelope)
    click.echo(f"{output or file}: signed by {envelope['signatures'][0]['keyid']}", err=True)


@receipt.command()
@click.argument("private", type=FILE)
@click.option("--public", type=FILE, metavar="PUB", help="Where the public key goes [default: PRIVATE with .pub].")
def keygen(private: Path, public: Path | None) -> None:
    """Make an Ed25519 key pair (PEM); prints the key's id."""
    from kparity.receipts import sign as signatures

    click.echo(signatures.keygen(private, public or private.with_suffix(".pub")))


@receipt.command()
@click.argument("file", type=FILE)
def show(file: Path) -> None:
    """One receipt as a page for the terminal."""
    from kparity.cli.receipt_table import print_receipt
    from kparity.receipts import document
    from kparity.receipts.verify import verify as judge

    print_receipt(_statement(file)[1].predicate, judge(document.read(file)))


@receipt.command(name="list")
@click.argument("folder", type=FOLDER)
@click.option("--sql", metavar="SELECT", help="A query over the table receipts (DuckDB).")
@click.option("--json", "as_json", is_flag=False, flag_value="-", metavar="-", help="Print the rows as JSON.")
@click.pass_context
def list_(ctx: click.Context, folder: Path, sql: str | None, as_json: str | None) -> None:
    """The receipts below a folder, a row per measurement: file, time, commit, dirty, backend, device, kind, driver,
    model, measurement, tokens_per_s, low, high, parity, valid.

    Exit codes: 0 rows or not, 2 no such folder or wrong SQL, 3 no receipt.
    """
    from kparity.receipts import store

    stored, others = store.gather(folder)
    for line in others:
        click.echo(line, err=True)
    names, rows = store.query(store.rows(stored), sql or store.QUERY)
    if as_json:
        import json

        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, default=str))
    else:
        from kparity.cli.receipt_table import print_rows

        print_rows(names, rows)
    ctx.exit(0 if stored else 3)


@receipt.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def diff(a: Path, b: Path, as_json: bool) -> None:
    """What two receipts say differently; speeds last, as they stand (kparity bench compare judges them)."""
    from kparity.receipts import diff as differ

    left, right = (_statement(path)[0]["predicate"] for path in (a, b))
    found, speeds = differ.differences(left, right), differ.speeds(left, right)
    if as_json:
        import dataclasses
        import json

        told = {
            "differences": [dataclasses.asdict(each) for each in found],
            "speeds": [{**dataclasses.asdict(each), "ratio": each.ratio} for each in speeds],
        }
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    from kparity.cli.receipt_table import print_diff

    print_diff(found, speeds)


@receipt.command()
@click.argument("folder", type=FOLDER)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="Where to write the page.")
@click.pass_context
def page(ctx: click.Context, folder: Path, output: Path) -> None:
    """An HTML page of a folder of receipts: tokens/s by device and backend, with parity beside every bar."""
    from kparity.receipts import page as pages
    from kparity.receipts import store
    from kparity.receipts.statement import write_text

    stored, others = store.gather(folder)
    for line in others:
        click.echo(line, err=True)
    if not stored:
        click.echo(f"{folder} has no receipt", err=True)
        ctx.exit(3)
    write_text(output, pages.html(stored))
    click.echo(f"{output}: {len(stored)} receipts, {sum(not each.valid for each in stored)} of them refused", err=True)
