"""Tasks of lm-eval: those that come with lofit ask what lm-eval's own do; limits, examples, names that nobody knows."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from question_files import MMLU, write, write_question_files

from lofit.errors import LofitError
from lofit.scoring import harness
from lofit.tasks.question_files import FILES

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[out-of-domain]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_question_files(tmp_path_factory.mktemp("questions"))


def requests_of(task):
    """What a model is asked, and what is right: prompt and answer, or prompt and how to generate."""
    task.build_all_requests()
    # lm-eval writes down what it has read besides.
    return [(request.args, task.doc_to_target(request.doc)) for request in task.instances]


def theirs(page: str, rows: list[dict], home: Path, **changes):
    """lm-eval's own task, with these rows in place of the hub's."""
    import lm_eval.tasks

    write(home / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "include": str(Path(lm_eval.tasks.__file__).parent / page),
        "task": "theirs",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"test": str(home / "rows.jsonl"), "validation": str(home / "rows.jsonl")},
            "cache_dir": str(home / "cache"),
            "keep_in_memory": True,
        },
        "training_split": None,
        "fewshot_split": None,
        **changes,
    }
    # JSON is YAML, which is what lm-eval reads.
    (home / "theirs.yaml").write_text(json.dumps(config))
    return lm_eval.tasks.TaskManager(include_defaults=False).load([str(home / "theirs.yaml")])["tasks"]["theirs"]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("nq_open_local", "nq_open/nq_open.yaml"),
        ("triviaqa_1k_local", "triviaqa/default.yaml"),
        ("arc_challenge_local", "arc/arc_challenge.yaml"),
    ],
)
def test_a_task_from_files_asks_and_scores_as_lm_eval_does(folder, tmp_path, name, page):
    own = harness.load([name], files=folder).tasks[name]
    other = theirs(page, list(own.eval_docs), tmp_path)
    if own.OUTPUT_TYPE == "generate_until":
        # Right answers are shorter.
        assert own.config.generation_kwargs.pop("max_gen_toks") == 64
    assert requests_of(own) == requests_of(other)
    for setting in ("output_type", "metric_list", "generation_kwargs", "filter_list", "target_delimiter"):
        assert own.get_config(setting) == other.get_config(setting), setting
    for said in ("Bob Russell", "the 1972", "st louis!", "Twain", "nothing"):
        for doc in own.eval_docs:
            if own.OUTPUT_TYPE == "generate_until":
                assert own.process_results(doc, [said]) == other.process_results(doc, [said])


def test_mmlu_in_one_task_asks_what_lm_eval_asks_subject_by_subject(folder, tmp_path):
    own = harness.load(["mmlu_val_local"], files=folder).tasks["mmlu_val_local"]
    expected = []
    for subject in sorted(MMLU):
        rows = [row for row in own.eval_docs if row["subject"] == subject.replace("_", " ")]
        assert len(rows) == len(MMLU[subject])
        expected += requests_of(theirs(f"mmlu/default/mmlu_{subject}.yaml", rows, tmp_path / subject))
    assert requests_of(own) == expected
    assert expected[8][0][0].startswith("The following are multiple choice questions (with answers) about high school")


def test_tasks_without_a_counterpart_ask_what_they_say(folder):
    loaded = harness.load(["boolq_closed_book_local", "svamp_local"], files=folder).tasks
    asked = requests_of(loaded["boolq_closed_book_local"])
    assert asked[0] == (("Question: is water wet?\nAnswer:", " no"), 1)
    assert asked[3] == (("Question: can pigs fly?\nAnswer:", " yes"), 0)
    svamp = loaded["svamp_local"]
    assert requests_of(svamp)[0][0][0] == "Question: A pack costs 76 dollars How much are two packs?\nAnswer:"
    for said, right in [(" 152 dollars", 1), (" 76 + 76 = 152.0", 1), (" 1,52.", 1), (" 76", 0), (" none", 0)]:
        for request in svamp.instances:
            request.resps = [said]
        svamp.apply_filters()
        request = svamp.instances[0]
        assert svamp.process_results(request.doc, [request.filtered_resps["last_number"]]) == {"exact_match": right}


def test_a_limit_takes_the_first_questions_or_covers_all_subjects(folder):
    loaded = harness.load(["mmlu_val_local", "nq_open_local"], files=folder).tasks
    mmlu, nq = loaded["mmlu_val_local"], loaded["nq_open_local"]
    assert harness.chosen(mmlu, 3) == [0, 1, 3] and {mmlu.eval_docs[i]["subject"] for i in (0, 1, 3)} == {
        "anatomy",
        "us foreign policy",
    }
    assert harness.chosen(mmlu, None) == harness.chosen(mmlu, 99) == [0, 1, 2, 3, 4]
    assert harness.chosen(nq, 1) == [0]

    class Large:
        eval_docs = range(1531)
        config = mmlu.config

    chosen = harness.chosen(Large, 200)
    assert len(set(chosen)) == 200 and {b - a for a, b in pairwise(chosen)} == {7, 8}


def test_a_name_that_nobody_knows_and_examples_where_there_are_none_are_told(folder):
    known = harness.known_tasks(list(FILES))
    assert harness.faults_of(known, list(FILES)) == []
    faults = harness.faults_of(known, ["nq", "svamp_local"], 5)
    assert faults[0].startswith("tasks: got 'nq'; expected a task of lm-eval, of folder, or mmlu_val_local, ")
    assert faults[1] == "num_fewshot: got 5; expected null or 0 for svamp_local, which shows no examples"
    with pytest.raises(LofitError, match="svamp_local, which shows no examples"):
        harness.load(["svamp_local"], files=folder, num_fewshot=5)
    with pytest.raises(LofitError, match=r"no such file") as caught:
        harness.load(["svamp_local"], files=folder / "elsewhere")
    assert len(str(caught.value).splitlines()) == 1


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(LofitError, match=r"^evaluation out of domain needs more packages; run pip .*lofit\[out-of-"):
        harness.known_tasks(["svamp_local"])
