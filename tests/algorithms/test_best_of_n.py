from concordant.algorithms.best_of_n import Choice, choose
from tests.algorithms.worlds import plain, written


def choice(rewards):
    count = len(rewards)
    return Choice((), [f"answer {i}" for i in range(count)], rewards, list(range(1, count + 1)), [True] * count)


def test_the_best_and_the_worst():
    c = choice([0.5, 2.0, -1.0])
    assert (c.best, c.worst, c.best_reward, c.best_number) == ("answer 1", "answer 2", 2.0, 1)


def test_of_equals_the_first_is_best_and_nothing_is_preferred():
    assert choice([1.0, 3.0, 3.0]).best_number == 1
    c = choice([1.0, 1.0])
    assert c.best == c.worst == "answer 0"


def test_every_prompt_chooses_among_its_own_answers():
    rollouts = written([([8, 9], True), ([10], False), ([11], True)], [([12], True), ([13, 14, 15], False)])
    seen = []

    def reward(answers):
        seen.extend(answers)
        return [0.0, 5.0, 1.0, 7.0, 2.0]

    first, second = choose(rollouts, plain(reward))
    assert seen == rollouts.answers
    assert first.rewards == [0.0, 5.0, 1.0] and second.rewards == [7.0, 2.0]
    assert first.best == rollouts.answers[1].response and second.worst == rollouts.answers[4].response
    assert first.lengths == [2, 1, 1] and first.ended == [True, False, True]
    assert second.lengths == [1, 3] and second.prompt == rollouts.answers[3].prompt
