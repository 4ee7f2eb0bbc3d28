"""Each format is recognised, and its rows come out in our names and units."""

from __future__ import annotations

import json
import math
from pathlib import Path

import foreign_logs as logs
import pytest

from concordant.core.errors import UserError
from concordant.runs.foreign.formats import FOREIGN, read_foreign, recognise
from concordant.runs.foreign.keys import KEYS, table, translate
from concordant.runs.metrics import metric


def read(target):
    found = recognise(target)
    assert found is not None
    return read_foreign(*found)


# -- the forms of a log ---------------------------------------------------------------------------


def test_a_trainer_state_of_dpo(tmp_path):
    evaluation = {"epoch": 0.1, "eval_loss": 0.6, "eval_rewards/accuracies": 0.7, "eval_runtime": 2.0,
                  "eval_samples_per_second": 12.0, "eval_steps_per_second": 1.0, "step": 1}  # fmt: skip
    total = {"epoch": 1.0, "step": 2, "total_flos": 0.0, "train_loss": 0.6, "train_runtime": 9.0,
             "train_samples_per_second": 64.0, "train_steps_per_second": 2.0}  # fmt: skip
    logs.write_state(tmp_path, [logs.trl_dpo(1), evaluation, logs.trl_dpo(2, 1.0), total])
    log = read(tmp_path)
    assert (log.form, log.framework, log.method, log.verb) == ("trainer_state.json", "TRL", "dpo", "dpo")
    assert '"rewards/margins" and "logps/chosen"' in log.because
    first, second = log.rows
    assert first["eval/rewards/accuracies"] == 0.7 and first["eval/samples"] == 24 and first["tokens"] == 100
    assert second["rewards/margins"] == 1.0 and second["foreign/logits/chosen"] == 0.3
    assert log.config["train"] == {"max_steps": 40, "epochs": 1, "batch_size": 32, "learning_rate": 1e-4}
    assert log.config["loss"] == "sigmoid" and log.assumed == {"beta": 0.1}
    assert "logits/chosen" in log.others and "loss" not in log.others


def test_the_newest_checkpoint_has_the_log_of_a_folder_without_its_own(tmp_path):
    for step in (9, 10):
        logs.write_state(tmp_path / f"checkpoint-{step}", [logs.trl_sft(i) for i in range(1, step + 1)])
    log = read(tmp_path)
    assert log.path.parent.name == "checkpoint-10" and log.rows[-1]["step"] == 10
    assert (log.method, log.rows[0]["token_accuracy"]) == ("sft", 0.55)


def test_a_bare_log_history(tmp_path):
    (tmp_path / "log_history.json").write_text(json.dumps([logs.trl_reward(i) for i in (1, 2)]))
    log = read(tmp_path)
    assert (log.form, log.method) == ("log_history", "reward")
    row = log.rows[0]  # mean 1 and margin 0.5: the sides are 1.25 and 0.75
    assert (row["reward/chosen"], row["reward/rejected"], row["bradley_terry"]) == (1.25, 0.75, 0.6)


@pytest.mark.parametrize("name", ["metrics.jsonl", "anything.jsonl"])
def test_a_log_history_as_json_lines(tmp_path, name):
    logs.write_lines(tmp_path / name, [logs.trl_dpo(i) for i in (1, 2)])
    assert read(tmp_path).method == "dpo" and read(tmp_path / name).method == "dpo"


def test_grpo_is_per_response_where_ours_is(tmp_path):
    logs.write_state(tmp_path, [logs.trl_grpo(1), logs.trl_grpo(2)])
    row = read(tmp_path).rows[0]
    assert row["objective/kl"] == pytest.approx(0.02 * 20)  # nats a token times the mean length
    assert row["objective/entropy"] == pytest.approx(1.5 * 20) and row["objective/entropy_per_token"] == 1.5
    assert row["response/eos_fraction"] == 0.75 and row["objective/tied_groups"] == 0.5
    assert (row["objective/score"], row["objective/score_std"], row["policy/clip_fraction"]) == (0.4, 0.2, 0.125)
    assert read(tmp_path).config["sampling"] == {"max_new_tokens": 48}  # the longest answer where some were cut


def test_a_kl_without_a_length_is_not_converted():
    row = translate({"step": 1, "kl": 0.02, "reward": 1.0}, "ppo")
    assert "objective/kl" not in row and row["foreign/kl"] == 0.02


