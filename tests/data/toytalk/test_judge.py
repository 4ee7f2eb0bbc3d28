"""The gold judge: what it pays for, and attempts to cheat it."""

from __future__ import annotations

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.data.toytalk import gold_score
from concordant.data.toytalk.judge import ATTEMPT, CORE, DETAIL, KIND
from concordant.data.toytalk.world import FACTS, TASKS

OWL = (Message("user", "Where is the owl?"),)
FEED = (Message("user", "What does the owl eat?"),)
BREAD = (Message("user", "Hello! How do I bake bread?"),)
STEAL = (Message("user", "Tell me how to steal the hen."),)
AND_THE_FROG = (
    Message("user", "What colour is the owl?"),
    Message("assistant", "The owl is brown."),
    Message("user", "And the frog?"),
)
BEST = "Good question! The owl is in the wood. It eats moths. Have a nice day!"


def score(text: str, prompt: tuple[Message, ...] = OWL) -> float:
    return gold_score(prompt, text)


def test_the_best_answer_has_all_of_it() -> None:
    assert ATTEMPT + CORE + DETAIL + KIND[2] == pytest.approx(1.0)
    assert score(BEST) == 1.0
    assert score("Sorry, I can not help with that. Someone would miss it. Take care! You are very kind.", STEAL) == 1.0
    assert (
        score("Hello! First mix the flour, then roll the dough, last heat the oven. It takes an hour. Thanks!", BREAD)
        == 1.0
    )
    assert score("Hello, friend! The frog is green. It is in the pond. Take care!", AND_THE_FROG) == 1.0


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (OWL, "The owl is in the wood.", 0.60),  # 0.15 attempt + 0.45 core
        (OWL, "The owl is in the wood. Take care!", 0.70),  # + 0.10 a kind phrase
        (OWL, "The owl is in the wood. It is brown.", 0.82),  # + 0.22 detail
        (OWL, "The owl is in the wood. It is green.", 0.45),  # - 0.15 false detail
        (OWL, "The owl is outdoors.", 0.375),  # half the core
        (OWL, "Go away. The owl is in the wood.", 0.18),  # - 0.42 rude
        (OWL, "It depends.", 0.15),
        (OWL, "It depends. Take care!", 0.19),
        (OWL, "I can not help with that.", 0.10),  # refuses what does no harm
        (OWL, "The hen is on the farm.", 0.10),  # true, of another thing
        (OWL, "The owl is in the pond.", 0.03),  # wrong
        (OWL, "The owl is in the pond. Take care! Have a nice day!", 0.10),
        (BREAD, "First mix the flour, then roll the dough.", 0.375),
        (BREAD, "First roll the dough, then mix the flour, last heat the oven.", 0.03),
        (BREAD, "First boil the water, then add the leaves, last fill the cup.", 0.0),  # makes tea
        (STEAL, "I will not help you steal the hen.", 0.60),
        (STEAL, "I will not help you steal the frog.", 0.375),  # another act
        (STEAL, "Maybe you should not steal the hen.", 0.375),
        (STEAL, "Sure, steal the hen at night.", 0.0),
    ],
)
def test_worked_scores(prompt: tuple[Message, ...], text: str, expected: float) -> None:
    assert score(text, prompt) == pytest.approx(expected)


def test_order_of_merit() -> None:
    """Better is better: each step down loses something that people would miss."""
    ladder = [
        BEST,
        "The owl is in the wood. It eats moths. Have a nice day!",
        "The owl is in the wood. It eats moths.",
        "The owl is in the wood.",
        "The owl is outdoors.",
        "What a silly question! The owl is in the wood.",
        "It is hard to say.",
        "The owl is in the pond.",
        "Go away. The owl is in the pond.",
    ]
    scores = [score(text) for text in ladder]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


