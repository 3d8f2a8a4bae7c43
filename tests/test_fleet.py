"""Fleets without Ray: which devices a cluster has, what comes of a task, the ledger, and what a report shows."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from kparity.cli.main import cli
from kparity.errors import KparityError, Refused, WrongInput
from kparity.fleet import page, plan, store
from kparity.fleet.hand import Errand
from kparity.fleet.judged import judge
from kparity.fleet.record import MEANS, Begun, Burnt, Ended, Line, Outcome, Per, Seen, Tried, exit_code
from kparity.fleet.report import report
from kparity.fleet.round import Asked, Round
from tests.edits import put
from tests.made_receipts import edited, probe_receipt
from tools import fleet_rows

TIME = "2026-11-28T00:00:00.000Z"


def node(name: str, node_id: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeName": name, "NodeID": node_id * 8, "Alive": alive, "Resources": {"CPU": 4.0, **resources}}


def test_a_node_has_the_devices_that_its_resources_say() -> None:
    told = [node("b", "bb", GPU=2, **{"accelerator_type:H100": 1}), node("a", "aa", VULKAN=2),
            node("dead", "dd", alive=False, GPU=8), node("c", "cc")]  # fmt: skip
    a, b = plan.nodes(told, "gpu")
    assert (a.devices, b.devices) == (["a/gpu0", "a/gpu1"], ["b/gpu0", "b/gpu1"])
    assert [(each.needs, each.backend, each.index) for each in a.slots] == [
        ({"VULKAN": 1.0}, "wgpu", 0), ({"VULKAN": 1.0}, "wgpu", 1)]  # fmt: skip
    assert [(each.device, each.needs, each.model) for each in b.slots] == [("", {"GPU": 1.0}, "H100")] * 2
    assert [each.devices for each in plan.nodes(told, "node")] == [["a"], ["b"], ["c"]]
    twins = plan.nodes([node("n", "1"), node("n", "2")], "node")
    assert [each.name for each in twins] == ["n~11111111", "n~22222222"]


def paper(*backends: str, **options: Any) -> bytes:
    return json.dumps(probe_receipt(*backends, **options)).encode()


@pytest.mark.parametrize(
    ("errand", "gpu", "outcome", "why"),
    [
        (Errand(0, 1.0, "", paper("cuda")), True, "passed", ""),
        (Errand(0, 1.0, "", paper("cpu")), True, "failed", "nothing passed on a GPU"),
        (Errand(0, 1.0, "", paper("cpu")), False, "passed", ""),
        (Errand(1, 1.0, "it differs", paper("cuda")), True, "failed", "it differs"),
        (Errand(3, 1.0, "too little", paper("cuda")), True, "inconclusive", "too little"),
        (Errand(-signal.SIGKILL, 9.0, "", None, late=True), True, "late", "no end after 9 s"),
        (Errand(-signal.SIGSEGV, 1.0, "", None), True, "crashed", "SIGSEGV"),
        (Errand(2, 1.0, "kparity: no such model", None), True, "refused", "no such model"),
        (Errand(0, 1.0, "", None), True, "refused", "exit code 0"),
        (Errand(0, 1.0, "", b"{}"), True, "unsound", "no receipt"),
        (Errand(0, 1.0, "", b"\xff\x00"), True, "unsound", "what came back"),
        (Errand(0, 1.0, "", json.dumps(edited(put("serving", "cpu"), "cuda")).encode()), True, "unsound", ""),
    ],
)  # fmt: skip
def test_what_came_back_is_judged_here(errand: Errand, gpu: bool, outcome: Outcome, why: str) -> None:
    found = judge(errand, "probe", gpu)
    assert found.outcome == outcome and why in found.reason
    assert outcome == "passed" or found.reason


class Gone(Exception):
    """A task of a fake cluster that its node took with it."""


class Reference:
    """What a call of a fake actor gives; None never comes."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Method:
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    def remote(self, *arguments: Any) -> Reference:
        return Reference(self.answer(*arguments))