def test_llama_factory(tmp_path):
    rows = [{"current_steps": i, "total_steps": 50, "loss": 0.6, "accuracy": 0.7, "lr": 5e-6,
             "epoch": i / 50, "percentage": 2.0 * i,
             "elapsed_time": "0:00:10", "remaining_time": "0:01:00"} for i in (1, 2)]  # fmt: skip
    logs.write_lines(tmp_path / "trainer_log.jsonl", rows)
    log = read(tmp_path)
    assert (log.framework, log.method, log.config["train"]["max_steps"]) == ("LLaMA-Factory", "dpo", 50)
    assert log.rows[1]["rewards/accuracies"] == 0.7 and log.rows[1]["learning_rate"] == 5e-6
    (tmp_path / "training_args.yaml").write_text(
        "stage: dpo\npref_beta: 0.2\npref_loss: sigmoid\nlearning_rate: 1.0e-5\n"
    )
    log = read(tmp_path)
    assert (log.config["beta"], log.config["loss"], log.config["train"]["learning_rate"]) == (0.2, "sigmoid", 1e-5)


def test_verls_file_logger_and_console_say_the_same(tmp_path):
    steps = [(1, logs.verl()), (2, logs.verl(**{"val-core/openai/gsm8k/acc/mean@1": 0.5}))]
    logs.write_lines(tmp_path / "experiment.jsonl", [{"step": step, "data": row} for step, row in steps])
    (tmp_path / "out.log").write_text("loading …\n" + "".join(logs.console_line(step, row) for step, row in steps))
    filed, printed = read(tmp_path / "experiment.jsonl"), read(tmp_path / "out.log")
    assert filed.rows == printed.rows and (filed.form, printed.form) == ("JSON lines", "console")
    assert (filed.framework, filed.method, filed.verb) == ("verl", "ppo", "ppo")
    row = filed.rows[1]
    assert row["objective/kl"] == pytest.approx(0.03 * 200) and row["eval/reward"] == 0.5
    assert row["objective/score_std"] == 0.5  # at most half of the range
    assert row["response/eos_fraction"] == 0.9 and row["value/explained_variance"] == 0.3
    assert filed.config["sampling"] == {"max_new_tokens": 512}


def test_openrlhfs_console(tmp_path):
    text = "".join(f"INFO 09-01 10:00:0{i} ✨ Global step {i}: {logs.openrlhf()}\n" for i in (1, 2))
    (tmp_path / "train.out").write_text(text.replace("0.3,", "np.float64(0.3),"))
    log = read(tmp_path / "train.out")
    assert (log.framework, log.method) == ("OpenRLHF", "ppo")
    row = log.rows[0]
    assert row["objective/kl"] == pytest.approx(0.01 * 150) and row["objective/rlhf_reward"] == 0.25
    assert row["objective/score"] == 0.3 and row["response/eos_fraction"] == 0.8 and row["policy/approx_kl"] == 0.002


@pytest.mark.parametrize(("start", "method"), [(0.0, "dpo"), (0.7, "reward")])
def test_openrlhfs_pairs_are_told_apart_by_their_first_rewards(tmp_path, start, method):
    rows = [{"global_step": i, "loss": 0.69, "loss_mean": 0.68, "acc": 0.5, "acc_mean": 0.6,
             "chosen_reward": start + i - 1, "reject_reward": start,
             "lr": 1e-6, "grad_norm": 1.0} for i in (1, 2)]  # fmt: skip
    log = read(logs.write_lines(tmp_path / "x.jsonl", rows))
    assert (log.framework, log.method) == ("OpenRLHF", method)
    accuracy, margin = ("rewards/accuracies", "rewards/margins") if method == "dpo" else ("accuracy", "margin")
    assert log.rows[1]["loss"] == 0.68 and log.rows[1][accuracy] == 0.6 and log.rows[1][margin] == pytest.approx(1.0)


def test_what_transformers_prints(tmp_path):
    """Version 5 prints texts, version 4 numbers; NaN is a name. A progress bar stands before them."""
    (tmp_path / "nohup.out").write_text(
        "  2%|▏    | 1/50 [00:01]{'loss': '2.31', 'grad_norm': '1.2', 'mean_token_accuracy': '0.4', 'epoch': '0.1'}\n"
        "{'loss': nan, 'grad_norm': nan, 'mean_token_accuracy': 0.1, 'epoch': 0.2}\n"
        "{'eval_loss': 2.5, 'epoch': 0.2}\n"
    )
    log = read(tmp_path / "nohup.out")
    assert log.method == "sft" and [row["step"] for row in log.rows] == [1, 2] and "steps" in log.facts
    assert log.rows[0]["loss"] == 2.31 and log.rows[1]["eval/loss"] == 2.5
    assert math.isnan(log.rows[1]["loss"]) and log.rows[1]["skipped"] == 1


