"""What chat templates of today do: think, open thoughts, speak in channels, print dates, refuse, run for ever."""

import itertools

import pytest
import torch

from concordant.core import time_limit
from concordant.core.errors import UserError
from concordant.data import template
from concordant.data.chat import ChatEncoder
from concordant.data.recognise import with_merged_turns
from concordant.data.records import Demonstration, Message, Pair
from concordant.data.template import prints_today, set_arguments
from tests.data import chat_tokenizers as made

Q, A = Message("user", "What is 2+3?"), Message("assistant", "It is 5.")
THOUGHT = "<think>\nAdd them.\n</think>\n\nIt is 5."
TOOL = {"name": "sum", "parameters": {}}


def encoder_of(name, *arguments):
    tokenizer = made.templated(name)
    set_arguments(tokenizer, arguments)
    return ChatEncoder(tokenizer)


def learnt(encoder, *messages, tools=None):
    """Text in front of the mask, and text under the mask, of the last answer."""
    ((tree,)) = encoder.demonstrations([Demonstration(messages, len(messages) - 1, tools=tools)]).trees
    (branch,) = tree.branches
    assert branch.is_response_T.all()
    return encoder.tokenizer.decode(tree.prompt_T), encoder.tokenizer.decode(branch.ids_T)


# -- thoughts -------------------------------------------------------------------------------------


def test_an_empty_thought_that_the_template_writes_is_learnt():
    """Generation has to produce it, so leaving it out would teach another text than the template's."""
    before, answer = learnt(encoder_of("thinking"), Q, A)
    assert before.endswith("<|im_start|>assistant\n")
    assert answer == "<think>\n\n</think>\n\nIt is 5.<|im_end|>"


def test_a_thought_of_the_data_is_learnt_once_wherever_it_stands():
    encoder = encoder_of("thinking")
    inside = learnt(encoder, Q, Message("assistant", THOUGHT))
    apart = learnt(encoder, Q, Message("assistant", "It is 5.", "Add them."))
    assert inside == apart and inside[1] == f"{THOUGHT}<|im_end|>"


def test_an_opened_thought_is_closed_by_the_answer_and_not_doubled():
    encoder = encoder_of("opening")
    assert learnt(encoder, Q, A) == (encoder.render([Q]), "\n</think>\n\nIt is 5.<|im_end|>")
    assert encoder.render([Q]).endswith("<think>\n")
    _, answer = learnt(encoder, Q, Message("assistant", THOUGHT))
    assert answer == "Add them.\n</think>\n\nIt is 5.<|im_end|>"


def test_where_the_rendering_has_no_thought_the_mask_begins_at_the_last_common_token():
    encoder = encoder_of("forgetting")
    assert encoder.render([Q]).endswith("<|im_start|><think>\n")
    before, answer = learnt(encoder, Q, A)
    assert before.endswith("<|im_start|>") and answer == "It is 5.<|im_end|>"
    encoded = encoder.demonstrations([Demonstration((Q, A), 1), Demonstration((Q, A, Q, A), 1)])
    assert encoded.apart == 3
    assert encoder_of("thinking").demonstrations([Demonstration((Q, A), 1)]).apart == 0


def test_of_a_pair_each_answer_is_learnt_behind_its_own_part_of_the_opened_prompt():
    """One answer continues the opened thought, the other departs from it: the tag is learnt in neither."""
    tokenizer = made.templated("opening")
    # Only answers that have a thought get one.
    tokenizer.chat_template = tokenizer.chat_template.replace("{% if loop.last %}", "{% if loop.last and thought %}")
    encoder = ChatEncoder(tokenizer)
    (tree,) = encoder.pairs([Pair((Q,), THOUGHT, "It is 6.")]).trees
    chosen, rejected = tree.branches
    assert tokenizer.decode(tree.prompt_T).endswith("assistant\n")
    assert tokenizer.decode(chosen.ids_T[~chosen.is_response_T]) == "<think>\n"
    assert tokenizer.decode(chosen.ids_T[chosen.is_response_T]) == "Add them.\n</think>\n\nIt is 5.<|im_end|>"
    assert rejected.is_response_T.all() and tokenizer.decode(rejected.ids_T) == "It is 6.<|im_end|>"


def test_earlier_answers_are_learnt_with_their_thoughts_and_remembered_without():
    encoded = encoder_of("thinking").demonstrations([Demonstration((Q, Message("assistant", THOUGHT), Q, A), 1)])
    first, second = ("".join(encoder_of("thinking").tokenizer.decode(t.branches[0].ids_T)) for t in encoded.trees)
    assert "Add them." in first and "Add them." not in second
    assert "Add them." not in encoder_of("thinking").tokenizer.decode(encoded.trees[1].prompt_T)