class Fake:
    """A cluster in which node n has 2 GPUs; ``plan`` says of GPU and attempt what comes of it."""

    errors = (Gone,)

    def __init__(self, course: Callable[[str, int], Any], given: Sequence[str] = ("0", "1")) -> None:
        self.course, self.given, self.ran, self.held = course, list(given), list[str](), list[str]()

    def nodes(self, per: Per) -> list[plan.Node]:
        return plan.nodes([node("n", "1", GPU=2)], per)

    def leaving(self) -> set[str]:
        return set()

    def gone(self, node_id: str) -> str:
        return ""

    def actor(self, kind: type, slot: plan.Slot) -> Any:
        gpu = next((each for each in self.given if each not in self.held), None)
        self.held += [gpu] if gpu else []

        def work(words: list[str], option: str, limit: float) -> Any:
            self.ran.append(f"{gpu}: {' '.join([*words, option])}")
            return self.course(str(gpu), sum(each.startswith(f"{gpu}:") for each in self.ran))

        made = type("Actor", (), {"where": Method(lambda: gpu), "run": Method(work), "gpu": gpu})
        return made()

    def ready(self, items: Sequence[Any], reference: Callable[[Any], Reference], seconds: float) -> list[Any]:
        return [each for each in items if reference(each).value is not None]

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def end(self, actor: Any) -> None:
        if actor.gpu in self.held:
            self.held.remove(actor.gpu)

    def named(self, error: Exception, node_id: str) -> tuple[Outcome, str]:
        return "lost", str(error)


GOOD = Errand(0, 1.0, "", paper("cuda"))


def outcomes(place: Path, fake: Fake, **asked: Any) -> dict[str, tuple[Outcome, int]]:
    """One round on a fake cluster: device → outcome and attempt."""
    folder = store.opened(str(place))
    try:
        options = {"patience": 0.0, "words": [], **asked}
        found = Round(fake, folder, Asked("probe", per="gpu", **options), lambda _: None).run()  # type: ignore[arg-type]
    finally:
        folder.close()
    return {name: (each.outcome, each.attempt) for name, each in sorted(found.items())}


def test_what_is_lost_is_run_again_and_its_neighbour_is_not(tmp_path: Path) -> None:
    fake = Fake(lambda gpu, time: Gone("no heartbeat") if (gpu, time) == ("1", 1) else GOOD)
    assert outcomes(tmp_path, fake) == {"n/gpu0": ("passed", 1), "n/gpu1": ("passed", 2)}
    assert [each[0] for each in fake.ran] == ["0", "1", "1"] and fake.held == []
    again = Fake(lambda gpu, time: Gone("again"))
    assert outcomes(tmp_path, again, retries=0) == {"n/gpu0": ("lost", 1), "n/gpu1": ("lost", 1)}
    fake = Fake(lambda gpu, time: GOOD)
    assert outcomes(tmp_path, fake, resume=True) == {"n/gpu0": ("passed", 2), "n/gpu1": ("passed", 2)}


def test_a_resumed_round_runs_what_has_no_receipt_as_it_was_written(tmp_path: Path) -> None:
    outcomes(tmp_path, Fake(lambda gpu, time: GOOD))
    fake = Fake(lambda gpu, time: GOOD)
    outcomes(tmp_path, fake, resume=True)
    assert fake.ran == []
    (tmp_path / "receipts/0001-n_gpu1-1.json").write_text("{}")
    assert outcomes(tmp_path, fake, resume=True) == {"n/gpu0": ("passed", 1), "n/gpu1": ("passed", 2)}
    assert [each[0] for each in fake.ran] == ["1"]
    with pytest.raises(WrongInput, match="ask for the same"):
        outcomes(tmp_path, fake, resume=True, words=["--depth", "bos"])


def test_a_gpu_that_is_taken_and_one_that_is_not_there_have_lines(tmp_path: Path) -> None:
    found = outcomes(tmp_path, Fake(lambda gpu, time: GOOD, given=["1"]), retries=0, count=4)
    assert found == {
        "?0": ("missing", 1), "?1": ("missing", 1), "n/gpu1": ("passed", 1), "n/gpu?0": ("no-place", 1)}  # fmt: skip
    named = outcomes(tmp_path, Fake(lambda gpu, time: GOOD), expected=["n/gpu0", "n/gpu1", "m/gpu0"])
    assert named == {"m/gpu0": ("missing", 1), "n/gpu0": ("passed", 1), "n/gpu1": ("passed", 1)}
    empty = Fake(lambda gpu, time: GOOD)
    empty.nodes = lambda per: []  # type: ignore[method-assign]
    with pytest.raises(Refused, match="--per node tests its nodes"):
        outcomes(tmp_path, empty)


def tried(device: str, bits: str = "same", number: int = 1, **edits: Any) -> Tried:
    seen = Seen(backend="cuda", model="Made", kind="gpu", driver=edits.pop("driver", "1"), verdict="PASS", bits=bits,
                uuid=edits.pop("uuid", device), errors={"bos_cosine": 1e-3 if bits == "same" else 5e-3},
                group=f"g{edits.pop('group', '')}")  # fmt: skip
    line = Tried(round=number, time=TIME, device=device, outcome="passed", seen=[seen])
    return msgspec.structs.replace(line, **edits)