def test_tensorboards_events(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "runs" / "Nov28_host"
    with SummaryWriter(str(folder)) as writer:
        for step in (1, 2):
            for name, value in logs.trl_dpo(step).items():
                writer.add_scalar(f"train/{name}", value, step)
            writer.add_scalar("eval/loss", 0.5, step)
        for name, value in {
            "train_runtime": 9.0,
            "train_samples_per_second": 64.0,
            "train_steps_per_second": 2.0,
        }.items():
            writer.add_scalar(f"train/{name}", value, 2)
    log = read(tmp_path)
    assert (log.form, log.method) == ("TensorBoard events", "dpo")
    assert [row["step"] for row in log.rows] == [1, 2] and log.rows[0]["eval/loss"] == 0.5
    assert log.config["train"]["batch_size"] == 32 and "train_runtime" not in log.others
    assert log.rows[0]["loss"] == pytest.approx(0.6931)  # events hold single precision
    assert read(log.path).rows == log.rows


def test_events_that_a_kill_cut_short_are_read_up_to_there(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 30):
            writer.add_scalar("train/loss", 1.0, step)
    (path,) = tmp_path.glob("*tfevents*")
    whole = path.read_bytes()
    for torn in (whole[:-7], whole[:-2], whole[: whole.rfind(b"train/loss") - 20]):
        path.write_bytes(torn)
        assert len(read(tmp_path).rows) == 28
    path.write_bytes(whole[:-200] + b"\xff" * 200)
    log = read(tmp_path)
    assert 20 <= len(log.rows) < 28 and "damaged" in log.damage


def test_rows_that_a_kill_damaged_are_left_out_and_said(tmp_path):
    path = logs.write_lines(tmp_path / "trainer.jsonl", [logs.trl_sft(i) for i in (1, 2, 3)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2]]) + "\n")
    log = read(path)
    assert [row["step"] for row in log.rows] == [1, 3] and "line 2" in log.damage


def test_a_resumed_run_keeps_its_last_values(tmp_path):
    rows = [logs.trl_sft(1, loss=3.0), logs.trl_sft(2, loss=2.5), logs.trl_sft(2, loss=2.4)]
    log = read(logs.write_lines(tmp_path / "x.jsonl", rows))
    assert [row["loss"] for row in log.rows] == [3.0, 2.4]


# -- what is no log -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is the owl?", "chosen": "At home.", "rejected": "No."},
        {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
        {"instruction": "a", "input": "", "output": "b", "score": 1.0, "epoch": 1},
        {"step": 4, "prompt": [{"role": "user", "content": "hi"}], "response": "yes", "reward": 0.5, "kl": 0.1},
        {"step": 3, "height": 2.0},
        {"step": 3, "epoch": 1, "height": 2.0},
        {"step": 3, "prompt": "Is it late?", "reward": 0.5},
    ],
)
def test_data_and_samples_are_no_logs(tmp_path, row):
    logs.write_lines(tmp_path / "rows.jsonl", [row] * 5)
    (tmp_path / "rows.json").write_text(json.dumps([row] * 5))
    (tmp_path / "notes.txt").write_text("A note: step:3 of the plan.\n{'a': 'set'}\n")
    assert recognise(tmp_path) is None
    assert [recognise(path) for path in tmp_path.iterdir()] == [None] * 3


@pytest.mark.parametrize("odd", [None, True, "x", [1], {"a": 1}, 10**400, float("inf"), -1])
def test_odd_values_raise_no_error(tmp_path, odd):
    rows = [logs.trl_grpo(i) | {"kl": odd, "epoch": odd, "zz": odd} for i in (1, 2)] + [{"step": odd, "loss": 1.0}]
    logs.write_state(tmp_path, rows, max_steps=odd, num_train_epochs=odd, train_batch_size=odd)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": odd}))
    assert read(tmp_path).rows[0]["objective/score"] == 0.4


def test_a_log_without_rows_is_refused(tmp_path):
    logs.write_state(tmp_path, [logs.trl_sft(1)], log_history=[])
    with pytest.raises(UserError, match="holds no row of metrics yet"):
        read(tmp_path)


def test_a_pickle_is_never_opened(tmp_path, monkeypatch):
    logs.write_state(tmp_path, [logs.trl_sft(1)])
    (tmp_path / "training_args.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    opened = []

    def watched(path, *rest, **named):
        opened.append(str(path))
        return open(path, *rest, **named)  # noqa: SIM115

    monkeypatch.setattr("io.open", watched)  # which pathlib calls
    read(tmp_path)
    assert [path for path in opened if path.endswith("trainer_state.json")]
    assert not [path for path in opened if path.endswith(".bin")]


# -- the table ------------------------------------------------------------------------------------


def test_every_name_of_ours_is_a_metric():
    assert {key.ours for key in KEYS if metric(key.ours) is None} == set()


def test_no_key_is_twice_for_one_verb():
    seen = [(key.theirs, key.ours, verb) for key in KEYS for verb in key.verbs]
    assert len(seen) == len(set(seen))


def test_every_format_has_a_reader_and_a_place():
    assert len({form.name for form in FOREIGN}) == len(FOREIGN) and all(form.files for form in FOREIGN)


def test_the_page_shows_the_table():
    page = Path(__file__).resolve().parents[3] / "docs" / "foreign-logs.md"
    assert page.read_text(encoding="utf-8").endswith(table())