def test_channels_are_learnt_and_end_where_generation_ends():
    encoder = encoder_of("channels")
    _, plain = learnt(encoder, Q, A)
    assert plain == "<|channel|>final<|message|>It is 5.<|return|>"
    _, thought = learnt(encoder, Q, Message("assistant", "It is 5.", "Add them."))
    assert thought == "<|channel|>analysis<|message|>Add them.<|end|><|start|>assistant" + plain
    assert len(encoder.demonstrations([Demonstration((Q, A, Q, A), 1)]).trees) == 2, "an earlier answer ends otherwise"


@pytest.mark.parametrize("name", ["thinking", "opening", "forgetting", "channels", "parts", "two ends", "strict"])
def test_what_is_learnt_is_the_templates_own_text_up_to_the_end(name):
    encoder = encoder_of(name)
    for answer in (A, Message("assistant", THOUGHT)):
        rows = [{"role": m.role, "content": m.content} for m in (Q, answer)]
        if name == "parts":
            rows = [row | {"content": [{"type": "text", "text": row["content"]}]} for row in rows]
        whole = encoder.tokenizer.apply_chat_template(rows, tokenize=False)
        text = "".join(learnt(encoder, Q, answer))
        assert whole.startswith(text) and not whole.removeprefix(text).strip()
        assert text.endswith(encoder.tokenizer.convert_ids_to_tokens(encoder.end_id))


