"""Verbs on a model that reads few tokens, and on places where nothing can be written."""

import json
import re
from pathlib import Path

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import (
    BestOfNConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    MergeConfig,
    PPOConfig,
    PrepareConfig,
    RewardConfig,
    ScoreConfig,
    SFTConfig,
)
from concordant.config.train import TrainConfig
from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.models.load import save_policy
from concordant.stages import common
from tests.engines.tiny import tiny_policy
from tests.stages.small import metrics_of, train

POSITIONS = 48


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy of 48 positions; pairs that fit, and prompts that alone have more tokens than the model reads."""
    folder = tmp_path_factory.mktemp("world")
    policy = tiny_policy()
    policy.model.config.max_position_embeddings = POSITIONS
    save_policy(policy, folder / "policy")
    pairs = [{"prompt": f"where does owl {i} live", "chosen": "in a tree", "rejected": "fox"} for i in range(24)]
    prompts = [{"prompt": f"{i} the owl is brown " * 40} for i in range(4)]
    for name, rows in (("pairs", pairs), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def model(world):
    return ModelConfig(name=str(world / "policy"), device="cpu", precision="fp32")


def data(world, name):
    return DataConfig(path=str(world / f"{name}.jsonl"))


# -- the model reads fewer tokens than the limits allow -------------------------------------------


def test_dpo_with_the_usual_limits_ends_on_a_model_of_few_positions(world, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "PROBE_PROMPTS", 3)
    run = concordant.dpo(
        DPOConfig(output=str(tmp_path / "run"), data=data(world, "pairs"), model=model(world), train=train(max_steps=1))
    )
    assert metrics_of(run)[-1]["eval/length"] > 1 and (run / "model" / "config.json").is_file()


def test_ppo_and_its_preflight_cut_what_the_model_does_not_read(world, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "PROBE_PROMPTS", 2)
    config = PPOConfig(
        output=str(tmp_path / "run"), data=data(world, "prompts"), model=model(world), reward=["rule:ends"],
        train=train(max_steps=1, batch_size=2), sampling=SamplingConfig(max_new_tokens=200),
    )  # fmt: skip
    assert (concordant.ppo(config) / "model" / "config.json").is_file()


def test_every_verb_that_samples_is_bound_by_the_model(world, tmp_path):
    long = SamplingConfig(max_new_tokens=500)
    answers = concordant.generate(
        GenerateConfig(model=model(world), data=data(world, "prompts"), output=str(tmp_path / "g.jsonl"), sampling=long)
    )
    assert len(answers.read_text().splitlines()) == 4
    best = BestOfNConfig(
        output=str(tmp_path / "best"), data=data(world, "prompts"), model=model(world), reward=["rule:ends"],
        sampling=SamplingConfig(n=2, max_new_tokens=500),
    )  # fmt: skip
    assert (concordant.best_of_n(best) / "sft.jsonl").is_file()
    text = tmp_path / "text.txt"
    text.write_text("the owl lives in a tree " * 200)
    config = EvaluateConfig(
        policies=[f"sft={world / 'policy'}"], output=str(tmp_path / "report"), data=data(world, "prompts"),
        model=ModelConfig(device="cpu"), sampling=long, bootstrap=10, perplexity_text=str(text),
    )  # fmt: skip
    (policy,) = json.loads((concordant.evaluate(config) / "report.json").read_text())["policies"].values()
    assert policy["length_mean"] <= POSITIONS // 2 and policy["perplexity"] > 1


# -- where nothing can be written -----------------------------------------------------------------


def places(tmp_path, kind):
    """A path under a file, a name that no file system takes, and something of the other kind."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir(exist_ok=True)
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    return [tmp_path / "file" / "out", tmp_path / ("x" * 300), tmp_path / ("folder" if kind == "file" else "file")]


