"""Pipelines with rounds: which stages they become, and that a stopped round goes on where it was."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from concordant.cli import main
from concordant.config.yaml_io import parse_yaml
from concordant.core.errors import RunStopped, UserError
from concordant.pipeline.plan import check, read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.training.progress import Display

FILE = """
seed: 5
data: {path: builtin:toytalk, max_prompt_tokens: 64}
rounds: 2
stages:
  sft: {model: builtin:tiny, train: {max_steps: 1}}
  last: {verb: evaluate, policies: ["sft=${sft}", "end=${round2/ppo}"]}
each_round:
  collect: {model: "${before.ppo or sft}", judge: gold, pairs: 10, earlier: "${before.collect or nothing}"}
  reward: {model: "${before.reward or sft}", data: "${collect}", train: {max_steps: 2}}
  ppo: {seed: "{k}", model: "${before.ppo or sft}", reward: ["${reward}"], reference: "${sft}"}
  rate: {verb: evaluate, policies: ["sft=${sft}", "round{1..k}=${round{1..k}/ppo}"], reward: ["${reward}=0.5"],
    runs: ["ppo=${ppo.run}"]}
"""


class Fake:
    """Does every verb by writing what another stage may read, and remembers in which order and with what."""

    def __init__(self):
        self.done, self.configs, self.error = [], {}, {}

    def __call__(self, verb, config):
        folder = Path(config.output)
        name = f"{folder.parent.name}/{folder.name}" if folder.parent.name.startswith("round") else folder.name
        self.done.append(name)
        self.configs[name] = config
        if name in self.error:
            raise self.error.pop(name)
        if verb == "collect":
            (folder / "pairs.jsonl").write_text(name)
        else:
            (folder / "model").mkdir()
        return folder


def plan(text=FILE, *options):
    return read_plan(parse_yaml(text, "x.yaml"), "x.yaml", [(name, [value]) for name, value in options])


def run(output, fake, text=FILE, *options):
    fake.done = []
    display = Display(Console(file=io.StringIO(), width=200))
    return {r.name: r.outcome for r in run_pipeline(plan(text, *options), output, fake, display)}


ROUND = ("collect", "reward", "ppo", "rate")
EVERY = ["sft", *(f"round1/{name}" for name in ROUND), *(f"round2/{name}" for name in ROUND)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_every_round_has_its_stages_and_its_folder(tmp_path):
    fake = Fake()
    run(tmp_path, fake)
    assert sorted(fake.done) == sorted([*EVERY, "last"])
    assert [name for name in fake.done if name != "last"] == EVERY
    assert (tmp_path / "round2" / "ppo" / "model").is_dir()


def test_a_round_begins_where_the_one_before_ended(tmp_path):
    fake = Fake()
    run(tmp_path, fake)
    first, second = (fake.configs[f"round{k}/collect"] for k in (1, 2))
    assert (first.model.name, first.earlier, first.round) == (f"{tmp_path}/sft/model", "", 1)
    assert second.model.name == f"{tmp_path}/round1/ppo/model"
    assert (second.earlier, second.round) == (f"{tmp_path}/round1/collect/pairs.jsonl", 2)
    reward, ppo = fake.configs["round2/reward"], fake.configs["round2/ppo"]
    assert reward.model.name == f"{tmp_path}/round1/reward/model"
    assert (reward.data.path, reward.data.max_prompt_tokens) == (f"{tmp_path}/round2/collect/pairs.jsonl", 64)
    assert ppo.reward == [f"{tmp_path}/round2/reward/model"] and ppo.reference == f"{tmp_path}/sft/model"
    assert [fake.configs[f"round{k}/ppo"].seed for k in (1, 2)] == [1, 2] and second.seed == 5


def test_a_round_is_compared_with_every_earlier_one(tmp_path):
    fake = Fake()
    run(tmp_path, fake, FILE, ("rounds", "3"))
    sft, ones = f"sft={tmp_path}/sft/model", [f"round{k}={tmp_path}/round{k}/ppo/model" for k in (1, 2, 3)]
    assert [fake.configs[f"round{k}/rate"].policies for k in (1, 2, 3)] == [[sft, *ones[:k]] for k in (1, 2, 3)]
    assert fake.configs["round3/rate"].runs == [f"ppo={tmp_path}/round3/ppo"]
    assert fake.configs["round3/rate"].reward == [f"{tmp_path}/round3/reward/model=0.5"]


def test_a_stopped_round_goes_on_and_what_was_done_is_kept(tmp_path):
    fake = Fake()
    fake.error = {"round2/collect": RunStopped("4 of 10 pairs have no vote")}
    with pytest.raises(RunStopped, match="stage round2/collect: 4 of 10 .*the same command continues from here"):
        run(tmp_path, fake)
    outcomes = run(tmp_path, fake)
    assert fake.done[0] == "round2/collect" and fake.configs["round2/collect"].resume == "auto"
    assert {name for name, outcome in outcomes.items() if outcome == "kept"} == {"sft", *EVERY[1:5]}
    assert outcomes["round2/collect"] == "continued"


def test_another_round_can_be_added_later(tmp_path):
    fake = Fake()
    run(tmp_path, fake)
    outcomes = run(tmp_path, fake, FILE, ("rounds", "3"))
    assert fake.done == [f"round3/{name}" for name in ROUND]
    assert {outcomes[name] for name in EVERY} == {"kept"}


def test_a_change_in_one_round_runs_that_round_and_the_later_ones(tmp_path):
    fake = Fake()
    run(tmp_path, fake)
    outcomes = run(tmp_path, fake, FILE, ("stages.round2/reward.train.max_steps", "3"))
    assert {name for name, outcome in outcomes.items() if outcome == "ran"} == {
        "round2/reward", "round2/ppo", "round2/rate", "last",
    }  # fmt: skip


def test_an_option_may_change_a_stage_of_every_round(tmp_path):
    fake = Fake()
    run(tmp_path, fake, FILE, ("each_round.ppo.train.max_steps", "7"))
    assert [fake.configs[f"round{k}/ppo"].train.max_steps for k in (1, 2)] == [7, 7]


def test_the_written_file_repeats_the_pipeline(tmp_path):
    fake = Fake()
    run(tmp_path / "one", fake)
    again = plan((tmp_path / "one" / "pipeline.yaml").read_text())
    assert [(stage.name, stage.verb, stage.values) for stage in again] == [
        (stage.name, stage.verb, stage.values) for stage in plan()
    ]


def test_all_stages_of_all_rounds_are_checked_before_the_first_runs(tmp_path):
    with pytest.raises(UserError, match="stage round1/collect: pairs: expected a number in"):
        check(plan(FILE.replace("pairs: 10", "pairs: 0")), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rounds: 2", "rounds: 0", r"rounds: expected a whole number from 1 on; given 0"),
        ("rounds: 2", "rounds: two", r"expected a whole number from 1 on; given 'two'"),
        ("rounds: 2", "", r"expected a whole number from 1 on; given None"),
        ("each_round:", "each_roun:", r'"rounds" says how often the stages of "each_round" run; there are none'),
        ("  reward:", "  sft:", r'"stages" and "each_round" both have a stage sft'),
        ("  last:", "  before:", r"no stage of a pipeline with rounds can have the name before"),
        ("before.ppo or sft", "before.ppo", r'say what the first round takes.*"\$\{before.ppo or STAGE\}"'),
        ("before.ppo or sft", "before.poo or sft", r'unknown stage of each_round "poo". Did you mean "ppo"'),
        ("before.ppo or sft", "before.ppo or stf", r'unknown stage "stf". Did you mean "sft"'),
        ("pairs: 10", "pair: 10", r'Did you mean "pairs"'),
        ("  last:", "  round1:", r"stage round1/collect would write into the folder of stage round1"),
        ("${round2/ppo}", "${round3/ppo}", r'unknown stage "round3/ppo"'),
        ("${ppo.run}", "${ppo.modl}", r"expected \$\{round1/ppo\} or \$\{round1/ppo.run\}"),
    ],
)
def test_a_mistake_in_the_file_is_told(old, new, message):
    assert old in FILE
    with pytest.raises(UserError, match=message):
        plan(FILE.replace(old, new))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([("rounds", "-1")], "rounds: expected a whole number from 1 on; given '-1'"),
        ([("each_round.pp.train.max_steps", "1")], 'unknown stage of each_round "pp". Did you mean "ppo"'),
        ([("each_round.ppo", "1")], "needs a key of the stage"),
        ([("stages.round9/ppo.seed", "1")], 'unknown stage "round9/ppo"'),
    ],
)
def test_a_mistake_in_an_option_is_told(options, message):
    with pytest.raises(UserError, match=message):
        plan(FILE, *options)


def test_rounds_without_their_stages_are_refused():
    with pytest.raises(UserError, match="there are none"):
        plan("data: d\nstages:\n  sft: {model: builtin:tiny}\n", ("rounds", "2"))


ONLINE = """
seed: 0
data: {path: old.jsonl}
rounds: 2
stages:
  sft: {model: {name: builtin:tiny, precision: fp32}, train: {max_steps: 2, batch_size: 4, evaluate_every: 0}}
