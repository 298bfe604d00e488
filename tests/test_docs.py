"""What the documentation lists is what the code has, and the pages that it shows work."""

import re
from pathlib import Path

import pytest
import yaml

import lofit
from lofit import LofitError, methods, rankings, studies
from lofit.rankings.scale_norm import ScaleSettings
from lofit.training.settings import TrainingSettings

DOCS = Path(__file__).parents[1] / "docs"
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")
NEEDED = object()


def section(title):
    """What stands below a header, up to the next one of its level."""
    return re.split(r"^## ", METHODS.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def tables(text):
    """The tables of a page, each as a list of rows of cells, without their rulers."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in some.splitlines()] for some in found]


def value(cell):
    return yaml.safe_load(cell.strip("`")) if cell else NEEDED


def defaults(kind):
    fields = kind.model_fields.items()
    return {name: NEEDED if field.is_required() else field.default for name, field in fields}


def test_every_method_is_listed_with_all_its_settings():
    listed, sources = tables(section("Methods"))
    assert {row[0].strip("`") for row in listed[2:]} == set(methods.names())
    assert {row[0].strip("`") for row in sources[2:]} == set(methods.names()) - {"none"}
    common, own = tables(section("Settings of the methods"))
    shared = {row[0].strip("`"): value(row[1]) for row in common[2:] if row[1] != "below"}
    assert shared == {name: default for name, default in defaults(TrainingSettings).items() if name != "lr"}
    for name in methods.names():
        kind = methods.find(name).Settings
        said = {row[1].strip("`"): value(row[2]) for row in own[2:] if row[0] == f"`{name}`"}
        assert {**(shared if issubclass(kind, TrainingSettings) else {}), **said} == defaults(kind), name


def test_every_ranking_is_listed_with_its_needs_and_settings():
    listed, settings, scales = tables(section("Rankings"))
    said = {row[0].strip("`"): row for row in listed[2:]}
    assert set(said) == set(rankings.names())
    known = {row[0].strip("`"): value(row[1]) for row in settings[2:]}
    common = defaults(TrainingSettings)
    for name, (_, _, needs, _, own) in said.items():
        page = rankings.find(name)
        assert needs.strip('`"') == str(page.NEEDS)
        named = re.findall(r"`(\w+)`", own)
        found = {**known, **{key: common[key] for key in named if key not in known}}
        rest = common if "those of training" in own else {}
        assert {**rest, **{key: found[key] for key in named}} == defaults(page.Settings), name
    step_1 = {row[0].strip("`"): value(row[1]) for row in scales[2:4]}
    assert step_1 | {name: default for name, default in common.items() if name != "lr"} == defaults(ScaleSettings)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Puts a block of Python of a section into a package, as a page of a name of its own."""

    def put(title, package, name):
        (block,) = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
        (tmp_path / f"{name}.py").write_text(block)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    return put


RECORDS = [{"prompt": "Q: Can pigs fly? A:", "completion": "No"}, {"prompt": "the cat sat on", "completion": "the mat"}]


def test_the_method_and_the_ranking_of_the_page_work(page, model, tokenizer):
    with pytest.raises(LofitError, match="method: got 'shown_method'"):
        lofit.fit(model, tokenizer, RECORDS, method="shown_method")
    page("Write a method", methods, "shown_method")
    page("Write a ranking", rankings, "shown_ranking")
    fitted = lofit.fit(model, tokenizer, RECORDS, method="shown_method", ranking="shown_ranking", k=3, epochs=1)
    assert fitted.heads == [(1, 0), (1, 1), (1, 2)]
    assert fitted.scales.any() and fitted.offsets.any()


def test_the_rows_of_the_page_are_rows():
    from stages.params.schema import Comparisons, Row

    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", METHODS, re.DOTALL)]
    rows = {name: row for block in blocks for name, row in block.get("methods", {}).items()}
    assert {"lofit_10pct", "iti", "lora"} <= set(rows)
    for name, row in rows.items():
        made, blocks_of_row = Row.model_validate(row), ("tune", "evaluate")
        needed = ("select_heads", "tune_bias") if made.kind == "lofit" else ("fit",)
        assert all(getattr(made, block) is not None for block in (*needed, *blocks_of_row)), name
        if made.kind != "lofit":
            values = {key: some for key, some in made.fit.items() if key not in ("k", "ranking")}
            methods.find(made.kind).Settings.of(values)
    (compared,) = [block["run"]["comparisons"] for block in blocks if "run" in block]
    Comparisons.model_validate(compared)


def test_every_study_is_listed_with_all_its_settings():
    asks, settings = tables((DOCS / "studies.md").read_text(encoding="utf-8"))
    assert [row[0].strip("`") for row in asks[2:]] == sorted(
        studies.names(), key=[row[0].strip("`") for row in asks].index
    )
    said = {name: row[1] for row in settings[2:] for name in re.findall("`([a-z_]+)`", row[0])}
    assert set(said) == set(studies.names())
    for name, text in said.items():
        assert {key for key in studies.find(name).Settings.model_fields if f"`{key}`" in text} == set(
            studies.find(name).Settings.model_fields
        ), name


def test_the_figures_of_the_readme_are_those_of_the_report():
    root = DOCS.parent
    readme = (root / "README.md").read_text(encoding="utf-8").split("\n## A pretrained model\n")[1]
    report = (root / "reports/smollm2-135m/summary.md").read_text(encoding="utf-8").split("\n# What each row is\n")[0]
    measured = {}
    for task, text in re.findall(r"^## (\w+): \w+\n\n((?:\|.*\|\n)+)", report, re.MULTILINE):
        (header, _, *lines) = tables(text)[0]
        for line in lines:
            row = dict(zip(header, line, strict=True))
            numbers = row["trained numbers"].split(" ")[0]
            measured[task, row["method"]] = (re.sub(r"\b0\.", ".", f"{row['score']} {row['95 % interval']}"), numbers)
    header, _, *lines = tables(readme.split("\n## ")[0])[0]
    columns = {task: at for at, title in enumerate(header) for task in re.findall("`([a-z]+)`", title)}
    said = {
        (task, line[0].strip("`")): (line[at], line[-1]) for line in lines for task, at in columns.items() if line[at]
    }
    assert said == measured


def test_links_between_the_pages_lead_somewhere():
    root = DOCS.parent
    for file in (*DOCS.glob("*.md"), root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"):
        text = file.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if "://" in target or target.startswith("reports/demo-all"):
                continue
            place, _, anchor = target.partition("#")
            other = (file.parent / place).resolve() if place else file
            assert other.exists(), (file.name, target)
            if anchor:
                titles = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, (file.name, target)