def test_a_verb_that_cannot_write_says_so_before_it_reads_a_model(world, tmp_path, monkeypatch):
    monkeypatch.setattr("concordant.models.load.load_policy", None)  # calling it would be another error
    for at in (0, 1, 2):
        file, folder = (str(places(tmp_path, kind)[at]) for kind in ("file", "folder"))
        verbs = [
            (concordant.generate, GenerateConfig(model=model(world), prompt="hi", output=file)),
            (concordant.score, ScoreConfig(model=model(world), data=data(world, "pairs"), output=file)),
            (concordant.merge, MergeConfig(model=ModelConfig(name="x", adapter="y"), output=folder)),
            (concordant.prepare, PrepareConfig(data=DataConfig(path="nowhere.jsonl"), output=folder)),
            (concordant.evaluate, EvaluateConfig(policies=["a=b"], data=DataConfig(path="nowhere"), output=folder)),
            (
                concordant.best_of_n,
                BestOfNConfig(output=folder, data=DataConfig(path="n"), model=model(world), reward=["r"]),
            ),
        ]
        for verb, config in verbs:
            said = r"cannot (write to|open)|expected (the name of )?a (file|folder) to write"
            with pytest.raises(UserError, match=said):
                verb(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


def test_somebodys_folder_is_not_replaced_by_a_merged_model(tmp_path):
    folder = str(places(tmp_path, "file")[2])
    with pytest.raises(UserError, match="holds something else than a model"):
        concordant.merge(MergeConfig(model=ModelConfig(name="x", adapter="y"), output=folder))
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"


def test_a_run_does_not_mix_its_files_with_those_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for output in (".", "..", "/", str(tmp_path)):
        with pytest.raises(UserError, match=f"^{re.escape(output)} has the files you work with"):
            concordant.sft(
                SFTConfig(model=ModelConfig("builtin:tiny"), data=DataConfig("nowhere.jsonl"), output=output)
            )
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_the_folder_of_a_result_is_made(world, tmp_path):
    out = tmp_path / "new" / "deep" / "g.jsonl"
    sampling = SamplingConfig(max_new_tokens=2)
    concordant.generate(GenerateConfig(model=model(world), prompt="hi", output=str(out), sampling=sampling))
    assert [path.name for path in out.parent.iterdir()] == ["g.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), (b"\xff\xfe", "is not UTF-8 text"), (b" \n", "is empty")]
)
def test_a_text_for_perplexity_that_cannot_be_read_is_said_first(content, message, world, tmp_path, monkeypatch):
    monkeypatch.setattr("concordant.stages.evaluate.load_records", None)  # calling it would be another error
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    config = EvaluateConfig(
        policies=["a=b"], data=DataConfig("nowhere"), output=str(tmp_path / "r"),
        perplexity_text=str(tmp_path / "text.txt"),
    )  # fmt: skip
    with pytest.raises(UserError, match=f"^perplexity_text: .*{message}"):
        concordant.evaluate(config)


def test_data_may_have_a_name_that_is_no_text_and_a_run_may_not(world, tmp_path):
    """Bytes that are no UTF-8, as the shell passes them. Other libraries cannot write to such a folder."""
    path = str(tmp_path) + "/pairs-\udcff.jsonl"
    Path(path).write_text((world / "pairs.jsonl").read_text())
    config = SFTConfig(output=str(tmp_path / "run"), data=DataConfig(path), responses="chosen", model=model(world))
    config.train = train(max_steps=1)
    concordant.sft(config)
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert status["state"] == "finished" and load_yaml(tmp_path / "run" / "config.yaml")["data"]["path"] == path
    config.output = str(tmp_path) + "/run-\udcff"
    with pytest.raises(UserError, match="^output: expected text in UTF-8"):
        concordant.sft(config)


# -- the learning rate ----------------------------------------------------------------------------


def test_a_warm_up_that_the_run_would_not_outlast_is_refused(world, tmp_path):
    config = SFTConfig(output=str(tmp_path / "run"), data=data(world, "pairs"), model=model(world))
    config.train = train(max_steps=0, epochs=0.01, warmup_steps=3)
    with pytest.raises(UserError, match="train.warmup_steps=3: the run has 1 step and would never reach its learning"):
        concordant.sft(config)
    config.train.max_steps, config.train.epochs = 2, 0.0
    config.train.warmup_steps, config.output = 2, str(tmp_path / "short")
    rates = [row["learning_rate"] for row in metrics_of(concordant.sft(config))]
    assert rates == [rates[1] / 2, rates[1]]


def test_a_batch_larger_than_the_data_takes_each_example_once_and_says_so(tmp_path, capsys):
    rows = [{"prompt": f"where {i}", "response": "in a tree"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(str(tmp_path / "rows.jsonl"), test_fraction=0.25)
    losses = []
    for batch, is_said in ((6, False), (29, True)):
        once = TrainConfig(max_steps=1, batch_size=batch)
        config = SFTConfig(output=str(tmp_path / str(batch)), model=ModelConfig("builtin:tiny"), data=data, train=once)
        (row,) = metrics_of(concordant.sft(config))
        assert (row["samples"], row["epoch"]) == (6, 1)
        losses.append(row["loss"])
        said = "batch_size 29 is more than the 6 examples; a step takes each of them once" in capsys.readouterr().err
        assert said == is_said
    assert losses[0] == losses[1]


def test_a_step_of_fewer_prompts_than_minibatches_is_refused(world, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"prompt": "where"}\n{"prompt": "when"}\n')
    config = PPOConfig(output=str(tmp_path / "run"), data=DataConfig(str(tmp_path / "two.jsonl")), model=model(world))
    config.reward, config.sampling = ["rule:ends"], SamplingConfig(max_new_tokens=4)
    with pytest.raises(UserError, match="minibatches=2: a step has 1 of 1 prompts, so a minibatch would hold none"):
        concordant.ppo(config)


def test_a_run_says_what_it_learns_from_and_how_many_steps_are_usually_needed(world, tmp_path, capsys):
    """Of 24 pairs, 6 are held out; of the other 18, a slice chooses the best weights."""
    config = RewardConfig(output=str(tmp_path / "reward"), data=data(world, "pairs"), model=model(world))
    config.train, config.validation_fraction = train(max_steps=2, batch_size=4), 0.2
    concordant.reward(config)
    said = capsys.readouterr().err
    assert "24 pairs (train 18, test 6)" in said
    assert "of the 18 training pairs 14 are learnt from and 4 choose the best weights (validation_fraction)" in said
    assert "2 steps of 4, 0.6 passes over 14 pairs" in said
    assert "150 steps are usually needed; raise train.max_steps" in said


# -- an output that is something else already -----------------------------------------------------


def test_an_output_that_holds_something_else_is_refused_and_left_as_it_is(world, tmp_path):
    prepared = concordant.prepare(PrepareConfig(data=data(world, "pairs"), output=str(tmp_path / "mine")))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pairs.jsonl").write_bytes((world / "pairs.jsonl").read_bytes())
    raw = DataConfig(str(tmp_path / "raw"))
    for output, read, what in (
        (prepared, data(world, "pairs"), "holds prepared data"),
        (world / "policy", data(world, "pairs"), "is a model"),
        (tmp_path / "raw", raw, "is the data that is read"),
    ):
        before = sorted(path.name for path in output.iterdir())
        verbs = [
            (concordant.sft, SFTConfig(output=str(output), data=read, model=model(world))),
            (
                concordant.best_of_n,
                BestOfNConfig(output=str(output), data=read, model=model(world), reward=["rule:ends"]),
            ),
            (concordant.evaluate, EvaluateConfig(output=str(output), data=read, policies=[f"a={world / 'policy'}"])),
        ]
        for verb, config in verbs:
            with pytest.raises(UserError, match=f"{what}.*--output"):
                verb(config)
        assert sorted(path.name for path in output.iterdir()) == before


def test_a_file_of_results_is_no_data_of_the_next_command(world, tmp_path):
    """Answers beside the data would be read as data by the same command; answers over the data would replace them."""
    (tmp_path / "raw").mkdir()
    pairs = tmp_path / "raw" / "pairs.jsonl"
    pairs.write_bytes((world / "pairs.jsonl").read_bytes())
    for path, output in ((pairs, pairs), (tmp_path / "raw", tmp_path / "raw" / "new" / "answers.jsonl")):
        read = DataConfig(str(path))
        verbs = [
            (concordant.generate, GenerateConfig(model=model(world), data=read, output=str(output))),
            (concordant.score, ScoreConfig(model=model(world), data=read, output=str(output))),
        ]
        for verb, config in verbs:
            with pytest.raises(UserError, match="is (in )?the data that is read; give another --output"):
                verb(config)
    assert pairs.read_bytes() == (world / "pairs.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["pairs.jsonl"]
