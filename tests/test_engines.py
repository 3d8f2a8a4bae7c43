"""Engines: the same few calls whoever computes, in a process of its own, and what is no engine is told as that."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity.bench import shapes
from kparity.engines import llama_abi, llama_layout, registry
from kparity.engines.base import Spec
from kparity.engines.llamacpp import SOFTWARE
from kparity.engines.remote import Remote, open_engine
from kparity.errors import DeviceFault, KparityError, Unavailable, UnknownName, WrongInput
from tests.conftest import absent, needing, opened

HERE = Path(__file__).parent
TEXT = "The quick brown fox jumps over the lazy dog"
OURS = [
    "kparity:cpu", "kparity:cpu?act=block256&kv=f32&fused=0", "kparity:numpy", "kparity:opencl", "kparity:wgpu",
    "kparity:torch", "reference", "reference?precision=f32", "f16",
]  # fmt: skip
THEIRS = ["llama.cpp", "llama.cpp?kv=f32&threads=1", "FOLDER?device=CPU", "FOLDER?device=Vulkan0&threads=2"]
DEFAULTS = [
    512, 2048, 512, 1, 0, 0, 1, 4, 4, 0, *[0xFFFFFFFF] * 4, 0, 0, *[0xBF800000] * 4, 0, 0xBF800000, *[0] * 4, 1, 1,
    *[0] * 4, 0x01010100, 1, *[0] * 12,
]  # fmt: skip
"""llama.cpp's default context parameters, as of 2026."""
HEADER = """
#include <stdbool.h>
#include <stdint.h>
enum ggml_type { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_I32 = 26, GGML_TYPE_I64 };
struct ggml_tensor { enum ggml_type type; void *buffer; int64_t ne[4]; size_t nb[4]; };
typedef bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor *, bool, void *);
typedef int32_t llama_token, llama_pos, llama_seq_id;
typedef struct llama_memory_i *llama_memory_t;
struct llama_vocab;
struct llama_batch { int32_t n; llama_token *token; float *e; void *p, *n_seq_id, *seq_id, *logits; };
int32_t llama_tokenize(const struct llama_vocab *, const char *, int32_t, llama_token *, int32_t, bool, bool);
struct llama_model_params { char news[24]; void **devices; int32_t n_gpu_layers; };
struct llama_context_params {
    uint32_t n_seq_max, n_ubatch, n_batch, n_ctx; enum ggml_type type_v, type_k; char news[44];
    ggml_backend_sched_eval_callback cb_eval;
};
"""
"""A ``llama.h`` of a release that there is none of: every field is elsewhere."""


@contextmanager
def engine(text: str, **options: Any) -> Iterator[Remote]:
    """An open engine; what is missing here is a skip, or a failure where KPARITY_REQUIRE names it."""
    if text.startswith("kparity:cpu"):
        name = text.partition(":")[2].partition("?")[0]
        with needing(name):
            if isinstance(found := opened(name), Exception):
                raise found
    with needing("llama.cpp" if text.startswith("FOLDER") else "llamacpp"):
        folder = os.environ.get("KPARITY_LLAMACPP", "")
        if text.startswith("FOLDER") and not folder:
            raise Unavailable("KPARITY_LLAMACPP names no folder", "set it to one with libllama", "KP-LLAMACPP-NOLIB")
        made = open_engine(text.replace("FOLDER", f"llama.cpp:{folder}"), **options)
    with closing(made):
        yield made


