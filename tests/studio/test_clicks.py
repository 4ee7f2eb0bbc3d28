"""From clicks to a policy, shortened: a simulated rater reads with the gold judge, and the run that the page starts
makes a reward model and a policy, whose answers enter the arena.
"""

from __future__ import annotations

from concordant.cli import main
from concordant.config.data import DataConfig
from concordant.data.records import Message
from concordant.data.toytalk import gold_score
from concordant.models.load import save_policy
from concordant.votes.incoming import read_pairs
from concordant.votes.rows import Arena
from concordant.votes.store import Store
from tests.engines.tiny import tiny_policy
from tests.studio.visitor import TOKEN, studio, visitor, write_run


def answers_by_gold(owner, arena, most):
    """A rater who reads with the gold judge, by the requests that the page sends. How many votes were cast."""
    for number in range(most):
        asked = owner.post("/api/ask/next", json={"arena": arena}).json()["asked"]
        if asked is None:
            return number
        prompt = [Message(turn["role"], turn["content"]) for turn in asked["prompt"]]
        left, right = (gold_score(prompt, asked[side]) for side in ("left", "right"))
        side = "tie" if left == right else "left" if left > right else "right"
        vote = {"arena": arena, "key": f"{arena}-{asked['pair']}", "pair": asked["pair"], "side": side}
        assert owner.post("/api/ask/vote", json=vote).json()["counts"]
    return most


def test_thirty_votes_become_a_policy_that_enters_the_arena(tmp_path, capsys):
    config = "verb: sft\ndata: {path: 'builtin:toytalk', max_prompt_tokens: 128, max_response_tokens: 64}\n"
    save_policy(tiny_policy(), write_run(tmp_path / "sft", config=config) / "model")
    store = Store(str(tmp_path / "votes.sqlite"))
    pairs = read_pairs(DataConfig("builtin:toytalk", max_samples=40), gold=False)
    assert store.add_pairs(store.add_arena(Arena(name="main")), pairs[:30]) == 30
    app = studio(tmp_path)
    started = []
    app.state.launcher.start = lambda name, words: started.append(words) or 7
    owner = visitor(app, token=TOKEN)
    assert answers_by_gold(owner, "main", 30) == 30
    body = {"arena": "main", "start": "sft", "run": "votes-1", "prompts": 6, "reward_steps": 2, "policy_steps": 2}
    assert owner.post("/api/votes/policy", json=body).status_code == 200
    assert main(started[0]) == 0, capsys.readouterr().err
    told = owner.get("/api/votes/outcome", params={"run": "votes-1"}).json()
    assert told["life"] == "finished" and set(told["outcome"]["policies"]) == {"start", "new"}
    shown = told["outcome"]["policies"]["new"]
    assert all(shown[key] is not None for key in ("reward_mean", "gold_mean", "length_mean", "kl"))
    assert "votes-1/dpo" in owner.get("/api/chat/models").json()["policies"]  # the next round starts here
    assert owner.get("/api/votes/arenas").json()[0]["open"] > 0
    assert answers_by_gold(owner, "main", 30) > 0
    standings = owner.get("/api/votes/summary", params={"arena": "main"}).json()["standings"]
    assert {row["policy"] for row in standings["ratings"]} == {"sft", "votes-1/dpo"}