each_round:
  collect: {model: {name: "${before.dpo or sft}", precision: fp32}, judge: votes.jsonl, pairs: 6,
    earlier: "${before.collect or nothing}", sampling: {n: 2, max_new_tokens: 8}}
  dpo: {model: {name: "${before.dpo or sft}", precision: fp32}, data: "${collect}",
    train: {max_steps: 2, batch_size: 4, evaluate_every: 0}}
  rate: {verb: evaluate, policies: ["sft=${sft}", "round{1..k}=${round{1..k}/dpo}"], reward: rule:ends,
    model: {precision: fp32}, sampling: {max_new_tokens: 8}, bootstrap: 50}
"""


def test_online_dpo_by_votes_waits_for_people_in_every_round(tmp_path, monkeypatch, capsys):
    """The real command: it stops twice, once in each round, and in the end it has rated the rounds."""
    monkeypatch.chdir(tmp_path)
    Path("rounds.yaml").write_text(ONLINE)
    words = ["owl", "fox", "bee", "hen", "cat", "dog", "cow", "pig", "ant", "bat", "elk", "yak"]
    old = [{"prompt": f"Where is the {w}?", "chosen": f"The {w} is at home.", "rejected": "No."} for w in words]
    Path("old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    command = ["run", "rounds.yaml", "--output", "out"]
    for k in (1, 2):
        assert main(command) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert f"stage round{k}/collect" in said and "6 of 6 pairs have no vote" in said
        asked = Path(f"out/round{k}/collect/to_label.jsonl").read_text().splitlines()
        with Path("votes.jsonl").open("a") as votes:
            for line in asked:
                votes.write(json.dumps({"id": json.loads(line)["id"], "vote": "a"}) + "\n")
    assert main(command) == 0
    report = json.loads(Path("out/round2/rate/report.json").read_text())
    assert set(report["ratings"]) == {"sft", "round1", "round2"}
    assert report["ratings"]["sft"]["rating"] == 0
    card = json.loads(Path("out/round2/collect/card.json").read_text())
    assert [(x["round"], x["policy"], x["pairs"]) for x in card["labels"]] == [
        (1, "out/sft/model", 6), (2, "out/round1/dpo/model", 6),
    ]  # fmt: skip
    capsys.readouterr()
    assert main(command) == 0  # and nothing runs again
    assert "round2/rate: unchanged, kept" in capsys.readouterr().err
