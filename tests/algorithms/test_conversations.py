"""Answers of several turns: which tokens are the policy's, what is learnt from them, and how they end."""

from dataclasses import replace

import pytest
import torch

from concordant.algorithms.evidence import of_rollouts, turns_of
from concordant.algorithms.ppo_metrics import of_episodes
from concordant.algorithms.replay import Remembered, Replay
from concordant.algorithms.reward_sources import make_reward
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration, Message, Prompt
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from tests.algorithms.steps import NO_KL
from tests.algorithms.talks import ENDS, Scripted, conversing
from tests.algorithms.worlds import PROMPTS, make_ppo
from tests.engines.tiny import tiny_policy

SAMPLING = SamplingConfig(n=4, max_new_tokens=12)


def branches(rollouts):
    return [b for tree in rollouts.trees for b in tree.branches]


@pytest.fixture(scope="module")
def twice():
    return conversing("Twice")(PROMPTS, SAMPLING, seed=3)


def test_a_branch_is_what_a_demonstration_of_the_same_dialogue_is():
    """So a policy reads in RL what it read in SFT, ids and mask, up to its last end token."""
    policy = tiny_policy()
    encoder = ChatEncoder(policy.tokenizer)
    said = Scripted(encoder, "where", "the owl", "in a tree")
    sampler = conversing("Twice", policy, generator=said)
    rollouts = sampler([PROMPTS[0]], SamplingConfig(max_new_tokens=40), seed=0)
    turns = [("assistant", "where"), ("user", "owl 1"), ("assistant", "the owl"), ("user", "owl 2")]
    turns = tuple(Message(*turn) for turn in [*turns, ("assistant", "in a tree")])
    (tree,) = encoder.demonstrations([Demonstration((*PROMPTS[0].messages, *turns), 1)]).trees
    (branch,) = branches(rollouts)
    assert torch.equal(rollouts.trees[0].prompt_T, tree.prompt_T)
    assert torch.equal(branch.ids_T, tree.branches[0].ids_T)
    assert torch.equal(branch.is_response_T, tree.branches[0].is_response_T)
    (answer,) = rollouts.answers
    assert answer.episode.turns == turns and answer.response == "in a tree" and answer.ended
    assert answer.episode.score == 3 and answer.before == (*PROMPTS[0].messages, *turns[:-1])
    whole = [*tree.prompt_T.tolist(), *branch.ids_T.tolist()]
    assert all(whole[: len(read)] == read for read in said.read), "a turn goes on behind everything before it"
    assert [policy.tokenizer.decode(ids) for ids in turns_of(branch)] == [f"{m.content}<|end|>" for m in turns[::2]]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_all_turns_are_the_learners(temperature):
    policy = tiny_policy()
    sampling = replace(SAMPLING, temperature=temperature)
    rollouts = conversing("Twice", policy)(PROMPTS, sampling, seed=3)
    assert any(not b.is_response_T.all() for b in branches(rollouts))
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig(), temperature=temperature)
    logprob_N = learner.forward(rollouts.trees, Outputs(logprob=True)).result().logprob_N
    assert len(logprob_N) == sum(int(b.is_response_T.sum()) for b in branches(rollouts)) == rollouts.length_B.sum()
    assert torch.allclose(logprob_N, rollouts.sampler_logprob_N, atol=1e-4)