@pytest.mark.parametrize("text", [*OURS, *THEIRS])
def test_every_engine_answers_all_calls(text: str) -> None:
    with engine(text) as made:
        facts = made.facts
        assert (facts.vocab, facts.layers, facts.width, facts.context) == (1536, 6, 256, 512)
        assert (facts.kv_heads, facts.head_dim) == (2, 64)
        assert facts.version and facts.numerics and facts.kv == ("f32" if "kv=f32" in text else "f16")
        ids = made.tokenize(TEXT)
        assert ids[0] == facts.bos and len(ids) == 18
        scored = made.score(ids)
        assert scored.shape == (18, 1536) and scored.dtype == np.float32
        made.reset()
        steps = np.stack([made.step(token) for token in ids])
        made.reset()
        prefilled = made.prefill(ids)
        made.reset()
        assert np.array_equal(made.score(ids), scored), "a reset leaves something behind"
        made.reset()
        if text.startswith("kparity:cpu"):
            assert np.array_equal(steps, scored) and np.array_equal(prefilled, scored[-1])
        loose = 0.2 if facts.device.kind == "software" and "FOLDER" in text else 2e-5
        assert np.abs(steps - scored).max() < loose and np.abs(prefilled - scored[-1]).max() < loose
        for neighbours in (ids[::-1], ids[:5]) if facts.sequences > 1 else ():
            assert np.abs(made.score_beside(ids, neighbours) - scored).max() < loose
        for wrong in ([], [1536], [-1], [1] * 513):
            with pytest.raises(WrongInput, match=r"token"):
                made.score(wrong)


@pytest.mark.parametrize("text", ["kparity:cpu", "kparity:cpu?fused=0", "reference", *THEIRS])
def test_a_trace_changes_no_bit(text: str) -> None:
    with engine(text) as made:
        ids = made.tokenize(TEXT) * 4  # more than a chunk, and than a batch of llama.cpp
        scored, seen = made.score(ids), list[tuple[str, np.ndarray]]()
        made.reset()
        assert np.array_equal(made.trace(ids, ["*"], lambda *each: seen.append(each)), scored)
        last = "result_output:MUL_MAT" if text in THEIRS else "logits"
        assert np.array_equal(np.concatenate([values for name, values in seen if name == last]), scored)
        made.reset()
        some = list[str]()
        made.trace(ids[:1], [last], lambda name, _: some.append(name))
        assert some == [last] and len({name for name, _ in seen}) > 50
        with pytest.raises(ZeroDivisionError):
            made.trace(ids[:1], ["*"], lambda name, _: 1 / 0)  # type: ignore[arg-type,return-value]
        with pytest.raises(DeviceFault, match="closed"):
            made.reset()


def test_the_slots_of_both_graphs_hold_the_same() -> None:
    found = []
    for fused in "01":
        with engine(f"kparity:cpu?fused={fused}") as made:
            slots = dict[str, np.ndarray]()
            made.trace(made.tokenize(TEXT), ["*"], slots.__setitem__)
            found.append(slots)
    one, other = found
    assert list(one) == list(other) and len(one) == 3 + 18 * 6
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


@pytest.mark.parametrize("text", THEIRS)
def test_where_llama_cpp_computes_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(text) as made:
        facts = made.facts
        steps = {each.buffer: each.amount for each in facts.placed if each.what == "step"}
        assert {"model", "KV", "compute"} <= {each.what for each in facts.placed} and sum(steps.values()) > 200
        if "Vulkan0" not in text:
            assert facts.device.kind == "cpu" and facts.offloaded is None and facts.activations == "Q8_K"
            assert bool(facts.weaknesses) == ("f32" in text) and set(steps) == {"CPU"}
            return
        assert facts.offloaded == (7, 7) and steps["Vulkan0"] > 200 and facts.device.name == "Vulkan0"
        assert facts.device.kind == ("software" if SOFTWARE.search(facts.device.description) else "gpu")
    with engine(text + "&ngl=2") as made:
        assert made.facts.offloaded == (2, 7) and "5 of 7 layers stayed on the processor" in made.facts.weaknesses
        told = [int(each.split()[0]) for each in made.facts.weaknesses if "are computed on the processor" in each]
        assert 100 < told[0] < 216 and told[1] < 100, "ggml computes products of a large batch on the device"
        assert made.facts.numerics == "ggml Vulkan0 2/7 layers, flash attention" != facts.numerics
    monkeypatch.setenv("GGML_VK_FORCE_MAX_BUFFER_SIZE", "1300000")  # less than what the weights take
    with engine(text, context=128) as made:
        lie = {each.buffer: each.amount for each in made.facts.placed if each.what == "model"}
        assert made.facts.offloaded == (7, 7) and lie["CPU_Mapped"] > 4 * lie["Vulkan0"]
        told = next(each for each in made.facts.weaknesses if "of a step are computed on the processor" in each)
        assert int(told.split()[0]) > 6


