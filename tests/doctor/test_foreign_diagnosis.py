"""``concordant doctor`` on logs of other trainers: rules with evidence run, the others are listed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs" / "foreign"))

import foreign_logs as logs

from concordant.cli import main
from concordant.doctor.history import History
from concordant.doctor.rules import RULES
from concordant.stages.doctor import examine


def named(diagnosis):
    return [finding.rule for finding in diagnosis.findings]


def healthy_dpo(step):
    """Policy and reference agree at step 1; then margin and accuracy rise and the loss falls."""
    margin = 0.02 * (step - 1)
    accuracy = min(0.5 + 0.02 * step, 0.9)
    return logs.trl_dpo(step, margin, loss=0.6931 - 0.4 * margin, **{"rewards/accuracies": accuracy})


def test_a_healthy_dpo_log_is_no_all_clear(tmp_path, capsys):
    path = logs.write_state(tmp_path, [healthy_dpo(i) for i in range(1, 41)])
    diagnosis = examine(str(tmp_path))
    assert diagnosis.facts["kind"] == "TRL log of a DPO run, read as trainer_state.json"
    assert diagnosis.facts["rows"] == "40, steps 1 to 40"
    assert "doctor/update/still" in diagnosis.unseen["part_frozen"]
    assert "labels_swapped" in diagnosis.unseen  # nothing was evaluated
    assert "reference_not_start" not in diagnosis.unseen  # it looked at step 1, and all was well
    assert main(["doctor", str(path)]) == 0
    said = capsys.readouterr().out
    assert "not looked at, because the log lacks the numbers" in said and "part_frozen" in said
    assert f"nothing found; {len(diagnosis.unseen)} rules did not run" in said


def test_a_reference_that_is_another_model(tmp_path):
    rows = [logs.trl_dpo(i, 4.0, loss=1.2) for i in range(1, 11)]
    diagnosis = examine(str(logs.write_state(tmp_path, rows)))
    assert named(diagnosis)[0] == "reference_not_start"


def test_a_gradient_that_is_not_finite_is_found_though_the_loss_looks_well(tmp_path):
    """transformers replaces a loss that is not finite by the mean of the others."""
    rows = [logs.trl_sft(i, grad_norm=logs.NAN if i > 8 else 1.0) for i in range(1, 21)]
    assert "not_finite" in named(examine(str(logs.write_state(tmp_path, rows))))


def test_a_constant_reward_and_answers_that_are_cut(tmp_path):
    rows = [logs.trl_grpo(i, reward_std=0.0, frac_reward_zero_std=1.0) for i in range(1, 21)]
    assert {"reward_constant", "tied_groups"} <= set(named(examine(str(logs.write_state(tmp_path / "a", rows)))))
    rows = [logs.trl_grpo(i, **{"completions/clipped_ratio": 0.9}) for i in range(1, 21)]
    (finding,) = [f for f in examine(str(logs.write_state(tmp_path / "b", rows))).findings if f.rule == "never_ends"]
    assert finding.cure == "Set max_completion_length 96"  # in TRL's words; the limit of 48 is seen in the log


def test_a_renamed_log_is_read_as_what_it_is(tmp_path):
    logs.write_lines(tmp_path / "metrics.jsonl", [logs.trl_dpo(i, 4.0, loss=1.2) for i in range(1, 11)])
    for target in (tmp_path, tmp_path / "metrics.jsonl"):
        assert named(examine(str(target)))[0] == "reference_not_start"


def test_an_unknown_method_runs_no_rule_and_says_so(tmp_path, capsys):
    logs.write_lines(tmp_path / "log.jsonl", [{"step": i, "grad_norm": 1.0, "learning_rate": 1e-5} for i in (1, 2)])
    diagnosis = examine(str(tmp_path / "log.jsonl"))
    assert diagnosis.facts["kind"].startswith("unknown log of an unknown method")
    assert diagnosis.findings == [] and len(diagnosis.unseen) == len(RULES)


def test_a_run_of_ours_is_not_taken_for_a_foreign_one(tmp_path):
    logs.write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0, "token_accuracy": 0.1, "seconds/step": 1.0}])
    (tmp_path / "config.yaml").write_text("verb: sft\n")
    for target in (tmp_path, tmp_path / "metrics.jsonl"):
        assert examine(str(target)).facts["run"] == str(tmp_path)
    (tmp_path / "config.yaml").unlink()  # a copy of the metrics alone: the method is guessed
    assert examine(str(tmp_path)).facts["kind"].startswith("Concordant log of an SFT run")


def test_json_has_the_rules_that_did_not_look(tmp_path, capsys):
    logs.write_state(tmp_path, [logs.trl_sft(i) for i in range(1, 4)])
    assert main(["doctor", str(tmp_path), "--json"]) == 0
    assert "part_frozen" in json.loads(capsys.readouterr().out)["unseen"]


def test_a_history_notes_what_is_missing_and_what_is_short():
    history = History({"verb": "sft"})
    for step in (1, 2, 3):
        history.add({"step": step, "loss": 1.0})
    assert history.now("loss", 3) == 1.0 and not history.missing
    assert history.now("loss", 8) is None and history.latest("grad_norm") is None
    assert history.at("eval/loss", 1) is None
    assert history.missing == {"8 rows of loss (the log has 3)", "grad_norm", "eval/loss"}


@pytest.mark.parametrize("part", ["model", "log"])
def test_a_checkpoint_is_looked_at_as_log_and_as_model(tmp_path, part, capsys):
    from concordant.models.load import save_policy
    from tests.engines.tiny import tiny_policy

    save_policy(tiny_policy(), tmp_path)
    logs.write_state(tmp_path, [logs.trl_sft(i) for i in range(1, 4)])
    assert part in examine(str(tmp_path)).stages
    main(["doctor", str(tmp_path)])
    assert "rules did not run" in capsys.readouterr().out.splitlines()[-1]  # of both together
    logs.write_state(tmp_path, [logs.trl_sft(1)], log_history=[])  # nothing was logged
    assert examine(str(tmp_path)).facts["kind"].startswith("policy")
