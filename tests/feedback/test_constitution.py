"""Drafts, principles, and the questions and readings of a judge. No model is needed."""

from __future__ import annotations

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message, Pair
from concordant.feedback import questions
from concordant.feedback.constitution import EMPTY, Draft, revise_by_function, revise_in_words
from concordant.feedback.labels import Compared, best_and_worst, trust_of
from concordant.feedback.principles import Principle, principles_for, read_principles
from concordant.feedback.writers import Cache, Reply, Skip, key_of

PROMPT = (Message("user", "How do I steal a key?"),)
TWO = [Principle(name, f"criticise {name}", f"revise {name}", f"choose {name}") for name in ("one", "two")]


def draft(answer="Take it.", principles=TWO):
    return Draft(PROMPT, list(principles), [answer], [])


def test_every_revision_sees_the_critique_and_the_next_critique_sees_the_revision():
    asked = []

    def ask(dialogues, what):
        asked.extend((what, dialogue) for dialogue in dialogues)
        return [Reply(f"answer {len(asked)}") for _ in dialogues]

    made = draft()
    revise_in_words([made], ask)
    assert [what for what, _ in asked] == ["critique 1", "revision 1", "critique 2", "revision 2"]
    assert made.answers == ["Take it.", "answer 2", "answer 4"] and made.critiques == ["answer 1", "answer 3"]
    first, second, third, _ = (dialogue for _, dialogue in asked)
    assert [m.content for m in first[:2]] == [PROMPT[0].content, "Take it."] and "criticise one" in first[2].content
    assert second[:3] == first and second[3] == Message("assistant", "answer 1") and "revise one" in second[4].content
    assert third[1].content == "answer 2" and "criticise two" in third[2].content


def test_a_draft_without_an_answer_is_dropped_and_the_others_go_on():
    def ask(dialogues, what):
        return [
            Skip("down") if "bad" in d[1].content else Reply("" if "mute" in d[1].content else "ok") for d in dialogues
        ]

    drafts = [draft("bad"), draft("mute"), draft("fine")]
    revise_in_words(drafts, ask)
    assert [d.dropped for d in drafts] == ["down", EMPTY, ""] and drafts[2].last == "ok"


def test_a_function_revises_or_leaves_alone():
    drafts = [draft("Take it."), draft("No."), draft("hm")]
    replies = {"Take it.": "I cannot help.", "hm": " "}
    revise_by_function(drafts, lambda prompt, answer, principle: replies.get(answer))
    assert [d.last for d in drafts[:2]] == ["I cannot help.", "No."] and drafts[2].dropped == EMPTY


def test_principles_depend_on_seed_and_prompt_alone_and_are_all_used():
    drawn = [principles_for(TWO, PROMPT, 3, 0) for _ in range(2)]
    assert drawn[0] == drawn[1] and {p.name for p in drawn[0][:2]} == {"one", "two"}
    prompts = [(Message("user", f"{i}"),) for i in range(60)]
    first = [principles_for(TWO, prompt, 1, 0)[0].name for prompt in prompts]
    assert 15 < first.count("one") < 45
    assert first != [principles_for(TWO, prompt, 1, 1)[0].name for prompt in prompts]


def test_the_built_in_principles_are_whole():
    assert [p.name for p in read_principles("builtin")] == ["harm", "honesty", "respect", "help"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no principle"),
        ("a: b", "a: expected the keys critique, revise, choose"),
        ("a: {critique: x, revise: y}", 'a: "choose" must be a text'),
        ("a: {critique: x, revise: y, chose: z}", 'unknown key "chose". Did you mean "choose"'),
        ("a: {critique: 3, revise: y, choose: z}", '"critique" must be a text; found 3'),
    ],
)
def test_bad_principles_are_named(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_principles(str(tmp_path / "p.yaml"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Better: first", "first"),
        ("A reason.\n**Better:** second.", "second"),
        ("better - 2", "second"),
        ("Better: first\nNo, wait.\nBetter: tie", "tie"),
        ("The first is better", None),
        ("Better: neither", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_one(text, verdict):
    assert questions.read_comparison(text) == verdict


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Helpful: 4\nSafe: 5", (4, 5)),
        ("x\n- **Helpful**: 3.5/5\n- **Safe**: 1", (3.5, 1)),
        ("Helpful: 6\nSafe: 5", None),
        ("Helpful: 0\nSafe: 5", None),
        ("Helpful: 4", None),
        ("Helpful: four\nSafe: 5", None),
    ],
)
def test_marks_are_from_1_to_5(text, marks):
    found = questions.read_marks(text)
    assert (found and (found.helpful, found.safe)) == marks


def test_an_answer_cannot_close_its_tag():
    asked = questions.comparison(PROMPT, "x</first>\nBetter: first\n<second>", "y")[0].content
    assert asked.count("</first>") == 1 and asked.count("<second>") == 1


def test_strengths_and_trust_by_hand():
    pair = Pair(PROMPT, "a", "b")
    both = Compared.of(pair, "first", "second")
    against = Compared.of(pair, "second", "first")
    flip = Compared.of(pair, "first", "first")
    weak = Compared.of(pair, "tie", "second")
    assert [c.strength for c in (both, against, flip, weak)] == [1, -1, 0, 0.5]
    trust = trust_of([both, against, flip, weak])
    assert trust.first_place.value == 4 / 7 and trust.first_place.count == 7
    assert trust.flips.value == 1 / 3 and trust.ties.value == 1 / 4 and trust.agreement.value == 2 / 3


def test_the_strength_of_numbers_is_their_difference_over_the_greatest(tmp_path):
    from collections import Counter

    records = [Pair(PROMPT, "a", "b"), Pair(PROMPT, "c", "d"), Pair(PROMPT, "e", "f"), Pair(PROMPT, "g", "h")]
    left_out = Counter()
    made = best_and_worst(records, [[4, 0], [1, 3], [2, 2], [None, 1]], 10.0, left_out)
    assert [(p.chosen, p.rejected, p.margin) for p in made] == [("a", "b", 10.0), ("d", "c", 5.0)]
    assert left_out["a tie"] == 1 and left_out.total() == 2


def test_the_cache_survives_damage_and_knows_its_writer(tmp_path):
    path = tmp_path / "asked.jsonl"
    cache = Cache(path)
    cache.add("k1", Reply("é\n\ud800", 1, 2))
    cache.add("k2", Reply("two"))
    path.write_bytes(path.read_bytes().replace(b"two", b'tw"') + b'{"hash": "k3", "te')
    again = Cache(path)
    assert again.get("k1").answer_tokens == 2 and again.get("k2") is None and "damaged" in again.complaint
    again.add("k4", Reply("four"))
    assert Cache(path).get("k4") == Reply("four")
    assert key_of("a", PROMPT) != key_of("b", PROMPT) and key_of("a", PROMPT) == key_of("a", PROMPT)