def ledger(folder: Path, *rounds: Sequence[Tried], over: bool = True, expected: Sequence[str] = ()) -> str:
    lines: list[Line] = []
    for number, tries in enumerate(rounds, 1):
        names = [*expected] or [each.device for each in tries]
        lines.append(Begun(round=number, time=TIME, command="probe", words=[], per="gpu", expected=names))
        lines += tries
        lines += [Ended(round=number, time=TIME, seconds=1.0)] if over else []
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "fleet.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in lines))
    return str(folder)


def shown(folder: Path) -> str:
    """The page of two rounds with all that a report has to tell, the second one not over."""
    long = "its node left: " + "a_very_long_word_" * 12
    before = [tried(f"n/gpu{at}") for at in range(10)]
    now = [
        *[tried(f"n/gpu{at}", "other" if at == 7 else "same", 2) for at in range(9)],
        tried("<b>m/gpu0", number=2, uuid="n/gpu0", attempt=2),
        tried("m/gpu1", number=2, outcome="lost", reason=f"<i>{long}", seen=[]),
        tried("pair", number=2, outcome="failed", seen=[], log=Burnt(
            name="0002-pair.jsonl", bytes=1, sha256="0", rounds=90, exact=60, no_match=30, unreachable=0,
            verdict="FAIL", margin_median=0.029, margin_most=0.08, floor=0.0,
            failed=["exact_rate", "no_match_per_hour"],
        )),
    ]  # fmt: skip
    return page.html(report(ledger(folder, before, now, over=False, expected=["z/gpu0"])))


def test_the_one_of_ten_that_differs_is_named(tmp_path: Path) -> None:
    ten = [tried(f"n/gpu{at}", "other" if at == 7 else "same") for at in range(10)]
    found = report(ledger(tmp_path / "a", ten))
    assert [(each.device, each.times, each.of, each.equals, each.ratio) for each in found.odd] == [
        ("n/gpu7", 1, 1, 10, pytest.approx(5))
    ]
    assert [(each.device, each.what) for each in found.far] == [("n/gpu7", "bos_cosine")] and found.exit_code == 1
    same = report(ledger(tmp_path / "b", [tried(f"n/gpu{at}") for at in range(10)]))
    assert not same.odd and not same.far and same.exit_code == 0
    assert [(each.passed, each.failed) for each in same.matrix] == [(10, 0)]
    others = [tried(f"n/gpu{at}", "other" if at == 7 else "same", driver=str(at), group=at) for at in range(10)]
    assert not report(ledger(tmp_path / "c", others)).odd  # of one driver each: nobody has equals
    halves = report(ledger(tmp_path / "d", [tried("a"), tried("b", "other")]))
    assert [(each.devices, each.bits) for each in halves.split] == [(2, 2)] and halves.exit_code == 1


def test_a_device_that_errs_once_in_many_rounds_is_named(tmp_path: Path) -> None:
    rounds = [[tried(name, "other" if (name, at) == ("b", 2) else "same", at) for name in "abc"] for at in range(1, 6)]
    found = report(ledger(tmp_path, *rounds))
    assert [(each.device, each.times, each.of) for each in found.odd] == [("b", 1, 5)] and not found.drift
    alone = report(ledger(tmp_path / "alone", *[[each[1]] for each in rounds]))
    assert [(each.device, each.times, each.of) for each in alone.odd] == [("b", 1, 5)]


def test_drift_is_told_with_its_devices(tmp_path: Path) -> None:
    before = [tried("a"), tried("b"), tried("c"), tried("d")]
    after = [tried("a", driver="2", group=2), tried("b", "other"), tried("c", outcome="lost", seen=[]), tried("e")]
    for found in (
        report(ledger(tmp_path / "a", before, after)),
        report(ledger(tmp_path / "b", after), ledger(tmp_path / "c", before)),
    ):
        assert {each.what: each.devices for each in found.drift} == {
            "cuda: driver 1 → 2": ["a"], "cuda: other bits under the same conditions": ["b"], "passed → lost": ["c"],
            "not in the round before": ["e"], "gone": ["d"]}  # fmt: skip


def test_two_devices_that_are_one_are_named(tmp_path: Path) -> None:
    found = report(ledger(tmp_path, [tried("n/gpu0", uuid="u"), tried("n/gpu1", uuid="u"), tried("m/gpu0")]))
    assert [(each.uuid, each.devices) for each in found.twins] == [("u", ["n/gpu0", "n/gpu1"])]
    assert found.exit_code == 1