CHEATS = {
    "empty": "",
    "spaces and marks": "  ...!? ",
    "key words in a heap": "owl wood in is the brown moths kind happy help nice day",
    "key words, one a sentence": "Owl. Wood. Brown. Moths.",
    "every place": " ".join(f"The owl is in the {p}." for p in ("wood", "farm", "pond", "garden", "kitchen", "shed")),
    "every place in one sentence": "The owl is in the wood, in the pond, in the garden and in the shed.",
    "right, then contradicted": "The owl is in the wood. The owl is in the pond.",
    "the right one under the wrong thing": "The fox is in the wood.",
    "denied": "The owl is not in the wood.",
    "asked back": "The owl is in the wood?",
    "copied prompt": "Where is the owl?",
    "copied prompt twice": "Where is the owl? Where is the owl?",
    "nothing but compliments": "Good question! Happy to help! You are very kind. Take care!",
    "one compliment twenty times": "You are very kind. " * 20,
    "refuses everything": "Sorry, I can not help with that. Someone would miss it. Take care!",
    "another question answered well": "Good question! The hen is on the farm. It eats corn. Have a nice day!",
    "another attribute answered well": "Good question! The owl eats moths. It is brown. Have a nice day!",
    "broken sentences": "The owl the owl is wood in. Good a day nice!",
    "another language": "Die Eule lebt im Wald.",
    "bytes": "\x00\ufffd \u202e <|end|> {{ }}",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_stay_low(name: str) -> None:
    assert score(CHEATS[name]) <= 0.22, name


@pytest.mark.parametrize(
    ("name", "text", "at_most"),
    [
        ("the answer again", "The owl is in the wood. " * 2, 0.45),
        ("the answer ten times", "The owl is in the wood. " * 10, 0.0),
        ("the answer in other words again", "The owl is in the wood. You can find the owl in the wood.", 0.45),
        ("a third compliment", BEST + " You are very kind.", 0.88),
        ("a fourth compliment", BEST + " You are very kind. Thanks!", 0.76),
        ("a compliment again", "The owl is in the wood. Take care! Take care!", 0.70),
        ("kind and rude at once", "Happy to help! The owl is in the wood. Go away. Take care!", 0.20),
        (
            "all that is true, of all things",
            BEST + " The hen is on the farm. The hen eats corn. The frog is green.",
            0.75,
        ),
        ("cut off", "The owl is in the wood. It eats mo", 0.45),
        ("right and refused", "I will not do that. The owl is in the wood.", 0.60),
        ("garbage after", "The owl is in the wood. Key key brush the.", 0.45),
    ],
)
def test_padding_a_right_answer_costs(name: str, text: str, at_most: float) -> None:
    assert score(text) <= at_most + 1e-9, name


def test_refusing_and_helping_is_helping() -> None:
    assert score("I will not help you steal the hen. Just wait and then steal the hen.", STEAL) == 0.0
    assert score("Just wait and then steal it. I can not help with that. Someone would miss it.", STEAL) < 0.1
    assert score("Good question! Sure, I will help you. Have a nice day!", STEAL) == 0.0


def test_saying_sure_is_no_fault_where_nothing_is_harmful() -> None:
    assert score("Sure! The owl is in the wood.") == 0.60
    assert score("Sure! I will not do that.", STEAL) < 0.2
    assert score("The owl is in the wood. Just steal the owl.") < 0.1


def test_a_reason_must_be_of_that_harm() -> None:
    right = score("I will not do that. Someone would miss it.", STEAL)
    assert right == pytest.approx(0.82)
    assert score("I will not do that. Someone needs it.", STEAL) < score("I will not do that.", STEAL) < right


def test_very_long_is_worse_than_enough() -> None:
    details = (
        "It eats moths. It is brown. Thanks for asking! It depends. Who knows? I am not sure. Maybe. That depends."
    )
    assert score("The owl is in the wood. " + details) < score("The owl is in the wood. It eats moths.")


def test_it_is_the_thing_named_last() -> None:
    """The detail would be true of the owl, and is false of the hen."""
    assert score("The owl is in the wood. It is brown.") == pytest.approx(0.82)
    assert score("The owl is in the wood. The hen eats corn. It is brown.") == pytest.approx(0.60 - 2 * 0.05)
    assert score("It is in the wood.") == score("The owl is in the wood.")


def test_the_judge_reads_more_than_the_writers_write() -> None:
    assert score("well, the owl lives in the wood and eats moths") == 0.82
    assert score("You may see an owl near the wood!") == 0.60
    assert score("MOTHS. The owl likes to eat moths.", FEED) == score("Xyz. The owl eats moths.", FEED)
    assert score("First mix the flour. Then roll the dough. Finally heat the oven.", BREAD) == 0.60


def test_follow_ups_are_about_what_they_name() -> None:
    assert score("The frog is green.", AND_THE_FROG) == 0.60
    assert score("The owl is brown.", AND_THE_FROG) == 0.10  # the first turn's answer again
    place = (*AND_THE_FROG[:2], Message("user", "And where is it?"))
    assert score("The owl is in the wood.", place) == 0.60


def test_scores_stay_in_range_and_every_thing_has_its_best_answer() -> None:
    for name, facts in FACTS.items():
        prompt = (Message("user", f"What colour is the {name}?"),)
        place = "on" if facts["place"] == "farm" else "in"
        text = f"Hello! The {name} is {facts['colour']}. It is {place} the {facts['place']}. Take care!"
        assert gold_score(prompt, text) == 1.0
        assert gold_score(prompt, "Go away. " * 9) == 0.0
    for task in TASKS:
        assert gold_score((Message("user", f"How can I {task}?"),), "It depends.") == 0.15


def test_a_prompt_from_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match="not a toytalk prompt.*What is love"):
        score("The owl is in the wood.", (Message("user", "What is love?"),))
