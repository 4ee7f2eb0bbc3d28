"""N steps ≡ k steps, SIGKILL, resume, N−k steps: weights, optimizer, metrics and results, to the bit. Really killed."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from pathlib import Path

import pytest

from concordant.core import save_points
from concordant.engines.state_files import read_state
from concordant.runs.folder import RunFolder
from concordant.training import checkpoint
from tests.training.killing import STEPS, TRAINERS, Kill, Server, bits, command_of, differences, results

AT = "concordant.core.save_points.at"
# Best-of-n saves after every prompt; a small model's last layer runs only where it is read, as a large one's does.
PATCH = {"concordant.stages.best_of_n.PROMPTS_AT_ONCE": 1, "concordant.kernels.last_layer.WORTH": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def run(place):
    with Server(place) as server:
        assert server("world", place / "world").code == 0
        yield server


class Whole:
    """Uninterrupted runs, made when first asked for."""

    def __init__(self, run, place):
        self.run, self.place, self.seconds = run, place, {}

    def __call__(self, name):
        folder = self.place / f"whole-{name}"
        if name not in self.seconds:
            ended = self.run(*command_of(name, self.place / "world", folder), patch=PATCH)
            assert ended.code == 0, ended.said
            self.seconds[name] = ended.seconds
        return results(folder)


@pytest.fixture(scope="module")
def whole(run, place):
    return Whole(run, place)


def go_on(run, place, name, output, **settings):
    return run(*command_of(name, place / "world", output, resume=output.exists()), patch=PATCH, **settings)


def assert_ends_alike(run, place, name, output, whole):
    ended = go_on(run, place, name, output)
    assert ended.code == 0, ended.said
    assert differences(whole(name), results(output)) == []


def test_what_is_compared_is_not_nothing(whole):
    names = whole("ppo")
    for part in ("/policy/weights/", "/critic/optimizer/state/", "/loop.json/algorithm/kl_coef"):
        assert any(part in name for name in names), part
    assert any("/kept/" in name for trainer in TRAINERS for name in whole(trainer))  # none where the last is the best
    assert f"checkpoints/step-{STEPS:06d}/loop.json/loop/step" in names and bits(names) > 1e6
    assert {"metrics.jsonl", "samples.jsonl", "model/model.safetensors"} <= {*names}


def test_killed_at_every_point_of_a_save(run, place, whole):
    """Eleven processes one after another, each killed in a save of the one before it goes on from."""
    output = place / "points"
    for point in save_points.POINTS:
        ended = go_on(run, place, "sft", output, kill=Kill(call=AT, argument=point, time=2 if point == "begun" else 1))
        assert ended.code == -signal.SIGKILL, f"{point}: {ended.said}"
    assert_ends_alike(run, place, "sft", output, whole)


@pytest.mark.parametrize("name", [*TRAINERS, "best-of-n", "pipeline"])
def test_killed_at_any_instant(run, place, whole, name):
    whole(name)
    instant = random.Random(f"instant {name}").uniform(0.2, 0.9) * whole.seconds[name]
    output = place / f"instant-{name}"
    if name == "best-of-n":
        kill = Kill(call="concordant.runs.folder.RunFolder.log_samples", time=4)
    else:
        kill = Kill(call=AT, argument=random.Random(name).choice(save_points.POINTS[:7]), time=3)
    assert go_on(run, place, name, output, kill=kill).code == -signal.SIGKILL
    go_on(run, place, name, output, kill=Kill(seconds=instant))
    assert_ends_alike(run, place, name, output, whole)


@pytest.mark.parametrize("part", ["policy/state.safetensors", "critic/state.safetensors", "loop.json"])
def test_a_step_is_not_lost_to_a_flipped_byte(run, place, whole, part):
    output = place / f"flipped-{part.partition('.')[0].replace('/', '-')}"
    go_on(run, place, "ppo", output, kill=Kill(call=AT, argument="begun", time=3))
    newest = checkpoint.newest_valid(output / "checkpoints")[0]
    file = newest / part
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    ended = go_on(run, place, "ppo", output)
    assert f"{file} is not as it was written (size or hash differs); falling back" in ended.said
    assert differences(whole("ppo"), results(output)) == []


def test_what_is_finished_says_so_and_stays(run, place, whole):
    before = whole("dpo")
    ended = go_on(run, place, "dpo", place / "whole-dpo")
    assert ended.code == 0 and "the run is complete; nothing left to train" in ended.said
    assert differences(before, results(place / "whole-dpo")) == []


# -- changed settings -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(run, place):
    """An SFT run killed after two steps."""
    output = place / "half"
    assert go_on(run, place, "sft", output, kill=Kill(call=AT, argument="begun", time=3)).code == -signal.SIGKILL
    return output


def test_changed_settings_are_refused_by_name_and_nothing_is_touched(run, place, half):
    config = (half / "config.yaml").read_text()
    command = command_of("sft", place / "world", half, resume=True)
    ended = run(*command, "--train.learning_rate=0.5", "--model.lora.dropout=0", "--train.max_steps=9")
    assert ended.code == 2
    for line in ("train.learning_rate: 0.01 -> 0.5", "model.lora.dropout: 0.2 -> 0.0", "total_steps: 4 -> 9"):
        assert f"\n  {line}\n" in ended.said
    assert "continue with the new ones by --resume force" in ended.said
    assert (half / "config.yaml").read_text() == config


def test_changed_data_is_refused_wherever_it_lies(run, place, half):
    moved, changed = place / "moved.jsonl", place / "changed.jsonl"
    text = (place / "world" / "pairs.jsonl").read_text()
    moved.write_text(text)
    changed.write_text(text.replace("red", "rot"))
    command = command_of("sft", place / "world", half, resume=True)
    ended = run(*command, f"--data={changed}")
    assert ended.code == 2 and "  data: " in ended.said and f'data.path: "{place}/world/pairs.jsonl" -> ' in ended.said
    stop = Kill(call=AT, argument="begun")
    assert run(*command, f"--data={moved}", kill=stop).code == -signal.SIGKILL  # the same records: it goes on


def test_a_changed_start_is_refused(run, place, half):
    card = place / "world" / "model" / "README.md"
    text = card.read_text()
    try:
        card.write_text(text + "more")
        ended = go_on(run, place, "sft", half)
    finally:
        card.write_text(text)
    assert ended.code == 2 and "model.name: " in ended.said and "(other content)" in ended.said


def test_force_goes_on_and_leaves_a_note(run, place, half):
    command = command_of("sft", place / "world", half)
    ended = run(*command, "--resume=force", "--train.learning_rate=0.5", "--train.micro_batch_tokens=512")
    assert ended.code == 0, ended.said
    assert "continues with other settings: train.learning_rate: 0.01 -> 0.5" in ended.said
    events = (half / "events.jsonl").read_text()
    assert '"changes": ["train.learning_rate: 0.01 -> 0.5"]' in events
    assert '"the last bits may differ", "changes": ["train.micro_batch_tokens: 256 -> 512"]' in events
    assert "learning_rate: 0.5" in (half / "config.yaml").read_text()


def test_best_of_n_refuses_what_is_not_its_own_and_knows_when_it_is_done(run, place, whole):
    before, output = whole("best-of-n"), place / "whole-best-of-n"
    command = command_of("best-of-n", place / "world", output, resume=True)
    ended = run(*command, "--sampling.n=3")
    assert ended.code == 2 and "\n  sampling.n: 2 -> 3\n" in ended.said
    ended = run(*command)
    assert ended.code == 0 and "18 of 18 prompts were answered before" in ended.said
    assert differences(before, results(output)) == []


def test_best_of_n_answers_again_from_a_damaged_line_on(run, place, whole):
    before, output = whole("best-of-n"), place / "damaged-best-of-n"
    shutil.copytree(place / "whole-best-of-n", output)
    lines = (output / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (output / "samples.jsonl").write_bytes(b"".join([*lines[:2], lines[2][:9] + b"\xff" + lines[2][10:], *lines[3:]]))
    ended = go_on(run, place, "best-of-n", output)
    assert ended.code == 0 and "samples.jsonl line 3 is damaged; answering again from there" in ended.said
    assert differences(before, results(output)) == []


def test_one_folder_one_process(run, place, whole):
    whole("sft")
    with RunFolder(place / "whole-sft", resume=True):
        ended = go_on(run, place, "sft", place / "whole-sft")
    assert ended.code == 2 and "whole-sft is in use by process" in ended.said


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, name, call, said", [
    (signal.SIGTERM, "sft", "stages.common.load_records", "interrupted; the same command starts again"),
    (signal.SIGINT, "sft", "data.chat.ChatEncoder.demonstrations", "interrupted; the same command starts again"),
    (signal.SIGTERM, "sft", "algorithms.supervised.Supervised.step", "step 1/4: stopped on request; continue with --"),
    (signal.SIGINT, "reward", "stages.reward.measure_on_heldout", "interrupted; continue with --resume auto"),
    (signal.SIGTERM, "best-of-n", "runs.folder.RunFolder.log_samples", "the same command starts again"),
    (signal.SIGTERM, "pipeline", "stages.best_of_n.choose", "the same command continues from here"),
])  # fmt: skip
def test_a_signal_ends_cleanly_wherever_it_comes(run, place, whole, number, name, call, said):
    output = place / f"signal-{name}-{call.rpartition('.')[2]}-{number}"
    ended = go_on(run, place, name, output, kill=Kill(call=f"concordant.{call}", signal=number))
    assert (ended.code, "Traceback" in ended.said) == (3, False), ended.said
    assert said in ended.said
    assert_ends_alike(run, place, name, output, whole)


def test_a_signal_to_a_verb_that_keeps_nothing_says_that_it_starts_again(run, place):
    command = ["evaluate", f"--policies=a={place}/world/model", f"--data={place}/world/pairs.jsonl", "--output"]
    kill = Kill(call="concordant.stages.evaluate._sample", signal=signal.SIGTERM)
    ended = run(*command, place / "report", kill=kill)
    assert ended.code == 3 and "Traceback" not in ended.said
    assert "stopped: interrupted; nothing is half-written, the same command starts again" in ended.said


def test_a_signal_in_a_stages_last_step_stops_the_pipeline_after_it(run, place, whole):
    output = place / "late"
    kill = Kill(call="concordant.algorithms.supervised.Supervised.step", time=STEPS, signal=signal.SIGTERM)
    ended = go_on(run, place, "pipeline", output, kill=kill)
    assert ended.code == 3 and "stage sft is done; the same command continues from here" in ended.said
    assert not (output / "judge").exists()
    assert_ends_alike(run, place, "pipeline", output, whole)


# -- a run that cannot go on -----------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_that_is_not_finite_stops_and_leaves_the_batch(run, place, name):
    output = place / f"nan-{name}"
    boom = ["--train.learning_rate=1e30", "--train.max_grad_norm=0", "--train.max_steps=12", "--train.evaluate_every=0"]
    ended = run(*command_of(name, place / "world", output), *boom, "--model.lora.rank=0", "--model.lora.dropout=0")
    assert ended.code == 1 and "Traceback" not in ended.said, ended.said
    said = re.search(r"not finite 5 times in a row; the last batch is in (\S+); lower train.learning_rate", ended.said)
    batch = read_state(Path(said[1]) / "batch")
    assert all(tree["prompt_T"].numel() and tree["branches"] for tree in batch["trees"])


GREEDY = ["--train.batch_size=1900", "--train.micro_batch_tokens=200000", "--train.max_steps=1"]


def test_out_of_memory_says_where_and_what_to_lower(run, place):
    first, *_ = (place / "world" / "pairs.jsonl").read_text().splitlines()
    many = [json.dumps({**json.loads(first), "prompt": f"what colour is the hat number {i}"}) for i in range(2000)]
    (place / "many.jsonl").write_text("\n".join(many))
    data = [f"--data={place}/many.jsonl", "--data.test_fraction=0.002", "--doctor.preflight=false"]
    command = [*command_of("dpo", place / "world", place / "memory"), *GREEDY, *data]
    ended = run(*command, memory=400 * 10**6)
    assert (ended.code, "Traceback" in ended.said) == (1, False), ended.said
    cure = "out of memory while computing the gradient: lower train.micro_batch_tokens (now 200000)"
    assert cure in ended.said
    assert run(*command, "--resume=auto", "--train.halve_on_oom", memory=400 * 10**6).code == 0


def test_out_of_memory_while_sampling_names_the_slots(run, place):
    command = command_of("best-of-n", place / "world", place / "slots")
    ended = run(*command, "--sampling.n=4000", "--sampling.slots=90000", "--sampling.max_new_tokens=200", memory=10**9)
    assert (ended.code, "Traceback" in ended.said) == (1, False), ended.said
    assert "out of memory while sampling: lower sampling.slots (now 90000) or sampling.max_new_tokens" in ended.said


def test_a_file_that_may_not_grow_costs_the_checkpoint_and_not_the_run(run, place, whole):
    output, model = place / "files", (place / "world" / "model" / "model.safetensors").stat().st_size
    ended = go_on(run, place, "reward", output, files=2 * model)
    assert ended.code == 0 and "step 1/4: the checkpoint could not be saved" in ended.said, ended.said
    expected = whole("reward")["model/model.safetensors"]
    assert (output / "model" / "model.safetensors").read_bytes() == expected