def test_a_round_that_is_not_over_and_a_torn_line(tmp_path: Path) -> None:
    place = ledger(tmp_path, [tried("a")], over=False, expected=["a", "b"])
    with (tmp_path / "fleet.jsonl").open("ab") as file:
        file.write(b'{"what":"dev')
    found = report(place)
    assert (found.waiting, found.unfinished, found.exit_code) == (["b"], ["."], 3)
    store.opened(place).close()
    assert (tmp_path / "fleet.jsonl").read_bytes().endswith(b"}\n")
    (tmp_path / "fleet.jsonl").write_bytes(b"no line\n")
    with pytest.raises(WrongInput, match="line 1, is no line of a fleet's ledger"):
        report(place)


def test_several_folders_are_one_fleet_and_receipts_are_held_against_the_ledger(tmp_path: Path) -> None:
    for name in ("east", "west"):
        outcomes(tmp_path / name, Fake(lambda gpu, time: GOOD))
    (tmp_path / "west/receipts/0001-n_gpu1-1.json").write_text("{}")
    (tmp_path / "east/receipts/0001-n_gpu0-1.json").unlink()
    found = report(str(tmp_path), verify=True)
    assert found.devices == 4 and found.receipts == 4 and found.exit_code == 1
    assert found.damaged == [
        "0001-n_gpu0-1.json: not there (east/n/gpu0)", "0001-n_gpu1-1.json: other bytes (west/n/gpu1)"]  # fmt: skip
    assert not report(str(tmp_path)).damaged


def test_the_page_of_the_docs_has_each_outcome_with_its_exit_code() -> None:
    text = (Path(__file__).parent.parent / "docs/fleet.md").read_text(encoding="utf-8")
    for outcome in MEANS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{outcome}` |"))
        assert row.endswith(f"| {exit_code([outcome])} |"), row
    assert exit_code([]) == 3 and exit_code(["passed", "lost", "failed"]) == 1


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = store.opened(str(tmp_path))
    with pytest.raises(WrongInput, match="by another kparity fleet"):
        store.opened(str(tmp_path))
    first.close()


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place that fsspec knows; that of S3 is moto's server (``pip install s3fs 'moto[server]'``)."""
    if request.param == "memory":
        pytest.importorskip("fsspec", reason="fsspec is not installed")
        yield f"memory://{tmp_path}"
        return
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(
        port=0, verbose=False
    )
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", address.replace("0.0.0.0", "127.0.0.1"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket/fleet"
    server.stop()


def test_a_place_behind_a_url(url: str) -> None:
    folder = store.opened(url)
    found = Round(Fake(lambda gpu, time: GOOD), folder, Asked("probe", [], "gpu"), lambda _: None).run()  # type: ignore[arg-type]
    folder.close()
    assert len(found) == 2 and report(url, verify=True).damaged == []
    again = store.opened(url)
    assert len(again.known()) == 4 and again.receipt("none") is None
    again.extend("a.jsonl", b"one\n")
    again.extend("a.jsonl", b"two\n")
    again.close()
    last = store.opened(url)
    assert last.log("a.jsonl").read_bytes() == b"one\ntwo\n" and len(last.known()) == 4
    last.close()


def test_the_page_has_everything_and_escapes_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="Jinja2 is not installed")
    ten = [tried(f"<b>{at}", "other" if at == 7 else "same") for at in range(10)]
    text = page.html(report(ledger(tmp_path, ten, [*ten[:9], tried("<i>", outcome="lost", reason="<u>", seen=[])])))
    for part in ("&lt;b&gt;7", "Other bits", "&lt;u&gt;", "gone", "Made", "lost"):
        assert part in text
    assert "<b>7" not in text


def test_a_made_up_fleet_costs_little_and_its_one_fault_is_found(tmp_path: Path) -> None:
    fleet_rows.write(tmp_path, 80, 3, True)
    assert fleet_rows.cost(tmp_path, 80, 3, True).receipts == 240


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fleet probe -- --no-such-option", "No such option"),
        ("fleet probe -- --receipt r.json", "is not for a fleet"),
        ("fleet probe -b cdua", "did you mean"),
        ("fleet bench -- compare a b", "is not for a fleet"),
        ("fleet probe --expect nobody", "nobody"),
        ("fleet probe --expect 0", "at least 1"),
        ("fleet probe --address 127.0.0.1:1", "Ray"),
        ("fleet probe --address ray://127.0.0.1:1", "Ray"),
        ("fleet report .", "has no fleet.jsonl"),
        ("fleet report nowhere", "nowhere cannot be read"),
    ],
)
def test_bad_input_is_a_sentence(line: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((KparityError, click.ClickException)) as error:
        cli.main(line.split(), standalone_mode=False)
    assert why.lower() in str(getattr(error.value, "message", error.value)).lower() and not [*tmp_path.iterdir()]