def test_only_the_policys_tokens_have_a_gradient():
    """The gradient of one step is that of plain rows in which every other label is left out."""
    ppo = make_ppo(advantage="rloo", kl=NO_KL, inner_epochs=1, minibatches=1, aggregation="token-mean")
    ppo.sampler = conversing("Twice", tiny_policy(1))
    e = ppo.make_experience(ppo.sampler(PROMPTS, SAMPLING, seed=3))
    objective = ppo.policy_objective(e, torch.arange(len(e.advantage_N)))
    ppo.actor.forward_backward(e.rollouts.trees, objective).result()
    model, loss, at = tiny_policy(1).model, 0.0, 0
    for tree in e.rollouts.trees:
        for b in tree.branches:
            ids = torch.cat([tree.prompt_T, b.ids_T])
            logprob = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            own = logprob[len(tree.prompt_T) - 1 :][b.is_response_T]
            loss = loss - ((own - own.detach()).exp() * e.advantage_N[at : at + len(own)]).sum()
            at += len(own)
    (loss / at).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    ours = {name.removeprefix("model."): p for name, p in ppo.actor.network.named_parameters()}
    assert any(g.abs().max() > 1e-4 for g in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(ours[name].grad, gradient, atol=1e-6, rtol=1e-3), name


@pytest.mark.parametrize("advantage", ["gae", "grpo", "reinforce++", "remax"])
def test_every_number_of_a_step_stands_on_the_policys_tokens(advantage):
    ppo = make_ppo(advantage=advantage, sampling={"n": 2, "max_new_tokens": 12})
    ppo.sampler = conversing("Twice", tiny_policy(1))
    metrics = ppo.step(0, 1e-3)
    e, spoken = ppo.last, sum(int(b.is_response_T.sum()) for b in branches(ppo.last.rollouts))
    assert {len(x_N) for x_N in (e.old_logprob_N, e.reference_N, e.value_N, e.advantage_N, e.return_N)} == {spoken}
    assert metrics["response/length"] == pytest.approx(spoken / 8)
    assert metrics["doctor/response/after_end"] == 0, "an end token ends a turn, and the next turn is no padding"
    assert metrics["environment/turns"] > 1 and metrics["environment/errors"] == 0


def test_the_same_seed_gives_the_same_bits_whoever_else_is_in_the_call(twice):
    again = conversing("Twice")(PROMPTS, SAMPLING, seed=3)
    alone = conversing("Twice")(PROMPTS[2:3], SAMPLING, seed=3)
    turned = conversing("Twice")(PROMPTS[::-1], replace(SAMPLING, slots=3), seed=3)
    other = conversing("Twice")(PROMPTS, SAMPLING, seed=4)
    ids = [b.ids_T.tolist() for b in branches(twice)]
    assert [b.ids_T.tolist() for b in branches(again)] == ids
    assert [b.ids_T.tolist() for b in branches(alone)] == ids[8:12]
    assert [b.ids_T.tolist() for tree in turned.trees[::-1] for b in tree.branches] == ids
    assert [b.ids_T.tolist() for b in branches(other)] != ids


def test_answers_to_one_prompt_meet_one_environment_and_other_prompts_others(monkeypatch):
    from tests.algorithms import talks

    met = []

    class Seeded(talks.Twice):
        def __init__(self, prompt, seed):
            super().__init__()
            met.append((prompt[-1].content, seed))

    monkeypatch.setattr(talks, "Seeded", Seeded, raising=False)
    sampler = conversing("Seeded")
    for seed in (3, 4):
        sampler(PROMPTS, SAMPLING, seed=seed)
    seeds = [sorted({number for prompt, number in half if prompt == said}) for half in (met[:16], met[16:])
             for said in dict.fromkeys(p.messages[-1].content for p in PROMPTS)]  # fmt: skip
    assert len(met) == 32 and all(len(found) == 1 for found in seeds)
    assert len({number for found in seeds for number in found}) == len(seeds), "no prompt and no call meets another's"


def test_the_policy_speaks_last_and_never_more_than_it_may(twice):
    ends = set(ENDS)
    for branch, answer in zip(branches(twice), twice.answers, strict=True):
        assert branch.is_response_T[0] and branch.is_response_T[-1] and branch.response_length <= 12
        turns = [ids.tolist() for ids in turns_of(branch)]
        assert all(ids[-1] in ends for ids in turns[:-1]) and not any(ends & set(ids[:-1]) for ids in turns)
        assert len(turns) == sum(m.role == "assistant" for m in answer.episode.turns) <= 3
        assert answer.ended == (answer.episode.stopped == "finished") and (not answer.ended or turns[-1][-1] in ends)
    assert any(a.ended and len(a.episode.turns) == 5 for a in twice.answers)


def test_max_new_tokens_is_the_limit_of_all_turns_together():
    rollouts = conversing("Endless", turns=20)(PROMPTS, replace(SAMPLING, max_new_tokens=8), seed=0)
    lengths = [b.response_length for b in branches(rollouts)]
    assert max(lengths) == 8 and lengths.count(8) > 8
    assert sum(len(turns_of(b)) for b in branches(rollouts)) > 24, "more than one turn in an answer"


def test_a_turn_that_is_cut_has_not_ended():
    """All turns of a call may be as long as the longest may. One with less room is cut, and so is its end token."""
    encoder = ChatEncoder(tiny_policy().tokenizer)
    for room, stopped in ((2, "length"), (40, "finished")):
        sampler = conversing("calculator", generator=Scripted(encoder, "in a tree by the lake"))
        (answer,) = sampler([PROMPTS[0]], SamplingConfig(max_new_tokens=room), seed=0).answers
        assert answer.episode.stopped == stopped and answer.ended == (stopped == "finished")


def test_rewards_see_the_last_turn_and_those_who_ask_all_turns(twice):
    seen = []

    def judge(prompt, response, episode):
        seen.append((response, episode.turns[-1].content))
        return len(episode.turns)

    import tests.algorithms.talks as module

    module.judge = judge
    total = make_reward(["rule:environment", "tests.algorithms.talks:judge"], None)(twice.answers).result().total
    assert all(response == last for response, last in seen)
    assert total == [a.episode.score + len(a.episode.turns) for a in twice.answers]


def test_replay_remembers_which_tokens_are_the_policys(twice):
    numbers = torch.zeros(int(twice.length_B.sum()))
    kept = Remembered(trees=twice.trees, old_logprob_N=numbers, reference_N=numbers, advantage_N=numbers)
    replay, loaded = Replay(1, 0), Replay(1, 0)
    replay.keep(twice.trees, kept, numbers)
    loaded.load(replay.state())
    for tree, again in zip(twice.trees, loaded.kept[0].trees, strict=True):
        for a, b in zip(tree.branches, again.branches, strict=True):
            assert torch.equal(a.ids_T, b.ids_T) and torch.equal(a.is_response_T, b.is_response_T)


# -- bad input ------------------------------------------------------------------------------------


def test_an_endless_environment_has_bounded_turns_and_is_counted():
    rollouts = conversing("Endless", turns=3)(PROMPTS, replace(SAMPLING, max_new_tokens=60), seed=0)
    stopped = [a.episode.stopped for a in rollouts.answers]
    assert stopped.count("turns") > 4 and not any(a.ended for a in rollouts.answers)
    assert max(len(a.episode.turns) for a in rollouts.answers) == 5, "three turns of the policy, two replies"
    assert of_episodes(rollouts.answers)["environment/out_of_turns"] == stopped.count("turns") / 16


def test_a_reply_that_would_overflow_the_context_ends_the_answer():
    rollouts = conversing("Endless", turns=1000, total=40)(PROMPTS, replace(SAMPLING, max_new_tokens=30), seed=0)
    stopped = [a.episode.stopped for a in rollouts.answers]
    assert stopped.count("context") > 2 and set(stopped) <= {"context", "length"}
    assert all(len(t.prompt_T) + len(b.ids_T) <= 40 for t in rollouts.trees for b in t.branches)
    assert all(a.episode.turns[-1].role == "assistant" for a in rollouts.answers)
    assert of_episodes(rollouts.answers)["environment/out_of_context"] == stopped.count("context") / 16


def test_a_crashing_environment_ends_the_command_with_its_name_or_is_counted_and_left_out():
    with pytest.raises(UserError, match=r"environment tests.algorithms.talks:Crashing failed in turn 2.*KeyError"):
        conversing("Crashing")(PROMPTS, SAMPLING, seed=0)
    ppo = make_ppo(advantage="grpo", sampling={"n": 4, "max_new_tokens": 12})
    ppo.sampler = conversing("Crashing", tiny_policy(1), on_error="skip")
    metrics = ppo.step(0, 1e-3)
    failed = [a.failed for a in ppo.last.rollouts.answers]
    assert 0 < sum(failed) < 16 and metrics["environment/errors"] == sum(failed)
    assert metrics["response/left_out"] == sum(failed) / 16
    assert ppo.last.learnt_B.tolist() == [not f for f in failed]
    assert all(float(x_N.abs().sum()) == 0 for x_N, f in zip(_by_answer(ppo.last), failed, strict=True) if f)


def _by_answer(e):
    return e.advantage_N.split(e.rollouts.length_B.tolist())


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("half \ud800 a pair", "surrogates not allowed"),
        (7, "replied int"),
        (Message("assistant", "I"), "expected the role"),
    ],
)
def test_a_reply_that_is_no_text_is_named(words, wrong):
    prompts = [Prompt(PROMPTS[0].messages, {"words": words})]
    with pytest.raises(UserError, match=wrong):
        conversing("Loud")(prompts, SAMPLING, seed=0)
    left = conversing("Loud", on_error="skip")(prompts, SAMPLING, seed=0)
    assert {a.episode.stopped for a in left.answers} <= {"error", "length"} and any(a.failed for a in left.answers)


def test_a_long_reply_is_cut_and_counted():
    prompts = [Prompt(PROMPTS[0].messages, {"words": "owl " * 500})]
    rollouts = conversing("Loud", reply_tokens=5, turns=2)(prompts, SAMPLING, seed=0)
    assert of_episodes(rollouts.answers)["environment/cut"] > 0
    assert max(int((~b.is_response_T).sum()) for b in branches(rollouts)) < 20


def test_an_environment_that_hangs_is_stopped():
    with pytest.raises(UserError, match="takes more than environment.timeout=0.2 s when it replies"):
        conversing("tests.algorithms.talks:Hanging", timeout=0.2)(PROMPTS, SAMPLING, seed=0)


def test_evidence_of_answers_of_several_turns(twice):
    found = of_rollouts(twice, torch.zeros(16), twice.sampler_logprob_N)
    assert found["doctor/rollout/logprob_gap"] == 0 and found["doctor/response/after_end"] == 0