def test_layers_that_stay_are_told_and_a_missing_device_refused() -> None:
    with engine("llama.cpp?ngl=99") as made:
        assert made.facts.weaknesses == (
            "ngl=99 was asked for and no layer left the processor: no device was chosen or found",
        )
    with (
        pytest.raises(WrongInput, match="has no device 'Vulkan7' here; it has CPU"),
        engine("llama.cpp?device=Vulkan7"),
    ):
        pass


@pytest.mark.parametrize("kind", ["tq2_0", "f16"])
def test_a_model_that_is_given_is_read(kind: str, tmp_path: Path) -> None:
    path = str(shapes.model_file("tiny:1", 3, tmp_path, kind))
    with engine("llama.cpp", model=path, context=64) as made:
        assert (made.facts.context, made.facts.model, made.facts.layers) == (64, path, 1)
        assert made.facts.activations == ("Q8_K" if kind == "tq2_0" else "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kparty:cpu", "unknown engine 'kparty': did you mean 'kparity'.*known: .*kparity, llama.cpp, .*reference"),
        ("kparity:cpu?precision=f32", "no option 'precision'; kparity has act, kv, fused, index, isa, threads"),
        ("kparity:cpus", "unknown backend 'cpus': did you mean 'cpu'"),
        ("kparity:cpu?act=int4", "act is 'int4', expected one of token, block256, block32"),
        ("kparity:cpu?act", "'act' is no option; write [?]name=value"),
        ("kparity:cpu?kv=f16&kv=f32", "option 'kv' stands twice"),
        ("reference:cpu", "the reference has no 'cpu'"),
        ("f16?act=token", "no option 'act'; f16 has kv, precision"),
        ("llama.cpp?ngl=many", "ngl is 'many', expected a whole number from 0 to 1000000000"),
        ("llama.cpp?threads=0", "threads is '0', expected a whole number from 1 to 1024"),
        *((f"{kind}?threads=99999", "threads is '99999'") for kind in ("kparity:cpu", "llama.cpp", "transformers")),
        ("kparity:cpu?isa=sse9", "[?]isa=sse9: isa is 'sse9', expected one of scalar"),
        ("llama.cpp?device=", "device is ''; give a value"),
        ("llama.cpp?headers=%00", r"headers is '.x00'; give a value that can be read"),
        ("kparity:cpu?act=a\nb", r"engine kparity:cpu.act=a.nb: it has characters that are not shown"),
        ("llama.cpp:\udce9", r"engine llama.cpp:.udce9: it has characters that are not shown"),
        *(
            (f"http://127.0.0.1:9?{each}", f"{each[:4]}.* expected a whole number from 1 to")
            for each in ("probs=0", "probs=1e3", "timeout=²", "timeout=9999999", "vocab=9999999")
        ),
    ],
)
def test_a_bad_specification_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(KparityError, match=words) as told:
        open_engine(text).close()
    assert isinstance(told.value, (WrongInput, UnknownName)) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("", "has no libggml-base.so"),
        ("text", "holds no llama.cpp that can be loaded here .*file too short"),
        ("folder", "has no libggml-base.so"),
        ("gone", "has no libggml-base.so"),
    ],
)
def test_a_folder_without_llama_cpp_is_one_sentence(make: str, words: str, tmp_path: Path) -> None:
    for name in ("libggml-base.so", "libggml.so", "libllama.so"):
        if make == "text":
            (tmp_path / name).write_text("no library\n")
        elif make == "folder":
            (tmp_path / name).mkdir()
    with pytest.raises(WrongInput, match=words):
        open_engine(f"llama.cpp:{tmp_path}{'/gone' if make == 'gone' else ''}").close()


