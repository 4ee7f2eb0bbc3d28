"""The guess of the method, and the settings that the log and the files beside it give away."""

from __future__ import annotations

import json

import foreign_logs as logs
import pytest

from concordant.runs.foreign.formats import read_foreign, recognise
from concordant.runs.foreign.method import guess
from concordant.runs.foreign.names import in_their_words
from concordant.runs.foreign.settings import pair_loss


def read(target):
    return read_foreign(*recognise(target))


@pytest.mark.parametrize(
    ("row", "framework", "method", "verb"),
    [
        ({"reward": 1.0, "reward_std": 0.1, "completion_length": 9.0}, "TRL", "grpo", "ppo"),  # TRL 0.14
        ({"policy/approxkl_avg": 0.1, "loss/value_avg": 0.1}, "TRL", "ppo", "ppo"),
        ({"policy/approxkl_avg": 0.1, "loss/policy_avg": 0.1}, "TRL", "rloo", "ppo"),  # TRL 0.12 to 0.21
        ({"ppo/loss/total": 0.1, "ppo/mean_scores": 1.0}, "TRL", "ppo", "ppo"),  # before TRL 0.12
        ({"kl": 0.1, "logps/chosen": -9.0, "rewards/margins": 0.0}, "TRL", "kto", "dpo"),
        ({"log_odds_ratio": -0.5, "rewards/margins": 0.1, "logps/chosen": -1.0}, "TRL", "orpo", "dpo"),
        ({"objective/kl": 0.1, "rewards/margins": 0.1, "logps/chosen": -1.0}, "TRL", "online-dpo", "dpo"),
        ({"gpt_loss": 2.0, "lr": 1e-5}, "OpenRLHF", "sft", "sft"),
        ({"policy_loss": 0.1, "actor_lr": 1e-6}, "OpenRLHF", "grpo", "ppo"),
        ({"actor/pg_loss": 0.1}, "verl", "grpo", "ppo"),
        ({"loss": 1.0, "lr(1e-3)": 0.01, "time(s)": 2.0}, "verl", "sft", "sft"),
        ({"loss": 2.0, "seconds/step": 1.0, "token_accuracy": 0.1}, "Concordant", "sft", "sft"),
        ({"loss": 2.0, "learning_rate": 1e-5}, "transformers", "sft", "sft"),
        ({"loss": 0.69, "eval/accuracy": 0.5}, "transformers", "reward", "reward"),  # TRL's RewardTrainer up to 0.23
        ({"speed": 1.0}, "", "", ""),
    ],
)
def test_the_guess(row, framework, method, verb):
    found = guess([{"step": 1, **row}, {"step": 2, **row}])
    assert (found.framework, found.method, found.verb) == (framework, method, verb) and found.because


def test_rewards_without_a_reference_are_told_from_log_ratios(tmp_path):
    """CPO and SimPO log beta times the log-prob; a rule about the reference must not read it as a log-ratio."""
    rows = [logs.trl_dpo(i, **{"logps/chosen": -20.0 + i, "logps/rejected": -22.0, "rewards/chosen": 0.3 * (i - 20),
                               "rewards/rejected": -6.6}) for i in (1, 2, 3)]  # fmt: skip
    log = read(logs.write_lines(tmp_path / "x.jsonl", rows))
    assert log.method == "cpo" and log.config["beta"] == pytest.approx(0.3) and log.config["loss"] == "cpo"
    assert "rewards/chosen" not in log.rows[0] and log.rows[0]["foreign/rewards/chosen"] == pytest.approx(-5.7)
    assert log.rows[0]["rewards/accuracies"] == 0.5


@pytest.mark.parametrize(
    ("loss", "margin", "expected"),
    [
        (0.6931, 0.0, "sigmoid"),
        (0.5, 1.0, "sigmoid"),  # -log σ(1) is 0.313, and a mean over pairs is greater
        (0.1, 1.0, "another"),  # no mean of -log σ is below -log σ of the mean
        (1.0, 0.0, "another"),  # hinge
        (25.0, 0.0, "another"),  # IPO with beta 0.1
    ],
)
def test_the_loss_of_pairs(loss, margin, expected):
    assert pair_loss([{"step": 1, "loss": loss, "rewards/margins": margin}]) == expected


