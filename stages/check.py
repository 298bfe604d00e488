"""Stage check: refuse a faulty params.yaml before any other stage runs, and write down what decides each cell."""

import shutil
from pathlib import Path

from lofit.errors import LofitError
from lofit.models.layout import HeadLayout
from lofit.models.named import SUFFIX
from lofit.models.shipped import SHIPPED, check_installed
from lofit.rankings.listed import read_head_list
from lofit.scoring import harness
from lofit.storage.files import read_json
from lofit.tasks.question_files import FILES
from lofit.tasks.user_data import HUB_ID
from stages import paths
from stages.command import main
from stages.params import effective
from stages.params.heads import check_heads
from stages.params.load import load
from stages.params.plan import write_plans
from stages.params.schema import Params
from stages.runtime import read_runtime

ANY_SIZE = (10**6, 10**6)

LEFT_BEHIND = (
    "; DVC's --temp and --queue take along only what git or DVC tracks: `git add` it, or `dvc add` it and `git add` "
    "its .dvc file"
)


def check() -> None:
    params = load(paths.PARAMS)
    read_runtime()
    checks = (faulty_model, faulty_sources, faulty_texts, faulty_head_files, faulty_tasks)
    if faults := [fault for find in checks for fault in find(params)]:
        raise LofitError("\n".join(f"{paths.PARAMS}: {fault}" for fault in faults))
    if paths.BASE_MODEL.exists() and (known := read_json(paths.BASE_MODEL))["name"] == params.model.full_name:
        # Of a model that was never resolved, the stage base_model does it.
        check_heads(params, HeadLayout.from_json(known["layout"]).size)
    shutil.rmtree(paths.PLAN, ignore_errors=True)
    write_plans(params)


def faulty_model(params: Params) -> list[str]:
    """A GGUF file that is not there, or whose package is not installed."""
    name = params.model.name
    try:
        if name in SHIPPED and not Path(name).is_dir():
            check_installed(name)
    except LofitError as error:
        return [f"model.name: {error}"]
    if name.endswith(SUFFIX) and not Path(name).is_file():
        return [f"model.name: got {name!r}, which is not there; expected a GGUF file{left_behind(name)}"]
    return []


def faulty_sources(params: Params) -> list[str]:
    """Sources of data that are not there, or where DVC would not see them change."""
    faults = []
    for task in params.run.tasks:
        block = params.tasks[task]
        source = block.fetch_data.source
        own = block.kind == "jsonl"
        elsewhere = HUB_ID.fullmatch(source) and not Path(source).suffix if own else source in ("demo", "public")
        there = Path(source).exists() if own else Path(source).is_dir()
        key = f"tasks.{task}.fetch_data.source"
        # A folder data/mine that is not in the copy looks like the id of a hub dataset.
        hint = left_behind(source) if not there and source not in ("demo", "public") else ""
        if hint or not (there or elsewhere):
            kinds = "a file or folder below data/, or the id of a hub dataset" if own else "demo, public, or a folder"
            faults.append(f"{key}: got {source!r}, which is not there; expected {kinds}{hint}")
        elif there and not below(source, paths.DATA):
            faults.append(f"{key}: got {source!r}; expected a place below data/, where DVC sees it change")
        elif own and Path(source).is_file():
            faults += [
                f"tasks.{task}.preprocess.{split}_ratio: missing; expected the share of {source} for {split}, as 0.2"
                for split in ("val", "test")
                if getattr(block.preprocess, f"{split}_ratio") is None
            ]
    return faults


def faulty_texts(params: Params) -> list[str]:
    """Texts for drift that are not there, or where DVC would not see them change."""
    faults = []
    for task in params.run.tasks:
        for row in params.run.rows:
            text = effective.evaluate(params, task, row).drift
            if text is not None and not (Path(text).is_file() and below(text, paths.DATA)):
                key = effective.block_key(params, task, row, "evaluate", "drift")
                faults.append(f"{key}: got {text!r}; expected a file below {paths.DATA}/{left_behind(text)}")
    return list(dict.fromkeys(faults))


def faulty_head_files(params: Params) -> list[str]:
    """Files of heads that are not there, that DVC would not see change, or that do not list K heads."""
    faults = []
    for task in params.run.tasks:
        for row in params.run.lofit_rows:
            chosen = effective.selection(params, task, row)
            if (file := getattr(chosen.settings, "file", None)) is None:
                continue
            key = effective.block_key(params, task, row, "select_heads", "file")
            if not (Path(file).is_file() and below(file, paths.HEAD_FILES)):
                faults.append(f"{key}: got {file!r}; expected a file in {paths.HEAD_FILES}/{left_behind(file)}")
                continue
            try:
                # Which heads the model has is only known later.
                listed = len(read_head_list(Path(file), ANY_SIZE))
            except LofitError as error:
                faults.append(f"{key}: {error}")
                continue
            if isinstance(chosen.k, int) and listed < chosen.k:
                key = effective.block_key(params, task, row, "select_heads", "k")
                faults.append(f"{key}: got {chosen.k}; expected 1 to {listed}, the heads that {file} lists")
    return list(dict.fromkeys(faults))


def faulty_tasks(params: Params) -> list[str]:
    """Tasks for evaluation out of domain that nobody knows, and files of them that are not there."""
    block = params.out_of_domain
    if not params.run.out_of_domain:
        return []
    faults = []
    for key, place in (("files", block.files), ("folder", block.folder)):
        needed = key == "folder" or bool(set(block.tasks) & set(FILES))
        if place is not None and needed and not (Path(place).is_dir() and below(place, paths.DATA)):
            expected = f"a folder below {paths.DATA}/{left_behind(place)}"
            faults.append(f"out_of_domain.{key}: got {place!r}; expected {expected}")
    if not faults:
        files = {name: Path(block.files, FILES[name]) for name in block.tasks if name in FILES}
        faults += [
            f"out_of_domain.tasks: got {name}, whose {file} is not there; expected that file or folder"
            f"{left_behind(str(file))}"
            for name, file in files.items()
            if not file.exists()
        ]
    try:
        known = harness.known_tasks(block.tasks, folder=block.folder)
    except LofitError as error:
        return [f"run.out_of_domain: {error}", *faults]
    return faults + [f"out_of_domain.{fault}" for fault in harness.faults_of(known, block.tasks, block.num_fewshot)]


def left_behind(place: str) -> str:
    """What to do, where DVC runs in a temporary copy of the project that lacks this file or folder; else nothing."""
    return LEFT_BEHIND if not Path(place).exists() and (paths.project_root() / place).exists() else ""


def below(path: str, folder: Path) -> bool:
    return folder.resolve() in Path(path).resolve().parents


if __name__ == "__main__":
    main(check)
