"""The wheel: what it holds, and that it works beside nothing but what it asks for; and the lock file."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BASE = {"accelerate", "huggingface-hub", "numpy", "pydantic", "safetensors", "torch", "tqdm", "transformers"}
PIPELINE = "more packages; run pip install 'lofit[pipeline]'"

USE = """
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lofit

alphabet = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
letters = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>")
torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), eos_token_id=0, **shape)).eval()
records = [{"prompt": f"Q: {number} A:", "completion": f" {number + 1}"} for number in range(6)]
adapter = lofit.fit(model, tokenizer, records, k=1, epochs=1)
assert len(adapter.heads) == 1
assert list(lofit.score(model, tokenizer, records, adapter=adapter)) == ["exact_match"]
adapter.save_pretrained("adapter")
again = lofit.HeadAdapter.from_pretrained("adapter")
assert torch.equal(again.offsets, adapter.offsets) and again.offsets.abs().sum() > 0
ids = tokenizer("Q: 1 A:", return_tensors="pt").input_ids
with torch.no_grad():
    plain = model(ids).logits
    with again.attach(model):
        edited = model(ids).logits
    assert not torch.equal(plain, edited)
    torch.testing.assert_close(lofit.merge(model, again)(ids).logits, edited)
print(lofit.__file__)
"""
REFUSED = """
from pathlib import Path

import lofit

try:
    {code}
except lofit.LofitError as error:
    print(error)
"""
EXTRAS = {
    "import lofit.report.plots": f"pictures need {PIPELINE}",
    "import lofit.export.peft_folder": "PEFT folders need more packages; run pip install 'lofit[export]'",
    "from lofit.tasks.download import fetch; fetch('clutrr', Path('out'), cache=Path('cache'))": (
        f"downloads of published data need {PIPELINE}"
    ),
    "from lofit.tasks.rows import read_parquet; read_parquet(Path('x.parquet'))": (f"Parquet files need {PIPELINE}"),
    "from lofit.tasks.user_data import load_from_hub as load; load('a/b', Path('cache'), revision=None, subset=None)": (
        f"hub datasets need {PIPELINE}"
    ),
}


def installed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """The distributions that pip would install for them, by name; all have to be there, in versions that will do."""
    found: dict[str, Distribution] = {}
    todo = [(Requirement(text), frozenset[str]()) for text in requirements]
    seen = set()
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": name}) for name in extras | {""}):
            continue
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            pytest.fail(f"{name}: not installed")
        assert requirement.specifier.contains(found[name].version, prereleases=True), requirement
        if (name, wanted) not in seen:
            seen.add((name, wanted))
            todo += [(Requirement(text), wanted) for text in found[name].requires or []]
    return found


# ------------------------------------------------------------------------------------------------------- the wheel


class Environment:
    """A new virtual environment, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.workplace = folder / "empty"
        self.workplace.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.packages = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        # `lib` and `bin` hold what pip writes; it runs outside.
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet", "--no-index"]
        subprocess.run([*pip, "--no-deps", "--disable-pip-version-check", wheel], check=True)
        self.requires = Distribution.at(next(self.packages.glob("lofit-*.dist-info"))).requires or []

    def let_see(self, distributions: Iterable[Distribution]) -> None:
        """Show packages that are installed where the tests run; all others stay out of sight."""
        for found in distributions:
            for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
                if not (self.packages / top).exists():
                    (self.packages / top).symlink_to(found.locate_file(top))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
        env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        program, *arguments = command
        command = (str(self.bin / program), *arguments)
        return subprocess.run(command, cwd=self.workplace, env=env, capture_output=True, text=True, check=False)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-I", "-c", code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a folder beside what it builds."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("lofit", "stages", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, copy], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def make_environment(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Callable[[str], bool]], Environment]:
    def make(sees: Callable[[str], bool]) -> Environment:
        made = Environment(tmp_path_factory.mktemp("environment"), wheel)
        made.let_see(found for name, found in installed(made.requires).items() if sees(name))
        return made

    return make


@pytest.fixture(scope="module")
def environment(make_environment: Callable[[Callable[[str], bool]], Environment]) -> Environment:
    """What `pip install lofit` makes."""
    return make_environment(lambda name: True)


@pytest.mark.slow
@pytest.mark.xdist_group("wheel")
class TestWheel:
    def test_it_holds_the_library_and_nothing_else(self, wheel: Path):
        with ZipFile(wheel) as opened:
            held = {name for name in opened.namelist() if ".dist-info/" not in name}
        sources = {file.relative_to(ROOT).as_posix() for file in (ROOT / "lofit").rglob("*.py")}
        expected = {name for name in sources if PurePosixPath("lofit/demo") not in PurePosixPath(name).parents}
        pages = {file.relative_to(ROOT).as_posix() for file in (ROOT / "lofit").rglob("*.yaml")}
        assert held == expected | pages | {"lofit/py.typed", "lofit/export/engines.csv"}
        assert "lofit/scoring/lm_eval_tasks/mmlu_val_local.yaml" in pages
        assert "lofit/storage/files.py" in held

    def test_it_asks_for_little(self, environment: Environment):
        plain = {Requirement(text).name for text in environment.requires if "extra ==" not in text}
        assert {canonicalize_name(name) for name in plain} == BASE

    def test_it_fits_and_scores_and_saves_and_loads(self, environment: Environment):
        done = environment.python(USE)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_relative_to(environment.packages)

    def test_it_comes_without_the_demo(self, environment: Environment):
        done = environment.python("import lofit.demo")
        assert done.returncode == 1
        assert done.stderr.endswith("ModuleNotFoundError: No module named 'lofit.demo'\n")

    @pytest.mark.parametrize("code", EXTRAS)
    def test_what_needs_an_extra_says_so(self, environment: Environment, code: str):
        done = environment.python(REFUSED.format(code=code))
        assert (done.returncode, done.stdout) == (0, f"{EXTRAS[code]}\n"), done.stderr

    def test_the_command_says_what_it_needs(self, make_environment: Callable[[Callable[[str], bool]], Environment]):
        """transformers asks for typer, today; so typer has to be hidden."""
        done = make_environment(lambda name: name != "typer").run("lofit", "--help")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: the command lofit needs {PIPELINE}\n"


# ---------------------------------------------------------------------------------------------------- the lock file


def test_the_lock_holds_all_that_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    locked = {canonicalize_name(name): pinned for name, pinned in (line.split("==") for line in lines)}
    needed = [*project["dependencies"], *extras["pipeline"], *extras["export"], *extras["dev"]]
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
    # What torch needs besides depends on its build; on a GPU, that is CUDA.
    beside = re.compile("nvidia-|cuda-|triton")
    assert {name for name in installed(needed) if not beside.match(name)} <= set(locked)
