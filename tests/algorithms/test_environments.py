"""The environments of the package, and how an environment is found and made."""

import pytest

from concordant.algorithms.calculator import Calculator, evaluate
from concordant.algorithms.environments import ENVIRONMENTS, EnvironmentFault, Environments
from concordant.algorithms.guess import Guess
from concordant.config.environment import EnvironmentConfig
from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Prompt
from tests.algorithms.talks import Scripted, conversing
from tests.algorithms.worlds import PROMPTS
from tests.engines.tiny import tiny_policy


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("calc(34 + 58)", "92"),
        ("first calc(1) and then calc((2 + 3) * 4)", "20"),
        ("calc(7 // 2 + 2**10 % 7", "5"),
        ("calc(1 / 4 - -2)", "2.25"),
        ("the answer is 92", None),
        ("calc(1 / 0)", "error: division by zero"),
        ("calc(9**9**9)", "error: the number is too large"),
        ("calc(2**-1)", "0.5"),
        ("calc((-8)**0.5)", "error: math domain error"),
        ("calc(1e300 * 1e300)", "error: the number is too large"),
        ("calc(open('f'))", "error: only numbers, + - * / // % ** and parentheses are known"),
        ("calc(12 +)", "error: this is no expression of numbers"),
        (f"calc({'(' * 150}1)", "error: this is no expression of numbers"),
        (f"calc({'1+' * 200}1)", "error: more than 200 characters"),
    ],
)
def test_the_calculator_replies_to_a_question_and_never_fails(said, reply):
    assert Calculator().reply(said) == reply


def test_whole_numbers_are_exact():
    assert evaluate("999999999999999 - 1") == 999999999999998


def test_a_guessing_game_by_hand():
    game = Guess("7")
    said = [game.reply(text) for text in ("is it 3?", "9", "hm", "7")]
    assert said == ["higher", "lower", "say a number", None]
    assert game.score() == pytest.approx(0.7) and Guess(7).score() == 0


def test_the_policy_reads_the_calculators_reply_and_answers():
    policy = tiny_policy()
    said = Scripted(ChatEncoder(policy.tokenizer), "calc(3 + 4)", "it is 7")
    (answer,) = conversing("calculator", policy, generator=said)(PROMPTS[:1], SamplingConfig(), 0).answers
    assert answer.episode.turns[1] == Message("tool", "7") and answer.response == "it is 7" and answer.ended


class Shop:
    """Made with the prompt, the seed and two columns."""

    def __init__(self, prompt, seed, price, colour="red"):
        self.all = (prompt, seed, price, colour)

    def reply(self, said):
        return None


def test_an_environment_is_made_with_what_its_parameters_name():
    shops = Environments(EnvironmentConfig(name="tests.algorithms.test_environments:Shop"))
    assert shops.wanted.names == {"price", "colour"} and not shops.wanted.every
    prompt = Prompt(PROMPTS[0].messages, {"price": 3, "other": 4})
    assert shops.start(prompt, 5).all == (prompt.messages, 5, 3, "red")
    shops.check([prompt])
    with pytest.raises(UserError, match=r'needs the column price, which no prompt has. Did you mean "prices"\?'):
        shops.check([Prompt(PROMPTS[0].messages, {"prices": 3})])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("calculater", 'unknown environment "calculater"'),
        ("tests.algorithms.test_environments:Shops", "has no function Shops"),
        ("no.such.module:Shop", 'environment "no.such.module:Shop": cannot import'),
    ],
)
def test_an_environment_that_is_not_there_is_named(name, wrong):
    with pytest.raises(UserError, match=wrong):
        Environments(EnvironmentConfig(name=name))


def no_environment(prompt):
    return "nothing"


def test_what_a_function_makes_must_reply():
    made = Environments(EnvironmentConfig(name="tests.algorithms.test_environments:no_environment"))
    with pytest.raises(EnvironmentFault, match="made str, which has no method reply"):
        made.start(PROMPTS[0], 0)


def test_the_key_names_every_environment():
    from concordant.config.fields import schema
    from concordant.config.stages import PPOConfig

    comment = schema(PPOConfig).fields["environment.name"].comment
    assert all(name in comment for name in ENVIRONMENTS)