@pytest.mark.parametrize("beta", [0.002, 0.1, 20.0])
def test_beta_follows_from_two_evaluations(tmp_path, beta):
    """Between them the log-probs change by -3 and by -8 nats, and the rewards by beta times as much."""
    rows = [logs.trl_dpo(i) for i in range(1, 5)]
    for step, chosen, rejected in ((1, 0.0, 0.0), (2, -3.0, -8.0)):
        rewards = {"eval_rewards/chosen": beta * (2.0 + chosen), "eval_rewards/rejected": beta * (1.0 + rejected)}
        logps = {"eval_logps/chosen": -20.0 + chosen, "eval_logps/rejected": -25.0 + rejected}
        rows.append({"step": step, "eval_loss": 0.6, **rewards, **logps})
    log = read(logs.write_state(tmp_path, rows))
    assert log.config["beta"] == pytest.approx(beta) and "beta" not in log.assumed


def test_one_evaluation_gives_no_beta(tmp_path):
    evaluation = {"step": 1, "eval_rewards/chosen": 0.5, "eval_logps/chosen": -9.0, "eval_loss": 0.6}
    assert read(logs.write_state(tmp_path, [logs.trl_dpo(1), evaluation])).assumed == {"beta": 0.1}


def test_the_model_card_tells_rloo_from_grpo(tmp_path):
    logs.write_state(tmp_path, [logs.trl_grpo(1)])
    (tmp_path / "README.md").write_text(
        "# Model Card for x\n\nIt has been trained using [TRL](https://github.com/huggingface/trl).\n\n"
        "This model was trained with RLOO, a method introduced in [a paper](https://huggingface.co/papers/2402.14740).\n\n"
        "### Framework versions\n\n- TRL: 1.16.0\n- Transformers: 5.23.0\n"
    )
    log = read(tmp_path)
    assert (log.method, log.facts["TRL"]) == ("rloo", "1.16.0") and "README.md says" in log.because


def test_the_files_of_the_run_stand_above_its_checkpoint(tmp_path):
    path = logs.write_state(tmp_path / "checkpoint-10", [logs.trl_grpo(1)])
    (tmp_path / "README.md").write_text("This model was trained with RLOO.\n")
    assert read(path).method == "rloo"


def test_the_limit_of_an_answer_is_seen_only_where_answers_were_cut(tmp_path):
    logs.write_state(tmp_path, [logs.trl_grpo(1, **{"completions/clipped_ratio": 0.0})])
    assert "sampling" not in read(tmp_path).config


def test_a_sequence_classifier_beside_a_plain_log_is_a_reward_model(tmp_path):
    logs.write_state(tmp_path, [{"step": i, "loss": 1.3, "learning_rate": 1e-5, "epoch": 0.1} for i in (1, 2)])
    assert read(tmp_path).method == "sft"
    adapter = {"task_type": "SEQ_CLS", "r": 16, "lora_alpha": 32, "base_model_name_or_path": "Qwen/Qwen3-0.6B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    log = read(tmp_path)
    assert log.method == "reward" and log.facts["adapter"] == "LoRA of rank 16, alpha 32, over Qwen/Qwen3-0.6B"


def test_a_log_of_every_tenth_step_says_so_and_a_batch_without_rates_is_of_a_device(tmp_path):
    logs.write_state(tmp_path, [logs.trl_sft(i) for i in (10, 20, 30)])
    log = read(tmp_path)
    assert log.facts["logged"].startswith("every 10 steps") and log.config["train"]["batch_size"] == 8
    assert "a device" in log.facts["batch size"]


def test_a_cure_is_said_in_the_trainers_words():
    cure = "Set train.learning_rate 1e-05, or sampling.max_new_tokens 96"
    assert in_their_words(cure, "TRL") == "Set learning_rate 1e-05, or max_completion_length 96"
    assert in_their_words(cure, "verl") == (
        "Set actor_rollout_ref.actor.optim.lr 1e-05, or data.max_response_length 96"
    )
    assert in_their_words(cure, "Concordant") == cure
