"""One path from messages to ids and masks: every end learnt, one BOS, the same ids wherever a dialogue goes."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.config.data import DataConfig
from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder, Limits
from concordant.data.records import Demonstration, Message, Pair
from concordant.data.splits import load_records
from concordant.data.tokenizer import train_tokenizer
from tests.data import chat_tokenizers as made


@cache
def tokenizer_of(name):
    return made.MAKERS[name]()


def encoder_of(name, **limits):
    return ChatEncoder(tokenizer_of(name), Limits(**limits) if limits else None)


every = pytest.mark.parametrize("name", made.MAKERS)
QUESTION = (Message("user", "Where does the owl live?"),)
PAIR = Pair(QUESTION, "The owl lives in a tree.", "In a den.")
TURNS = (
    *QUESTION,
    Message("assistant", "The owl lives in a tree."),
    Message("user", "And the fox?"),
    Message("assistant", "In a den."),
)


def ids_of(tree, number=0):
    return torch.cat([tree.prompt_T, tree.branches[number].ids_T]).tolist()


# -- ends and beginnings --------------------------------------------------------------------------


@every
def test_the_end_of_turn_is_the_last_token_and_is_learnt(name):
    """Pad = EOS hides nothing: the mask is made with the text, not guessed from ids."""
    encoder = encoder_of(name)
    end = tokenizer_of(name).convert_tokens_to_ids(made.ENDS[name])
    assert encoder.end_ids[0] == end
    one_turn = encoder.demonstrations([Demonstration(TURNS[:2], 1)]).trees[0].branches
    for branch in (*encoder.pairs([PAIR]).trees[0].branches, *one_turn):
        assert branch.ids_T[-1] == end and branch.is_response_T.all()
        assert branch.ids_T.tolist().count(end) == 1


@every
def test_bos_stands_once_and_first_where_there_is_one(name):
    tokenizer = tokenizer_of(name)
    ids = ids_of(encoder_of(name).pairs([PAIR]).trees[0])
    if name in made.BOS:
        bos = tokenizer.convert_tokens_to_ids(made.BOS[name])
        assert ids[0] == bos and ids.count(bos) == 1
    else:
        assert tokenizer.bos_token_id not in ids[:-1]


@every
def test_the_prompt_is_what_sampling_is_given_and_holds_no_answer(name):
    encoder = encoder_of(name)
    (tree,) = encoder.pairs([PAIR]).trees
    assert torch.equal(tree.prompt_T, encoder.prompts([QUESTION])[0])
    plain = tokenizer_of(name)(encoder.render(QUESTION), add_special_tokens=False)["input_ids"]
    assert tree.prompt_T.tolist()[-len(plain) :] == plain and len(tree.prompt_T) - len(plain) in (0, 1)


@every
def test_without_an_answer_of_several_lines_the_whole_is_the_templates_own_text(name):
    """Prompt, answer and end are the ids of the rendered dialogue, up to what follows the end token."""
    encoder, tokenizer = encoder_of(name), tokenizer_of(name)
    rows = [{"role": m.role, "content": m.content} for m in TURNS[:2]]
    text = tokenizer.apply_chat_template(rows, chat_template=encoder.template, tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    given = ids_of(encoder.demonstrations([Demonstration(TURNS[:2], 1)]).trees[0])
    bos = [tokenizer.bos_token_id] if given[0] == tokenizer.bos_token_id != whole[0] else []
    assert given == (bos + whole)[: len(given)]
    assert tokenizer.decode(whole[len(given) - len(bos) :]).strip() == ""


@every
@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="abdehilnorstvxy ?!.,", min_size=1, max_size=30).map(str.strip).filter(bool))
def test_a_responses_text_comes_back(name, text):
    encoder = encoder_of(name)
    ids = encoder.trees([QUESTION], [[text]]).trees[0].branches[0].ids_T
    assert encoder.text(ids) == text


def test_any_text_comes_back_from_bytes():
    encoder = encoder_of("chatml")
    for text in ("Grüße 🦉", "two\n\nlines", "tab\tand  spaces", "don 't , clean ."):
        assert encoder.text(encoder.trees([QUESTION], [[text]]).trees[0].branches[0].ids_T) == text


def test_an_end_token_that_is_not_marked_special_is_no_text():
    tokenizer = made.byte_level(["<|endoftext|>"], made.CHATML, eos_token="<|endoftext|>")
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    encoder = ChatEncoder(tokenizer)
    ids = encoder.pairs([PAIR]).trees[0].branches[0].ids_T
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoder.text(ids) == PAIR.chosen


def test_a_tokenizer_that_could_never_end_a_response_is_refused():
    with pytest.raises(UserError, match="end-of-turn nor an EOS"):
        ChatEncoder(made.byte_level(["<x>"]))


# -- several turns --------------------------------------------------------------------------------


@every
def test_assistant_turns_are_learnt_and_user_turns_are_not(name):
    encoder, tokenizer = encoder_of(name), tokenizer_of(name)
    (tree,) = encoder.demonstrations([Demonstration(TURNS, 1)]).trees
    (branch,) = tree.branches
    mask = branch.is_response_T
    learnt, between = branch.ids_T[mask].tolist(), branch.ids_T[~mask].tolist()
    assert [t for t in learnt if t == encoder.end_id] == [encoder.end_id] * 2
    text = tokenizer.decode(learnt, skip_special_tokens=True)
    assert TURNS[1].content in text and TURNS[3].content in text and "fox" not in text
    assert "And the fox?" in tokenizer.decode(between, skip_special_tokens=True)
    assert mask[0] and mask[-1]


@every
def test_a_later_turn_has_the_ids_that_sampling_it_would_have(name):
    """The same dialogue, learnt in one piece or answered turn by turn, is the same ids."""
    encoder = encoder_of(name)
    learnt = ids_of(encoder.demonstrations([Demonstration(TURNS, 1)]).trees[0])
    last = encoder.demonstrations([Demonstration(TURNS, 3)]).trees[0]
    assert learnt == ids_of(last)
    assert torch.equal(last.prompt_T, encoder.prompts([TURNS[:3]])[0])


def test_a_template_that_rewrites_history_makes_a_tree_of_every_turn():
    encoder = ChatEncoder(made.byte_level(made.IM, made.REWRITING, eos_token="<|im_end|>"))
    encoded = encoder.demonstrations([Demonstration(TURNS, 1), Demonstration(TURNS[:2], 1)])
    assert encoded.record == [0, 0, 1]
    first, second, single = encoded.trees
    assert ids_of(first) == ids_of(single)
    assert torch.equal(second.prompt_T, encoder.prompts([TURNS[:3]])[0])
    assert all(b.is_response_T.all() for t in encoded.trees for b in t.branches)


@pytest.mark.parametrize("name", ["llama 3", "gemma"])
def test_white_space_that_the_template_trims_is_neither_learnt_nor_scored(name):
    encoder = encoder_of(name)
    spaced = [Message(m.role, f"  {m.content}\n\n") for m in TURNS]
    assert ids_of(encoder.demonstrations([Demonstration(tuple(spaced), 1)]).trees[0]) == ids_of(
        encoder.demonstrations([Demonstration(TURNS, 1)]).trees[0]
    )
    (tree,) = encoder.trees([QUESTION], [[" In a den.\n", "In a den."]]).trees
    assert torch.equal(tree.branches[0].ids_T, tree.branches[1].ids_T)


def test_the_first_response_to_learn_may_be_a_later_one():
    (tree,) = encoder_of("builtin").demonstrations([Demonstration(TURNS, 3)]).trees
    assert tree.branches[0].response_length == len(tree.branches[0].ids_T)
    assert "fox" in tokenizer_of("builtin").decode(tree.prompt_T)


# -- system messages ------------------------------------------------------------------------------


@every
def test_a_system_message_reaches_the_prompt(name):
    system = Message("system", "Answer shortly.")
    encoder = encoder_of(name)
    (tree,) = encoder.pairs([Pair((system, *QUESTION), "In a tree.", "In a den.")]).trees
    text = tokenizer_of(name).decode(tree.prompt_T)
    assert text.index("Answer shortly.") < text.index("owl")


def test_roles_a_template_refuses_are_an_error_that_names_them():
    encoder = encoder_of("gemma")
    for messages in ((Message("user", "a"), Message("user", "b")), (Message("system", "s"), Message("assistant", "a"))):
        with pytest.raises(UserError, match="refuses a dialogue of.*Roles must alternate"):
            encoder.prompts([messages])


def test_one_of_several_named_templates_is_taken():
    tokenizer = made.byte_level(made.IM, None, eos_token="<|im_end|>")
    tokenizer.chat_template = {"default": made.CHATML, "tool_use": made.REWRITING}
    assert ChatEncoder(tokenizer).render(QUESTION) == encoder_of("chatml").render(QUESTION)


# -- limits ---------------------------------------------------------------------------------------


def test_what_is_too_long_is_dropped_with_a_count():
    long = Pair((Message("user", "owl " * 50),), "yes", "no")
    wordy = Pair(QUESTION, "tree " * 50, "no")
    encoded = encoder_of("builtin", prompt=40, response=20).pairs([PAIR, long, wordy])
    assert encoded.record == [0]
    assert encoded.dropped == {"prompt too long": 1, "response too long": 1}


@pytest.mark.parametrize("name", ["no template, BOS added", "llama 3", "builtin"])
def test_a_prompt_is_cut_at_its_start_behind_its_bos(name):
    long = (Message("user", "owl " * 50 + "fox"),)
    encoder = encoder_of(name, prompt=20, too_long="cut_prompt_start")
    (whole,) = encoder_of(name).prompts([long])
    (sampled,) = encoder.prompts([long])
    (tree,) = encoder.trees([long], [["yes"]]).trees
    assert torch.equal(sampled, tree.prompt_T) and len(sampled) == 20
    kept = 19 if name in made.BOS else 20
    assert torch.equal(sampled[-kept:], whole[-kept:]) and sampled[-20] == (whole[0] if kept == 19 else whole[-20])


def test_an_answer_cut_short_has_no_end():
    encoder = encoder_of("builtin", response=5, too_long="cut_response_end")
    (tree,) = encoder.pairs([Pair(QUESTION, "tree " * 50, "no")]).trees
    long, short = tree.branches
    assert len(long.ids_T) == 5 and encoder.end_id not in long.ids_T.tolist()
    assert short.ids_T[-1] == encoder.end_id


def test_an_answer_of_exactly_the_limit_keeps_its_end():
    length = len(encoder_of("builtin").trees([QUESTION], [["In a tree."]]).trees[0].branches[0].ids_T)
    for limit in (length, length - 1):
        encoder = encoder_of("builtin", response=limit, too_long="cut_response_end")
        ids = encoder.trees([QUESTION], [["In a tree."]]).trees[0].branches[0].ids_T
        assert (ids[-1] == encoder.end_id) == (limit == length)


@every
@pytest.mark.parametrize("too_long", ["drop", "cut_prompt_start", "cut_response_end"])
def test_no_tree_is_without_something_to_learn(name, too_long):
    for limit in (1, 2, 7, 15):
        encoder = encoder_of(name, prompt=limit, response=limit, too_long=too_long)
        encoded = encoder.demonstrations([Demonstration(TURNS, 1), Demonstration(TURNS, 3)])
        assert all(b.response_length > 0 for t in encoded.trees for b in t.branches)
        assert all(len(t.prompt_T) <= limit and len(b.ids_T) <= limit for t in encoded.trees for b in t.branches)
        assert len(encoded.trees) + encoded.dropped.total() == 2


def test_what_a_model_has_no_positions_for_is_dropped_or_loses_its_start():
    """Prompt and longest answer together, whatever their own limits say."""
    (whole,) = encoder_of("builtin").pairs([PAIR]).trees
    longest = max(len(b.ids_T) for b in whole.branches)
    room = len(whole.prompt_T) - 3
    encoded = encoder_of("builtin", total=room + longest).pairs([PAIR])
    assert not encoded.trees and encoded.dropped == {"longer than the model reads": 1}
    (tree,) = encoder_of("builtin", total=room + longest, too_long="cut_prompt_start").pairs([PAIR]).trees
    assert torch.equal(tree.prompt_T, whole.prompt_T[3:])
    assert all(torch.equal(a.ids_T, b.ids_T) for a, b in zip(tree.branches, whole.branches, strict=True))
    assert encoder_of("builtin", total=longest, too_long="cut_prompt_start").pairs([PAIR]).dropped.total() == 1


# -- encoders -------------------------------------------------------------------------------------


def test_an_encoder_reads_cls_dialogue_sep():
    tokenizer = made.word_piece()
    encoder = ChatEncoder(tokenizer, kind="encoder")
    tree = encoder.pairs([PAIR]).trees[0]
    for number, answer in enumerate((PAIR.chosen, PAIR.rejected)):
        ids = ids_of(tree, number)
        text = f"\nHuman: {QUESTION[0].content}\nAssistant: {answer}"
        assert ids == tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
        assert ids.count(tokenizer.cls_token_id) == ids.count(tokenizer.sep_token_id) == 1


def test_an_encoders_answer_cut_short_still_ends_in_sep():
    tokenizer = made.word_piece()
    encoder = ChatEncoder(tokenizer, Limits(response=4, too_long="cut_response_end"), kind="encoder")
    long = encoder.pairs([Pair(QUESTION, "tree " * 50, "no")]).trees[0].branches[0]
    assert len(long.ids_T) == 4 and long.ids_T[-1] == tokenizer.sep_token_id


# -- the same ids everywhere ----------------------------------------------------------------------


@every
def test_a_dialogue_has_the_same_ids_on_every_path(name):
    encoder = encoder_of(name)
    (demonstration,) = encoder.demonstrations(
        [Demonstration((*PAIR.prompt, Message("assistant", PAIR.chosen)), 1)]
    ).trees
    (pair,) = encoder.pairs([PAIR]).trees
    (answered,) = encoder.trees([PAIR.prompt], [[PAIR.chosen, PAIR.rejected]]).trees
    sampled = torch.cat([encoder.prompts([PAIR.prompt])[0], pair.branches[0].ids_T]).tolist()
    assert ids_of(demonstration) == ids_of(pair) == ids_of(answered) == sampled
    # What a policy sampled, read back as text, is scored as what a pair with that text would be.
    (scored,) = encoder.trees([PAIR.prompt], [[encoder.text(pair.branches[1].ids_T)]]).trees
    assert ids_of(scored) == ids_of(pair, 1)


def test_a_reward_model_scores_the_ids_it_was_trained_on(monkeypatch):
    from concordant.engines.reward_model import RewardModel
    from tests.engines.tiny import tiny_policy

    model = RewardModel.from_backbone(tiny_policy())
    seen = []

    def of_heads(trees):
        seen.extend(trees)
        return torch.zeros(sum(len(tree.branches) for tree in trees), 1)

    monkeypatch.setattr(model, "score_heads", of_heads)
    monkeypatch.setattr(model, "score_trees", lambda trees: of_heads(trees)[:, 0])
    model.score_responses([PAIR.prompt], [(PAIR.chosen, PAIR.rejected)])
    model.score([(*PAIR.prompt, Message("assistant", PAIR.chosen))])
    (trained,) = ChatEncoder(model.tokenizer).pairs([PAIR]).trees
    assert [ids_of(seen[0], n) for n in (0, 1)] == [ids_of(trained, n) for n in (0, 1)]
    assert ids_of(seen[1]) == ids_of(trained)


# -- real data ------------------------------------------------------------------------------------


@cache
def demonstrations_of(path):
    return load_records(DataConfig(path=str(path), max_samples=150), Demonstration, 0).train


@pytest.mark.parametrize("name", ["builtin", "no template, BOS added", "chatml", "gemma"])
def test_real_dialogues_have_one_bos_and_ends_that_are_learnt(name, shared_data):
    rows = demonstrations_of(shared_data("hh-rlhf/harmless-base.jsonl.gz"))
    tokenizer = train_tokenizer(made.TEXT, 400) if name == "builtin" else tokenizer_of(name)
    encoder = ChatEncoder(tokenizer)
    encoded = encoder.demonstrations(rows)
    assert len(encoded.trees) == len(rows) and not encoded.dropped
    bos = tokenizer.convert_tokens_to_ids(made.BOS[name]) if name in made.BOS else None
    for tree, number in zip(encoded.trees, encoded.record, strict=True):
        ids, (branch,) = ids_of(tree), tree.branches
        assert bos is None or (ids[0] == bos and ids.count(bos) == 1)
        assert branch.ids_T[-1] == encoder.end_id and branch.is_response_T[-1]
        assert encoder.text(branch.ids_T) == rows[number].messages[-1].content.strip()
        assert len(tree.prompt_T) > 0


def test_every_answer_of_a_real_dialogue_can_be_learnt(shared_data):
    rows = demonstrations_of(shared_data("hh-rlhf/harmless-base.jsonl.gz"))
    dialogues = [Demonstration(d.messages, 1) for d in rows[:60]]
    encoder = encoder_of("chatml")
    encoded = encoder.demonstrations(dialogues)
    for tree, number in zip(encoded.trees, encoded.record, strict=True):
        (branch,) = tree.branches
        spoken = [m for m in dialogues[number].messages[1:] if m.role == "assistant"]
        assert encoded.record.count(number) > 1 or branch.ids_T[branch.is_response_T].tolist().count(
            encoder.end_id
        ) == len(spoken)
