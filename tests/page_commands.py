"""What the commands of the pages need to be run, or who else runs them: the table of ``test_page_commands.py``.

A command that is not here is run as it is printed, and must end with the exit code that its remark tells, or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.cli import LIARS
from tests.followed import OWN_PAGES
from tools.performance import FACTS


class Why(Enum):
    """Why a command is not run with the others. There is no other reason."""

    GPU = "needs a GPU"
    INSTALLS = "installs or fetches something"
    MINUTES = "takes minutes"
    TEST = "another test runs it"


@dataclass(frozen=True)
class Left:
    """A command that is left out: why, and the file that runs it instead (``file::test`` of a test)."""

    why: Why
    by: str


@dataclass(frozen=True)
class Run:
    """A command that is run otherwise: with words ``more`` behind it (of an option given twice the last counts) or
    ``as_`` another line; the exit codes that it may have here; ``tool`` of ``conftest.TOOLS`` that it needs; the
    ``server`` that answers at the addresses in it, a ``fake`` one or ``kparity`` serve.
    """

    more: str = ""
    as_: str = ""
    codes: tuple[int, ...] = (0,)
    tool: str = ""
    server: str = "fake"


BRIEF = "--pp 16 --tg 0 --seconds 0.1"
NEWCOMER, GPU_HOST = "tests/newcomer.py", "bench/on_gpu.sh"
EXAMPLE = Left(Why.TEST, "tests/test_cli_grammar.py::test_every_example_runs")
TUTORIAL = Left(Why.TEST, "tests/test_site.py::test_the_tutorial_word_for_word")
OWN = Left(Why.TEST, "tests/test_own_pages.py::test_an_own_page_word_for_word")
FOLLOWED = {"docs/tutorial.md": TUTORIAL, **{f"docs/own-{kind}.md": OWN for kind in OWN_PAGES}}
"""Pages that are followed word for word."""
GGML = Left(Why.TEST, "tests/test_ggml.py::test_right_kernels_pass")
LARGE = Left(Why.MINUTES, "tests/test_graphs.py::test_layers_as_wide_as_those_of_8b_agree_with_the_plain_pass")
KNOWN = Left(Why.TEST, "tests/test_contract_known.py::test_refused_until_the_closing_test_passes")
FLIP = Left(Why.TEST, "tests/test_cutover.py::test_real_caddy_is_led_over_and_back_under_traffic")
SIGNED = Left(Why.TEST, "tests/test_cutover.py::test_a_receipt_is_signed_and_verified")
MACHINE = Left(Why.MINUTES, "tests/test_machine.py::test_machine_code_meets_the_limits")
LM_EVAL = Left(Why.INSTALLS, "tools/multiple_choice.py")
PAIR = "kparity burnin run --v1 http://127.0.0.1:8391"
SLOW = Left(Why.MINUTES, "tools/performance.yaml")
GPU_SCRIPT = Left(Why.MINUTES, "tests/test_gpu_host.py::test_the_gpu_host_script_runs_through")
GEMV = "--op tgemv --quick"
OWN_CUDA = f"kparity check --cuda ternary_gemv.cu --kernel ternary_gemv --map ternary_gemv.yaml {GEMV} --sanitize"

TABLE: dict[str, Left | Run] = {
    **dict.fromkeys(FACTS["runs"].values(), SLOW),
    "sh setup.sh probe": Left(Why.INSTALLS, NEWCOMER),
    "sh setup.sh test": Left(Why.INSTALLS, ".ci/run"),
    # bench
    "kparity bench --backends cpu,wgpu,opencl --receipt r.json": Run(
        as_=f"kparity bench --backends cpu --receipt r.json {BRIEF}"
    ),
    "kparity bench --backends cpu --model FILE.gguf --baseline llama.cpp": Run(
        f"--model model.gguf {BRIEF}", tool="llamacpp"
    ),
    "kparity bench --backends cuda --shape 2b-4t:6:32000 --require-gpu": Left(Why.GPU, GPU_HOST),
    'kparity bench --ops "step or large" --backends cpu --baseline torch': Run(
        "--ops rmsnorm[D=1, --seconds 0.01", codes=(0, 3)
    ),
    "kparity bench compare before.json after.json --fail-below 0.95": Run(
        as_="kparity bench compare r.json r.json --fail-below 0.95"
    ),
    # README, check
    "kparity check -o rmsnorm -b opencl --kind random --dump d": Run("-k D=257,"),
    "kparity check --replay d -b cpu": Run(codes=(2,)),  # nothing failed
    'PYTHONPATH=tests/liars kparity check --quick -o add -b liar-one-nan -k "D=257 and random"': Run(
        as_=f'PYTHONPATH={LIARS} kparity check --quick -o add -b liar-one-nan -k "D=257 and random"'
    ),
    # bisect, diagnose, ladder, traces
    "python -m tools.write_gguf a.gguf --type i2_s --layers 4": Run("--layers 1"),
    "python -m tools.write_gguf b.gguf --type i2_s --layers 4 --theta 10000": Run("--layers 1"),
    "kparity bisect --ref reference --cand mutant:attention/mask-one-less --dump found": Run("--positions 48"),
    "kparity bisect --ref llama.cpp --cand kparity:cpu?act=block256 --json found.json": Run(
        "--positions 48", tool="llamacpp"
    ),
    "kparity bisect --ref kparity:cpu --cand kparity:cpu --model a.gguf --cand-model b.gguf": Left(
        Why.TEST, "tests/test_bisect.py::test_the_candidate_is_opened_up_with_its_own_file"
    ),
    "kparity diagnose --ref llama.cpp --cand kparity:cpu --model model.gguf --json diagnosis.json": Run(
        "--positions 32", tool="llamacpp"
    ),
    "kparity ladder --ref reference --cand kparity:cpu": Left(Why.TEST, NEWCOMER),
    "kparity ladder --ref llama.cpp --cand kparity:cpu --positions 256 -v": Run("--positions 32", tool="llamacpp"),
    "kparity ladder --ref kparity:numpy --cand kparity:cpu --third reference": Run("--positions 32"),
    "kparity trace capture -e llama.cpp:/opt/llama/bin --model model.gguf --prompt 'The quick brown fox' --tensors"
    " -o theirs": Run(
        as_="kparity trace capture -e llama.cpp:$KPARITY_LLAMACPP --model model.gguf --prompt 'The quick brown fox'"
        " --tensors -o theirs",
        tool="llama.cpp",
    ),
    "kparity trace diff theirs ours": Run(tool="llama.cpp"),
    # burn-in and cutover
    "kparity burnin run --v1 http://127.0.0.1:8080 --v2 http://127.0.0.1:8180 --sleep 2 --halt-on-spike": Run(
        "--sleep 0 --max-rounds 60"
    ),
    "kparity burnin stats": Run(codes=(3,)),  # after a minute
    "kparity ppl --baseline ppl.json --cand 'http://127.0.0.1:8180?probs=1536'": Run(server="kparity"),
    "kparity cutover status --ppl ppl.json --receipt v1.json --receipt v2.json": Run(codes=(3,)),
    "kparity cutover flip --ppl ppl.json --receipt v1.json --receipt v2.json --caddy-admin http://127.0.0.1:2019"
    " --id engine --to 127.0.0.1:8180 --old http://127.0.0.1:8080 --public http://127.0.0.1": FLIP,
    "kparity cutover rollback": FLIP,
    "kparity receipt sign cutover.json --key team.pem": SIGNED,
    "kparity receipt verify cutover.json --key team.pub --require-parity": SIGNED,
    f"{PAIR} --against-itself --max-rounds 240 --api completions --max-tokens 24 --long-context 300": Left(
        Why.MINUTES, "tools/burnin_rows.py"
    ),
    f"{PAIR} --v2 http://127.0.0.1:8393 --max-rounds 1500 --api completions --max-tokens 24 --long-context 300": Left(
        Why.MINUTES, "tools/burnin_rows.py"
    ),
    # contracts
    "kparity contract validate contracts --run": KNOWN,
    "kparity contract check contracts": KNOWN,
    "kparity probe --backends wgpu,cpu --contracts contracts": KNOWN,
    # models
    "python -m tools.write_gguf llama.gguf --shape llama3-8b:2": LARGE,
    "python -m tools.write_gguf bonsai.gguf --shape bonsai-8b:2": LARGE,
    "kparity probe --require cpu --context 64 --model llama.gguf": LARGE,
    # ggml
    "pip install ./integrations/ggml": Left(Why.INSTALLS, NEWCOMER),
    "kparity check -b ggml:CPU -k ggml_ --lib FOLDER --json cpu.json": GGML,
    'kparity check -b ggml:Vulkan0 -k "ggml_ and not ggml_mul_mat" --case-timeout 200 --json others.json': GGML,
    'kparity check -b ggml:Vulkan0 -k "ggml_mul_mat and K=512, and N=33, and plain and (M=1, or M=8, or M=9,)"'
    " --case-timeout 240 --json products.json": GGML,
    "python -m kparity_ggml.report cpu.json others.json products.json": GGML,
    "python -m kparity_ggml.report": Left(
        Why.TEST, "tests/test_ggml.py::test_planted_defects_are_seen_and_nmse_misses_some"
    ),
    # machine code, PTX
    "python -m tools.machine_table": MACHINE,
    "python -m tools.machine_table --before COMMIT": MACHINE,
    "python -m tools.machine_table --docs": MACHINE,
    "python -m pytest -m compile tests/test_machine.py": MACHINE,
    "kparity check -b cuda-ptx --quick --sanitize": Left(Why.MINUTES, "tests/test_ptx_kernels.py"),
    "kparity check -b cuda-ptx": Left(Why.MINUTES, "tests/test_ptx_kernels.py"),
    "kparity probe --backends cuda-ptx,cpu": Left(Why.MINUTES, "tests/test_ptx_kernels.py"),
    OWN_CUDA: Left(Why.TEST, "tests/test_ptx_own.py::test_the_command_passes_the_right_kernel"),
    f"{OWN_CUDA.replace('ternary_gemv.cu', 'racy.cu')} -x": Left(
        Why.TEST, "tests/test_ptx_own.py::test_a_planted_race_is_found_with_both_lines"
    ),
    "kparity bench --backends cpu,wgpu,opencl,torch --pp 32,128 --tg 0 --seconds 20": SLOW,
    # fleet, serve
    "kparity fleet probe --address auto --out fleet": Run("--per node -b cpu"),
    "kparity fleet probe --address auto --out fleet --resume": Run("--per node -b cpu"),
    "kparity fleet check --address auto --out fleet-check -- --quick": Run(
        as_="kparity fleet check --address auto --per node -b cpu --out fleet-check -- -o add --quick"
    ),
    "kparity fleet burnin --pairs pairs.txt --out fleet-burnin --rounds 50000 -- --sleep 2": Left(
        Why.MINUTES, "tests/test_fleet_burnin.py::test_each_pair_has_its_log_and_a_wrong_server_is_named"
    ),
    "kparity fleet bench --address auto --out fleet-bench -- --model /shared/model.gguf --tg 0": EXAMPLE,
    "kparity serve -b wgpu,cpu --model model.gguf": EXAMPLE,
    "curl -s http://127.0.0.1:8180/health": Run(server="kparity"),
    "curl -s http://127.0.0.1:8180/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"In the"
    ' beginning", "max_tokens": 16, "temperature": 0}\'': Run(server="kparity"),
    "server=http://127.0.0.1:8180/v1/completions": LM_EVAL,
    "lm_eval run --model local-completions --tasks heldout --include_path tasks --log_samples --output_path out"
    " --model_args model=embedded,base_url=$server,tokenizer_backend=remote,tokenized_requests=True,num_concurrent=4": (
        LM_EVAL
    ),
    "python -m tools.multiple_choice count tasks --samples out/embedded/samples_heldout_*.jsonl": LM_EVAL,
    "KPARITY_THREADS=1 python -m tools.serve_load many --plot docs/serve.png --tokens 48": Left(
        Why.MINUTES, "tools/serve_load.py"
    ),
    "python -m tools.serve_load overhead --tokens 480 --rounds 60": Left(Why.MINUTES, "tools/serve_load.py"),
    "bash bench/on_gpu.sh --part 1 OUT": GPU_SCRIPT,
    "bash bench/on_gpu.sh OUT": GPU_SCRIPT,
    # receipts
    "kparity receipt verify r.json --key team.pub --model model.gguf --commit 4f1c2ab --max-age 30": Run(codes=(1,)),
    "kparity receipt verify r.json --require-gpu-kernels --require-parity": Run(codes=(1,)),
    'kparity bench --nonce "tuesday 7f3a" --receipt r.json': Run(f"-b cpu {BRIEF}"),
    "python -m tools.criteria": Left(
        Why.TEST, "tests/test_criteria.py::test_the_rows_of_an_op_are_what_the_tool_finds"
    ),
    # examples
    "pip install .": Left(Why.INSTALLS, "tests/test_own_examples.py"),
    "python raw_server.py 9000 &": Left(Why.TEST, "tests/test_own_examples.py"),
    "kparity ladder --ref reference --cand raw:http://127.0.0.1:9000": Left(Why.TEST, "tests/test_own_examples.py"),
    "pip install '.[numba]'": Left(Why.INSTALLS, "tests/test_own_examples.py"),
    f"kparity check own_gemv/with_numba.py:gemv {GEMV}": Run(tool="numba"),
    f"kparity check own_gemv/with_triton.py:gemv {GEMV}": Run("-k 'M=1,N=3 and random'", tool="triton"),
    "pip install -e '../..[tests]'": Left(Why.INSTALLS, "setup.sh"),
}
"""By the command as it is printed, its spaces and continued lines drawn together."""

BEFORE: dict[str, tuple[str, ...]] = {
    "README.md": ("kparity probe --backends cuda,cpu 2> build.log",),
    "docs/burnin.md": ("kparity probe --require cpu --receipt v1.json", "cp v1.json v2.json"),
    "docs/claims.md": (
        "printf 'tokens_per_s: 1\\nmodel: model.gguf\\nbandwidth_gb_s: 1\\n' > claim.yaml",
        f"kparity bench -b cpu {BRIEF} --receipt r.json",
    ),
    "docs/receipts.md": (f"kparity bench -b cpu {BRIEF} --receipt r.json", "kparity receipt keygen team.pem"),
    "docs/report.md": (
        "kparity trace capture -e mutant:rope/convention-swapped --tokens 0,34,77 --tensors -o wrong.trace",
        "kparity trace capture -e reference --tokens 0,34,77 --tensors -o right.trace",
    ),
}
"""What a page takes for granted."""