def forged(change: dict[int, int], model: Sequence[int] = (), headers: str = "") -> Any:
    """A library whose default parameters differ from the known ones; ``llama.given`` are those that contexts got."""
    made = llama_abi.Library.__new__(llama_abi.Library)
    made.headers, given = headers, list[list[int]]()
    words = [change.get(at, word) for at, word in enumerate(DEFAULTS)]
    context, front = ((llama_abi.UINT * llama_layout.WORDS)(*each) for each in (words, model))
    made.llama = SimpleNamespace(
        llama_context_default_params=lambda: llama_abi.Opaque(context),
        llama_model_default_params=lambda: llama_abi.Opaque(front),
        llama_init_from_model=lambda model, params: given.append(list(params.fields)) or 1, given=given,
        llama_n_ctx=lambda made: 64, llama_n_ubatch=lambda made: 64, llama_n_threads=lambda made: change.get(-1, 2),
        llama_set_n_threads=lambda *each: None, llama_n_seq_max=lambda made: 1,
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    "change",
    [{0: 513}, {2: 0}, {21: 0}, {22: 7}, {26: 0}, {27: 8}, {28: 1}, {32: 0x01010000}, {32: 0x02010100}, {-1: 3}],
)
def test_defaults_that_are_elsewhere_are_refused(change: dict[int, int]) -> None:
    assert forged({}).context(1, 64, 2, rows=64, kv="f32") == 1
    with pytest.raises(Unavailable, match=r"this llama.cpp|did not take its options"):
        forged(change).context(1, 64, 2, rows=64)


def test_model_parameters_of_another_form_are_refused() -> None:
    with pytest.raises(Unavailable, match="begins its model parameters with"):
        forged({}, [512]).model("m.gguf")


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    """A folder with that header."""
    (tmp_path / "llama.h").write_text(HEADER)
    return tmp_path


ELSEWHERE = {0: 5, 1: 9, 2: 8, 3: 7, 4: 1, 5: 1, 18: 0, 19: 0}
"""Default context parameters as that header has them."""


def test_headers_tell_where_fields_are_that_are_elsewhere(headers: Path) -> None:
    with pytest.raises(Unavailable, match=r"begins its context parameters with .*add \?headers=DIR"):
        forged(ELSEWHERE).context(1, 64, 2, rows=64)
    made = forged(ELSEWHERE, headers=str(headers))
    watch = llama_abi.Watch(lambda *each: True)
    made.context(1, 64, 2, rows=64, kv="f32", watch=watch)
    assert made.llama.given[0][:6] == [1, 64, 64, 64, 0, 0] and any(made.llama.given[0][18:20])
    assert (made.layout.devices, made.layout.n_gpu_layers) == (6, 8)
    for wrong in ({4: 2}, {18: 1}):
        with pytest.raises(Unavailable, match="is not that of this"):
            forged(ELSEWHERE | wrong, headers=str(headers)).context(1, 64, 2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cb_eval;", "cb_evil;", "has no member named 'cb_eval'"),
        ("ne[4]; size_t", "ne[8]; size_t", r"kparity knows no llama.cpp without offsetof\(struct ggml_tensor, nb\)"),
        ("int32_t, bool, bool);", "bool, bool);", "conflicting types for 'llama_tokenize'"),
        ("<stdbool.h>", "<none.h>", "none.h: No such file"),
    ],
)
def test_headers_of_what_kparity_does_not_know_are_one_sentence(old: str, new: str, words: str, headers: Path) -> None:
    (headers / "llama.h").write_text(HEADER.replace(old, new))
    with pytest.raises(WrongInput, match=rf"^the llama.h in .* cannot be used \(.*{words}") as told:
        forged(ELSEWHERE, headers=str(headers)).context(1, 64, 2)
    assert "\n" not in str(told.value)


def test_without_headers_or_a_compiler_both_are_named(headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongInput, match=r"has no llama[.]h; name the include folder"):
        forged({}, headers=str(headers / "llama.h")).context(1, 64, 2)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(WrongInput, match="needs a C compiler"):
        forged({}, headers=str(headers)).context(1, 64, 2)


