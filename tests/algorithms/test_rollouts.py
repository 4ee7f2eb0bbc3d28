import pytest
import torch

from concordant.algorithms.rollouts import Sampler
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs
from concordant.data.chat import ChatEncoder, Limits
from concordant.data.records import Message, Prompt
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from tests.algorithms.worlds import PROMPTS, written
from tests.engines.tiny import tiny_policy


def sampler_of(policy, end_ids=None, version=0):
    encoder = ChatEncoder(policy.tokenizer)
    return Sampler(LocalGenerator(policy.model, end_ids or encoder.end_ids, version), encoder)


def test_tokens_of_trees_and_branches_by_hand():
    rollouts = written([([8, 9], True), ([10], True)], [([11, 12, 13], True)])
    assert rollouts.token_slice() == [(0, 3), (3, 6)]
    assert rollouts.by_branch(torch.arange(6.0)).tolist() == [1.0, 2.0, 12.0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampler_and_learner_agree_on_every_log_prob(temperature):
    """One without the temperature, or truncated differently, and the first ratio is not 1."""
    policy = tiny_policy()
    sampling = SamplingConfig(n=3, temperature=temperature, max_new_tokens=12)
    rollouts = sampler_of(policy)(PROMPTS, sampling, seed=0)
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig(), temperature=temperature)
    logprob_N = learner.forward(rollouts.trees, Outputs(logprob=True)).result().logprob_N
    assert torch.allclose(logprob_N, rollouts.sampler_logprob_N, atol=1e-4)
    reference_N = learner.reference().forward(rollouts.trees, Outputs(logprob=True)).result().logprob_N
    assert torch.equal(logprob_N, reference_N)


def test_what_was_sampled_is_kept_as_it_was_ended_or_not():
    """End tokens that come by chance, half of the vocabulary: some responses end, some are truncated."""
    policy, limit = tiny_policy(), 4
    ends = set(range(0, 60))
    rollouts = sampler_of(policy, sorted(ends))(PROMPTS, SamplingConfig(n=8, max_new_tokens=limit), seed=1)
    branches = [b for tree in rollouts.trees for b in tree.branches]
    assert 0 < rollouts.ended_B.sum() < len(branches)
    for branch, answer, ended, length in zip(
        branches, rollouts.answers, rollouts.ended_B, rollouts.length_B, strict=True
    ):
        ids = branch.ids_T.tolist()
        assert len(ids) == length and bool(ended) == answer.ended == (ids[-1] in ends)
        assert not ends & set(ids[:-1]), "nothing follows an end"
        assert ended or len(ids) == limit, "no end is put where none was sampled"
        assert branch.is_response_T.all()


def test_a_stop_string_ends_an_answer_whose_tokens_stay_whole_and_whose_text_is_cut():
    policy = tiny_policy()
    encoder = ChatEncoder(policy.tokenizer)
    generator = LocalGenerator(policy.model, encoder.end_ids, tokenizer=policy.tokenizer)
    stops = ["a", "e", "wl", "\n"]
    sampling = SamplingConfig(n=8, max_new_tokens=12, stop_strings=stops)
    rollouts = Sampler(generator, encoder)(PROMPTS, sampling, seed=1)
    branches = [b for tree in rollouts.trees for b in tree.branches]
    assert 0 < rollouts.ended_B.sum() < len(branches)
    for branch, answer, ended in zip(branches, rollouts.answers, rollouts.ended_B.tolist(), strict=True):
        ids = branch.ids_T.tolist()
        before, whole = policy.tokenizer.decode(ids[:-1]), policy.tokenizer.decode(ids)
        by_string = any(s in whole for s in stops)
        assert not any(s in before for s in stops), "the last token completes the string"
        assert answer.ended == ended == (by_string or ids[-1] in encoder.end_ids)
        assert not any(s in answer.response for s in stops) and encoder.text(ids).startswith(answer.response)
        assert by_string or answer.response == encoder.text(ids)
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig())
    logprob_N = learner.forward(rollouts.trees, Outputs(logprob=True)).result().logprob_N
    assert torch.allclose(logprob_N, rollouts.sampler_logprob_N, atol=1e-4), "stopping changes no distribution"


def test_answers_stand_with_their_prompts_and_the_version_is_stamped():
    policy = tiny_policy()
    rollouts = sampler_of(policy, version=5)(PROMPTS, SamplingConfig(n=2, max_new_tokens=3), seed=0)
    assert rollouts.version == 5
    assert [a.prompt for a in rollouts.answers] == [p.messages for p in PROMPTS for _ in range(2)]
    assert rollouts.group_B.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    encoder = ChatEncoder(policy.tokenizer)
    for tree, prompt in zip(rollouts.trees, PROMPTS, strict=True):
        assert torch.equal(tree.prompt_T, encoder.prompts([prompt.messages])[0])


def test_no_prompt_and_no_response_is_longer_than_the_model_reads(capsys):
    """A prompt of 300 words to a model of 64 positions: its end is answered, and that is said once."""
    policy = tiny_policy()
    policy.model.config.max_position_embeddings = 64
    sampler = Sampler(
        LocalGenerator(policy.model, []), ChatEncoder(policy.tokenizer, Limits(prompt=512, response=512, total=64))
    )
    prompts = [Prompt((Message("user", "the owl is brown " * 75),)), Prompt((Message("user", "the owl"),))]
    for _ in range(2):
        rollouts = sampler(prompts, SamplingConfig(max_new_tokens=512), seed=0)
        assert [len(t.prompt_T) + len(t.branches[0].ids_T) for t in rollouts.trees] == [64, 64]
        assert len(rollouts.trees[0].prompt_T) == 32
    said = "the model reads 64 tokens: 2 of 2 prompts leave a response fewer than the 512 tokens"
    assert " ".join(capsys.readouterr().err.split()).count(said) == 1
    short = sampler(prompts, SamplingConfig(max_new_tokens=4), seed=0)
    assert len(short.trees[0].prompt_T) == 60, "no more of a prompt is cut than the response needs"
