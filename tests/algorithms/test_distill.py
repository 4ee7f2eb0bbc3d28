"""Which answers a step of distillation learns from, and that its gradient does not depend on how they are split."""

import pytest
import torch

from concordant.algorithms.distill import Distill, DistillObjective, Pupil, Questions, own_of
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DistillConfig
from concordant.config.train import TrainConfig
from concordant.core.divergence import DIVERGENCES, Divergence
from concordant.core.objective import Outputs
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Message, Prompt
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.local.scorer import LocalScorer
from tests.engines.tiny import tiny_policy


def student_of(teacher, max_tokens=10**6, lora_rank=0, **settings):
    learner = LocalLearner(
        PolicyNetwork(tiny_policy(lora_rank=lora_rank)), TrainConfig(micro_batch_tokens=max_tokens), **settings
    )
    learner.set_reference(LocalScorer(PolicyNetwork(teacher)))
    return learner


def trees(count=5):
    stream = torch.Generator().manual_seed(0)

    def ids(n):
        return torch.randint(10, 300, (n,), generator=stream)

    return [PromptTree(ids(2 + i), (Branch.response(ids(1 + i)), Branch.response(ids(7 - i)))) for i in range(count)]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_gradient_is_the_same_for_every_split_and_is_the_models_own(name):
    """Against both models on plain rows; the teacher is larger and its embedding has rows that no token has."""
    teacher, temperature = tiny_policy(seed=1, hidden_size=48, vocab_size=320), 1.5
    objective, gradients = DistillObjective(Divergence(name, 0.3)), []
    for max_tokens in (10**6, 1, 20):
        learner = student_of(teacher, max_tokens, temperature=temperature)
        metrics = learner.forward_backward(trees(), objective).result()
        gradients.append((metrics["divergence"], torch.cat([p.grad.flatten() for p in learner.parameters])))
    plain, losses = tiny_policy().model, []
    for tree in trees():
        for branch in tree.branches:
            row, at = torch.cat([tree.prompt_T, branch.ids_T])[None], len(tree.prompt_T) - 1
            logp = (plain(row).logits[0, at:-1] / temperature).log_softmax(-1)
            with torch.no_grad():
                logq = (teacher.model(row).logits[0, at:-1, :300] / temperature).log_softmax(-1)
            losses.append(DIVERGENCES[name](logp, logq, 0.3)[0].sum(-1))
    loss = torch.cat(losses).mean()
    loss.backward()
    own = torch.cat([p.grad.flatten() for p in plain.parameters()])
    for value, gradient in gradients:
        assert value == pytest.approx(loss.item(), rel=1e-4)
        assert (gradient - own).norm() < 1e-4 * own.norm()


def test_a_student_with_an_adapter_comes_nearer_to_its_teacher():
    learner, objective = student_of(tiny_policy(seed=1), lora_rank=4), DistillObjective(Divergence("jsd"))
    seen = []
    for _ in range(8):
        seen.append(learner.forward_backward(trees(), objective).result()["loss"])
        learner.step(1e-2).result()
    assert seen[-1] < 0.8 * seen[0]
    assert learner.forward(trees(), Outputs(divergence=Divergence("jsd"))).result().divergence_N.min() >= -1e-6


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_the_student_answers_its_share_of_the_prompts(share):
    own = [own_of(step, 8, share) for step in range(300)]
    assert all(0 <= n <= 8 for n in own)
    for steps in (1, 7, 300):
        assert abs(sum(own[:steps]) - share * 8 * steps) < 1


class Writer:
    """Answers every prompt with its own token, and remembers what it was asked."""

    def __init__(self, token):
        self.token, self.asked, self.generator = token, [], self

    def load_weights(self, weights):
        self.version = weights.version

    def __call__(self, prompts, sampling, seed):
        self.asked.append(([p.messages[0].content for p in prompts], seed))
        branch = Branch.response([self.token] * 2)
        self.trees = [PromptTree(torch.tensor([int(p.messages[0].content) + 50]), (branch,)) for p in prompts]
        return self


def distilling(share, given=()):
    own, teacher = Writer(7), Writer(8)
    config = DistillConfig(on_policy=share, train=TrainConfig(batch_size=4, max_steps=4), sampling=SamplingConfig())
    prompts = [Prompt((Message("user", str(i)),)) for i in range(8)]
    learner = student_of(tiny_policy(seed=1))
    pupil = Pupil(learner=learner, sampler=own, teacher=None if given else teacher)
    questions = Questions(prompts=prompts, trees=given)
    return Distill(config, pupil, questions, questions, end_ids=(8,)), own, teacher


def test_a_step_mixes_own_and_given_answers_and_no_prompt_comes_twice():
    algorithm, own, teacher = distilling(0.25)
    metrics = algorithm.step(0, 1e-3)
    assert metrics["own_answers"] == 0.25 and metrics["response/eos_fraction"] == 0.75
    assert own.version == 0 and algorithm.learner.version == 1
    (mine, _), (theirs, _) = own.asked[0], teacher.asked[0]
    assert len(mine) == 1 and len(theirs) == 3 and not set(mine) & set(theirs)
    assert {int(b.ids_T[0]) for tree in algorithm.last for b in tree.branches} == {7, 8}
    algorithm.step(1, 1e-3)
    assert own.version == 1, "the present weights answer"
    assert own.asked[0][1] != own.asked[1][1] and teacher.asked[0][1] != teacher.asked[1][1], "new answers each time"


def test_answers_of_the_data_are_those_of_their_prompts():
    answers = [PromptTree(torch.tensor([50 + i]), (Branch.response([20 + i]),)) for i in range(8)]
    algorithm, own, teacher = distilling(0.5, answers)
    algorithm.step(0, 1e-3)
    given = algorithm.last[2:]
    assert len(given) == 2 and all(int(t.branches[0].ids_T[0]) + 30 == int(t.prompt_T[0]) for t in given)
    assert not teacher.asked and len(own.asked) == 1


def test_an_evaluation_weighs_own_and_given_answers_as_the_training_does():
    algorithm, _, teacher = distilling(0.25)

    def probe(step):
        probe.trees = trees(2)
        return {"kl": 1.0}

    algorithm.pupil = Pupil(learner=algorithm.learner, sampler=algorithm.pupil.sampler, teacher=teacher, probe=probe)
    found = algorithm.evaluate(0)
    assert found["eval/loss"] == pytest.approx(
        0.25 * found["eval/divergence/own"] + 0.75 * found["eval/divergence/given"]
    )
    algorithm.evaluate(1)
    assert len(teacher.asked) == 1, "the given answers are those of the first evaluation"