def test_a_question_that_is_written_otherwise_before_an_answer_stays_as_generation_has_it():
    """Mistral's template puts the system message into the last turn, which no longer is the question's."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{% if loop.last %}{{ messages[0].content + '|' }}{% endif %}{{ m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    )
    encoder = ChatEncoder(made.byte_level(made.IM, source, eos_token="<|im_end|>"))
    dialogue = (Message("system", "Be short."), Q, A)
    before, answer = learnt(encoder, *dialogue)
    assert before == "[INST] Be short.|What is 2+3? [/INST]" == encoder.render(dialogue[:2])
    assert answer.strip() == "It is 5.<|im_end|>"


def test_eos_that_follows_the_end_of_turn_at_once_is_the_end():
    assert learnt(encoder_of("two ends"), Q, A)[1] == "It is 5.<|im_end|><|endoftext|>"


# -- what was sampled, as text --------------------------------------------------------------------


def sampled(encoder, text):
    return encoder.text(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", ["thinking", "opening"])
def test_a_sampled_thought_is_scored_with_the_ids_it_was_sampled_with(name):
    """The text that rewards get, rendered again, is the sampled row."""
    encoder = encoder_of(name)
    (prompt,) = encoder.prompts([[Q]])
    for content in (THOUGHT, "It is 5."):
        (row,) = encoder.trees([[Q]], [[content]]).trees
        text = encoder.text(row.branches[0].ids_T)
        (scored,) = encoder.trees([[Q]], [[text]]).trees
        assert torch.equal(scored.prompt_T, prompt)
        assert torch.equal(scored.branches[0].ids_T, row.branches[0].ids_T)


def test_a_thought_that_the_prompt_opened_gets_its_tag_back():
    assert sampled(encoder_of("opening"), "Add them.\n</think>\n\nIt is 5.<|im_end|>") == THOUGHT
    assert sampled(encoder_of("thinking"), f"{THOUGHT}<|im_end|>") == THOUGHT


def test_of_channels_the_last_is_the_text():
    raw = "<|channel|>analysis<|message|>Add.<|end|><|start|>assistant<|channel|>final<|message|>It is 5.<|return|>"
    assert sampled(encoder_of("channels"), raw) == "It is 5."


# -- arguments ------------------------------------------------------------------------------------


def test_an_argument_reaches_every_rendering_and_stays_in_the_template():
    encoder = encoder_of("thinking", "enable_thinking=false")
    assert learnt(encoder, Q, A) == (encoder.render([Q]), "It is 5.<|im_end|>")
    assert encoder.render([Q]).endswith("<think>\n\n</think>\n\n")
    exported = made.templated("thinking")
    exported.chat_template = encoder.template
    rows = [{"role": "user", "content": Q.content}]
    assert exported.apply_chat_template(rows, tokenize=False, add_generation_prompt=True) == encoder.render([Q])
    asked = exported.apply_chat_template(rows, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert asked == encoder_of("thinking").render([Q]), "who asks for another value gets it"


@pytest.mark.parametrize("value", ['"a\\nb"', "é🦉", "it's", "3", "true", "null", "2026-11-28", '{% x %}"'])
def test_any_value_comes_through(value):
    import yaml

    tokenizer = made.byte_level(made.IM, "{{ tone }}|" + made.CHATML, eos_token="<|im_end|>")
    plain = tokenizer.chat_template
    set_arguments(tokenizer, [f"tone={value}"])
    try:
        wanted = yaml.safe_load(value)
    except yaml.YAMLError:
        wanted = value
    wanted = value if not isinstance(wanted, str | int | float | bool | None) else wanted
    rows = [{"role": "user", "content": "Q"}]
    assert tokenizer.apply_chat_template(rows, tokenize=False) == tokenizer.apply_chat_template(
        rows, chat_template=plain, tokenize=False, tone=wanted
    )


def test_the_prelude_changes_nothing_else_of_a_template():
    source = "\n  {% if x %}  a{% endif %}\n\n" + made.CHATML
    for arguments in (["x=true"], ["x=true", "date=2026-11-28"]):
        tokenizer = made.byte_level(
            made.IM, source + "{% if 0 %}{{ strftime_now('%Y') }}{% endif %}", eos_token="<|im_end|>"
        )
        plain = tokenizer.chat_template
        set_arguments(tokenizer, arguments)
        rows = [{"role": "user", "content": "Q"}]
        given = tokenizer.apply_chat_template(rows, tokenize=False)
        assert given == tokenizer.apply_chat_template(rows, chat_template=plain, tokenize=False, x=True)


def test_arguments_that_do_nothing_are_refused_with_what_is_known():
    with pytest.raises(UserError, match='reads no "enable_thinkin".*Did you mean "enable_thinking"'):
        encoder_of("thinking", "enable_thinkin=false")
    with pytest.raises(UserError, match="no chat template"):
        set_arguments(made.MAKERS["no template, pad = EOS"](), ["x=1"])
    for wrong in ("enable_thinking", "messages=3", "a b=3", "=3"):
        with pytest.raises(UserError, match="is not NAME=VALUE"):
            encoder_of("thinking", wrong)


# -- today ----------------------------------------------------------------------------------------


def test_a_template_that_prints_today_is_refused_until_the_day_is_fixed():
    encoder = encoder_of("dated")
    assert prints_today(encoder.tokenizer) and encoder.end_ids
    for work in (lambda: encoder.render([Q]), lambda: encoder.demonstrations([Demonstration((Q, A), 1)])):
        with pytest.raises(UserError, match="prints today's date.*template_args date="):
            work()
    fixed = encoder_of("dated", "date=2024-02-29")
    assert fixed.render([Q]).startswith("Today: 29 Feb 2024\n") and not prints_today(fixed.tokenizer)


def test_a_fixed_day_stays_fixed_wherever_the_exported_template_is_rendered():
    exported = made.templated("dated")
    exported.chat_template = encoder_of("dated", "date=2024-02-29").template
    text = exported.apply_chat_template([{"role": "user", "content": "Q"}], tokenize=False)
    assert text.startswith("Today: 29 Feb 2024\n")
    set_arguments(exported, ["date=2025-01-01"])
    assert ChatEncoder(exported).render([Q]).startswith("Today: 01 Jan 2025\n")


def test_a_template_that_takes_its_date_as_an_argument_needs_no_day():
    source = "{% if date_string is not defined %}{% set date_string = strftime_now('%Y') %}{% endif %}{{ date_string }}"
    tokenizer = made.byte_level(made.IM, source + made.CHATML, eos_token="<|im_end|>")
    set_arguments(tokenizer, ["date_string=26 Jul 2024"])
    assert ChatEncoder(tokenizer).render([Q]).startswith("26 Jul 2024")


# -- refusals -------------------------------------------------------------------------------------

TWICE = (Q, Q, A)
MIDDLE = (Q, A, Message("system", "Be short."), Q, A)


def test_a_row_that_the_template_refuses_is_counted_with_the_reason():
    encoder = encoder_of("strict")
    encoded = encoder.demonstrations([Demonstration((Q, A), 1), Demonstration(TWICE, 2), Demonstration(MIDDLE, 4)])
    assert encoded.record == [0]
    reason = "the chat template refuses it (Roles must alternate user/assistant)"
    assert (encoded.dropped, encoded.first_dropped) == ({reason: 2}, {reason: 1})
    pairs = encoder.pairs([Pair((Q, Q), "yes", "no"), Pair((Q,), "yes", "no")])
    assert pairs.record == [1] and pairs.dropped.total() == 1
    assert [why is None for why in encoder.refusals([((Q,), None), ((Q, Q), None)])] == [True, False]


def test_reasons_that_quote_their_rows_do_not_fill_the_page():
    source = "{% if messages[0].content != 'Q' %}{{ raise_exception(messages[0].content) }}{% endif %}" + made.CHATML
    encoder = ChatEncoder(made.byte_level(made.IM, source, eos_token="<|im_end|>"))
    rows = [Demonstration((Message("user", f"bad {i}"), A), 1) for i in range(40)]
    dropped = encoder.demonstrations(rows).dropped
    assert dropped.total() == 40 and len(dropped) == 6


def test_neighbours_of_one_role_are_merged():
    encoder = encoder_of("strict")
    row = with_merged_turns(Demonstration((Q, Message("user", "Quick!"), A, Q, Q, A), 2))
    assert [m.content for m in row.messages] == [
        f"{Q.content}\n\nQuick!",
        A.content,
        f"{Q.content}\n\n{Q.content}",
        A.content,
    ]
    assert row.first_response == 1 and encoder.demonstrations([row]).record == [0]
    assert with_merged_turns(Pair((Q, Q), "yes", "no")).prompt == (Message("user", f"{Q.content}\n\n{Q.content}"),)


def test_tools_reach_the_template_in_training_and_in_sampling():
    encoder = encoder_of("thinking")
    before, _ = learnt(encoder, Q, A, tools=(TOOL,))
    assert before.startswith("[sum]<|im_start|>user") and before == encoder.render([Q], (TOOL,))
    one, other = encoder.prompts([[Q], [Q]], [(TOOL,), None])
    assert encoder.tokenizer.decode(one) == before and not encoder.tokenizer.decode(other).startswith("[")
    (tree,) = encoder.pairs([Pair((Q,), "yes", "no", tools=(TOOL,))]).trees
    assert torch.equal(tree.prompt_T, one)


def test_a_template_that_drops_the_answer_is_refused_by_name():
    source = made.CHATML.replace("m.content", "(m.content if m.role == 'user' else '')")
    with pytest.raises(UserError, match="leaves out the assistant's words"):
        ChatEncoder(made.byte_level(made.IM, source, eos_token="<|im_end|>"))


def test_a_text_without_a_question_is_learnt_from_its_second_token():
    for tokenizer in (made.MAKERS["llama 3"](), made.MAKERS["chatml"]()):
        encoder = ChatEncoder(tokenizer)
        (tree,) = encoder.demonstrations([Demonstration((Message("assistant", "The owl lives."),), 0)]).trees
        ids = tree.prompt_T.tolist() + tree.branches[0].ids_T.tolist()
        assert ids == [*tokenizer("The owl lives.")["input_ids"], tokenizer.eos_token_id]
        assert len(tree.prompt_T) == 1 and tree.branches[0].is_response_T.all()


# -- templates that do not end --------------------------------------------------------------------

FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_runs_for_ever_is_stopped_by_name(monkeypatch):
    monkeypatch.setattr(template, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"chat template takes more than 0.2 s"):
        ChatEncoder(made.byte_level(made.IM, FOR_EVER + made.CHATML, eos_token="<|im_end|>"))
    late = "{% if messages[0].content == 'slow' %}" + FOR_EVER + "{% endif %}" + made.CHATML
    encoder = ChatEncoder(made.byte_level(made.IM, late, eos_token="<|im_end|>"))
    with pytest.raises(UserError, match=r"more than 0.2 s for 1 dialogues; it may run for ever"):
        encoder.prompts([[Message("user", "slow")]])
    assert len(encoder.prompts([[Q]])) == 1, "the next dialogue is read as before"


def test_a_template_that_writes_without_end_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(template, "LONGEST", 1000)
    source = "{% if messages[0].content == 'long' %}{{ 'x' * 5000 }}{% endif %}" + made.CHATML
    encoder = ChatEncoder(made.byte_level(made.IM, source, eos_token="<|im_end|>"))
    with pytest.raises(UserError, match=r"makes 5,\d+ characters of a dialogue of"):
        encoder.prompts([[Message("user", "long")]])


def test_the_time_limit_stops_a_loop_and_leaves_the_rest_alone():
    with pytest.raises(UserError, match="too long"), time_limit.at_most(0.1, "too long"):
        for _ in itertools.count():
            pass
    with pytest.raises(UserError, match="outer"), time_limit.at_most(0.1, "outer"), time_limit.at_most(5, "inner"):
        for _ in itertools.count():
            pass
    with time_limit.at_most(5, "too long"):
        total = sum(range(1000))
    assert total == 499500
    with pytest.raises(ValueError, match="own"), time_limit.at_most(5, "too long"):
        raise ValueError("own")
