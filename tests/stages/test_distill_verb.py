"""The verb ``distill``: what it writes, an exact resume, two workers, and teachers that cannot teach."""

import json
import shutil

import pytest
import torch

import concordant
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DistillConfig
from concordant.core.errors import UserError
from concordant.data.tokenizer import train_tokenizer
from concordant.engines import roles
from concordant.models.load import load_policy, save_policy
from concordant.runs.metrics import metric
from tests.engines.tiny import tiny_policy
from tests.stages.small import in_a_process, metrics_of, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A student, a larger teacher, one that reads other tokens, and eight dialogues."""
    folder = tmp_path_factory.mktemp("distill")
    save_policy(tiny_policy(), folder / "student")
    save_policy(tiny_policy(seed=1, hidden_size=48), folder / "teacher")
    other = tiny_policy(seed=2)
    other.tokenizer = train_tokenizer(["another language altogether"] * 4, 290)
    save_policy(other, folder / "foreign")
    rows = [{"prompt": f"where does owl {i} live", "chosen": "in a tree", "rejected": "no"} for i in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def made(world, tmp_path, monkeypatch):
    """Settings of a run in a folder where its parts stand, with short names."""
    monkeypatch.chdir(world)

    def made(output, steps=3, lora=0, student="student", optimizer="adamw", **settings):
        often = train(
            max_steps=steps, batch_size=4, learning_rate=1e-2, evaluate_every=1, save_every=1, keep_last=9,
            optimizer=optimizer,
        )  # fmt: skip
        usual = {
            "teacher": "teacher",
            "sampling": SamplingConfig(max_new_tokens=5),
            "data": DataConfig("pairs.jsonl", test_fraction=0.25),
            "model": ModelConfig(name=student, device="cpu", precision="fp32", lora=LoraConfig(rank=lora)),
        }
        return DistillConfig(output=str(tmp_path / output), train=often, **usual | settings)

    return made


@pytest.fixture
def run(made):
    return lambda *where, **settings: concordant.distill(made(*where, **settings))


def steps(folder):
    """The metrics of the steps without what a clock says."""
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics_of(folder)]


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_run_teaches_and_resumes_to_the_same_numbers(run, tmp_path):
    whole = run("whole", steps=4)
    rows = steps(whole)
    assert rows[-1]["eval/divergence"] < rows[0]["eval/divergence"]
    assert all(metric(name) for name in rows[-1]), "every metric has a meaning"
    assert {row["own_answers"] for row in rows} == {0.5}
    events = events_of(whole)
    assert events[0]["examples"] == 9
    assert not {row.get("rule") for row in events} & {
        "untrained_start",
        "gradient_missing",
        "gradient_frozen",
        "memory",
    }
    assert "distilled from teacher" in (whole / "model" / "README.md").read_text()
    shutil.copytree(whole, tmp_path / "cut")
    for checkpoint in ("step-000003", "step-000004"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / checkpoint)
    assert steps(run("cut", steps=4, resume="auto")) == rows
    one, other = (load_policy(ModelConfig(str(f / "model"))).model.state_dict() for f in (whole, tmp_path / "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_two_workers_learn_what_one_learns(made, world):
    """With Muon too, which every worker runs on the same gradient."""
    settings = {
        "steps": 1,  # the evaluation after it reads the changed weights
        "lora": 2,
        "optimizer": "muon",
        "divergence": "reverse_kl",
        "sampling": SamplingConfig(n=2, max_new_tokens=5),
        "student": str(world / "student"),
        "teacher": str(world / "teacher"),
        "data": DataConfig(str(world / "pairs.jsonl"), test_fraction=0.25),
    }
    cluster = [ClusterConfig(workers=n, shards=2) for n in (1, 2)]
    two = in_a_process(concordant.distill, made("by-2", cluster=cluster[1], **settings))
    assert steps(concordant.distill(made("by-1", cluster=cluster[0], **settings))) == steps(two)


def test_an_adapter_learns_from_the_answers_of_the_data_alone(run):
    folder = run("lora", lora=2, on_policy=0.0, answers="data", divergence="forward_kl")
    rows = steps(folder)
    assert (folder / "adapter" / "adapter_config.json").is_file()
    assert rows[-1]["own_answers"] == 0 and "eval/divergence/own" not in rows[-1]
    assert rows[-1]["response/length"] == metrics_of(folder)[0]["response/length"], "all answers are the same text"


def test_a_built_in_student_reads_the_teachers_tokens(world):
    settings = ModelConfig("builtin:nano", device="cpu")
    teacher = roles.open_teacher(str(world / "teacher"), settings)
    student = roles.open_student(settings, teacher)
    assert student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()
    assert student.model.get_input_embeddings().weight.shape == (len(teacher.tokenizer), 128)
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_a_teacher_that_reads_other_tokens_is_refused(run):
    said = r"teacher foreign: its tokenizer \(\d+ tokens\) differs from the student's \(\d+ tokens\); the distributions"
    with pytest.raises(UserError, match=said):
        run("x", teacher="foreign")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"teacher": "student"}, "a student that is its own teacher has nothing to learn"),
        ({"teacher": ""}, "teacher is needed; give --teacher FOLDER"),
        ({"divergence": "forward_kl", "beta": 0.3}, "beta=0.3 would do nothing: only jsd mixes"),
        ({"on_policy": 1.0, "answers": "data"}, 'answers="data" would do nothing: with on_policy 1'),
        ({"sampling": SamplingConfig(engine="vllm")}, "vLLM holds one model in a process"),
        ({"teacher": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_do_not_fit_are_refused(run, settings, said):
    with pytest.raises(UserError, match=said):
        run("x", **settings)


def test_the_doctor_knows_an_untrained_teacher(run, world):
    tiny = tiny_policy()
    tiny.model.get_input_embeddings().weight.data.mul_(0.01)  # all words are as likely
    tiny.model.lm_head.weight.data.mul_(0.01)
    save_policy(tiny, world / "untrained")
    (finding,) = [
        row for row in events_of(run("sick", steps=1, teacher="untrained")) if row.get("rule") == "untrained_start"
    ]
    assert finding["seen"].startswith("the teacher gives each token")