def test_headers_of_a_build_say_what_its_defaults_say_and_others_are_refused(tmp_path: Path) -> None:
    with engine("FOLDER?device=CPU") as made:
        place = Path(made.spec.place, "include")
        if not place.is_dir():
            absent(f"{place} has no headers of that build", "llama.cpp")
        with engine(f"FOLDER?device=CPU&headers={place}") as told:
            assert np.array_equal(told.score([0, 1, 2]), made.score([0, 1, 2]))
    shutil.copytree(place, tmp_path / "other")
    header = tmp_path / "other/include/llama.h"
    header.write_text(header.read_text().replace("void * cb_eval_user_data;", "void * cb_eval_user_data, * fresh;"))
    with pytest.raises(Unavailable, match=r"is not that of this llama.cpp.* add \?headers=DIR"):
        open_engine(f"{made.spec.text}&headers={header.parents[1]}")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of another package, installed."""
    info = tmp_path / "own_engine-1.0.dist-info"
    info.mkdir()
    (tmp_path / "own_engine.py").write_text((HERE / "own_engine.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-engine\nVersion: 1.0\n")
    lines = ("mine = own_engine:Mine", "number = own_engine:NOT_ONE", "gone = no_such_module:Mine")
    (info / "entry_points.txt").write_text("\n".join(["[kparity.engines]", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("mine")
def test_an_engine_of_another_package_works_in_its_process_alone() -> None:
    assert set(registry.kinds()) == {*registry.OWN, "mine", "number", "gone"}
    with closing(open_engine("mine")) as made:
        assert int(made.facts.device.description) != os.getpid() and "own_engine" not in sys.modules
        assert made.score([1, 2]).tolist() == [[1.0] * 4] * 2 and made.prefill([1]).tolist() == [1.0] * 4
        with pytest.raises(WrongInput, match="gives no traces"):
            made.trace([1], ["*"], lambda name, values: None)
        with pytest.raises(WrongInput, match=r"step gave \[5\], expected logits \[4\]"):
            made.step(1)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number", "own_engine:NOT_ONE is not a subclass of"),
        ("gone", "cannot be imported: No module named 'no_such_module'"),
        ("mine:facts", "its facts is not what an engine gives"),
        ("mine:ids", "its tokenize is not what an engine gives"),
    ],
)
def test_what_is_no_engine_is_told(text: str, words: str) -> None:
    with pytest.raises(KparityError, match=words), closing(open_engine(text)) as made:
        made.tokenize("a")


@pytest.mark.usefixtures("mine")
def test_an_engine_that_dies_is_one_sentence() -> None:
    with closing(open_engine("mine:crash")) as made:
        for _ in range(2):
            with pytest.raises(DeviceFault, match=r"crashed \(SIGABRT\) in reset: .*about to fall") as told:
                made.reset()
            assert told.value.code == "KP-WORKER-DIED"


def test_a_specification_is_read() -> None:
    found = Spec.parse("llama.cpp:/opt/a b?device=Vulkan0&ngl=99")
    assert (found.kind, found.place, found.options) == ("llama.cpp", "/opt/a b", {"device": "Vulkan0", "ngl": "99"})
    found = Spec.parse("http://127.0.0.1:8080/v1")
    assert (found.kind, found.text) == ("http", "http://127.0.0.1:8080/v1")


@pytest.mark.parametrize("text", ["mutant:rope/convention-swapped", "mutant:engine/rope-theta-default?backend=cpu"])
def test_a_mutant_is_an_engine_that_is_wrong_from_its_defect_on(text: str) -> None:
    with engine(text) as wrong, engine("kparity:numpy") as right:
        ids = right.tokenize(TEXT)
        found, expected = wrong.score(ids), right.score(ids)
        assert "known to be wrong" in wrong.facts.weaknesses[0]
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(found, expected, strict=True)]
    assert cosines[0] > 0.99999, "RoPE turns nothing at position 0"
    assert min(cosines) < 0.999


def test_what_is_no_mutant_is_told() -> None:
    for text, what in [("mutant:rope/none", "mutant"), ("mutant:rope/convention-swapped?fused=0", "no option 'fused'"),
                       ("mutant:argmax/tail-unread?backend=abacus", "abacus")]:  # fmt: skip
        with pytest.raises(WrongInput, match=what):
            open_engine(text)


@pytest.mark.parametrize("size", [2, 12])
def test_a_small_batch_comes_first_on_vulkan_in_software(size: int) -> None:
    """lavapipe dies here in buffers that ggml replaced, unless the largest batch came before."""
    with engine("FOLDER?device=Vulkan0") as made:
        assert np.isfinite(made.prefill([*range(10, 10 + size)])).all()
        batch = [each for each in made.facts.placed if each.what == "batch"]
        assert bool(batch) == (made.facts.device.kind == "software")
