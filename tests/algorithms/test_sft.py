import copy
import math

import pytest
import torch

from concordant.algorithms.rollouts import Sampler
from concordant.algorithms.sft import SFTObjective, finish, share_prompts
from concordant.algorithms.supervised import Course, Examples, Supervised
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import BranchOutputs
from concordant.core.trees import Branch, PromptTree, lay_out
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration, Message, Prompt
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from tests.algorithms.worlds import tree
from tests.engines.tiny import tiny_policy


def learner(policy=None):
    return LocalLearner(PolicyNetwork(policy or tiny_policy()), TrainConfig())


def test_every_response_token_counts_alike():
    """Three tokens of one answer and one of another: a mean of four, not of two means."""
    batch = lay_out([tree([8, 9, 10]), tree([11])])
    logprob_N = torch.tensor([-1.0, -1.0, -1.0, -5.0])[batch.token_N]
    objective = SFTObjective()
    evaluated = objective(BranchOutputs(logprob_N=logprob_N, top_N=torch.tensor([1.0, 0.0, 0.0, 0.0])), batch)
    assert float(evaluated.terms["nll"].sum) / objective.weights(batch)["nll"] == 2.0
    assert float(evaluated.metrics["token_accuracy"].sum) / evaluated.metrics["token_accuracy"].weight == 0.25
    assert finish({"nll": 2.0})["perplexity"] == pytest.approx(math.exp(2))


def test_user_turns_and_prompts_are_not_learnt():
    """The gradient of a dialogue is that of its answers, each behind all that came before."""
    first, user, second = [8, 9], [10, 11, 12], [13, 14]
    mask = torch.tensor([True] * 2 + [False] * 3 + [True] * 2)
    dialogue = PromptTree(torch.tensor([5, 6]), (Branch(torch.tensor(first + user + second), mask),))
    apart = [tree(first, prompt=[5, 6]), tree(second, prompt=[5, 6, *first, *user])]
    whole, pieces = learner(), learner()
    one, two = (
        whole.forward_backward([dialogue], SFTObjective()).result(),
        pieces.forward_backward(apart, SFTObjective()).result(),
    )
    assert one["nll"] == pytest.approx(two["nll"], rel=1e-5)
    for a, b in zip(whole.parameters, pieces.parameters, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_sharing_prompts_changes_cost_and_not_the_gradient():
    trees = [tree([8, 9]), tree([10]), tree([11], prompt=[7, 7]), tree([12, 13])]
    shared = share_prompts(trees)
    assert [len(t.branches) for t in shared] == [2, 1, 1], "runs only: the order of the data is kept"
    assert sum(t.tokens for t in shared) < sum(t.tokens for t in trees)
    apart, together = learner(), learner()
    assert apart.forward_backward(trees, SFTObjective()).result() == pytest.approx(
        together.forward_backward(shared, SFTObjective()).result()
    )
    for a, b in zip(apart.parameters, together.parameters, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize(("prompt", "most"), [([5, 6, 7], 4), ([5], 1)])
def test_data_with_one_prompt_for_all_is_not_one_example(prompt, most):
    """Rows of text begin with the same start token, and some data asks one question: each batch took all answers."""
    trees = [tree([8 + i], prompt=prompt) for i in range(30)]
    shared = share_prompts(trees)
    assert max(len(t.branches) for t in shared) == most and len(shared) == -(-30 // most)
    answers = [int(branch.ids_T) for t in shared for branch in t.branches]
    assert answers == [8 + i for i in range(30)], "every answer once, in the order of the data"


@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>"])
def test_after_learning_an_answer_the_model_says_it_and_stops(pad):
    """The oldest bug of all: with pad = EOS the end was masked, and the model went on for ever."""
    policy = tiny_policy()
    policy.tokenizer = copy.deepcopy(policy.tokenizer)
    policy.tokenizer.pad_token = pad
    encoder = ChatEncoder(policy.tokenizer)
    questions = [(Message("user", text),) for text in ("what colour is the fox", "where does the owl live")]
    said = ["the fox is brown", "in a tree"]
    rows = [Demonstration((*q, Message("assistant", a)), 1) for q, a in zip(questions, said, strict=True)]
    trees, policy_learner = encoder.demonstrations(rows).trees, learner(policy)
    for _ in range(45):
        metrics = policy_learner.forward_backward(trees, SFTObjective()).result()
        policy_learner.step(5e-3).result()
    assert metrics["nll"] < 0.05 and metrics["token_accuracy"] == 1
    sampler = Sampler(LocalGenerator(policy.model, encoder.end_ids), encoder)
    rollouts = sampler([Prompt(q) for q in questions], SamplingConfig(temperature=0.0, max_new_tokens=40), seed=0)
    assert [a.response for a in rollouts.answers] == said
    assert all(a.ended for a in rollouts.answers) and rollouts.ended_B.all()


def test_without_held_out_answers_there_is_no_evaluation_to_pick_the_best_by():
    """A probe alone has no loss: the loop would look for one."""
    trees = [tree([8, 9])]
    examples, nothing = (Examples(some, lambda _: SFTObjective()) for some in (trees, []))
    course = Course(config=TrainConfig(batch_size=1), seed=0)
    supervised = Supervised(learner(), examples, nothing, course, probe=lambda step: {"kl": 1.0})
    assert supervised.evaluate(1) == {}
    supervised.heldout = trees
    assert {"eval/loss", "eval/kl"} <= set(supervised.evaluate(1))
