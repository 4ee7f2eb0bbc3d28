"""Cures are followed as they are written, nothing else is done, and outcomes are counted as computed by hand."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.doctor_cures import patients
from bench.doctor_cures_deeds import MENDS, Treatment
from bench.doctor_cures_quality import compared, verdict
from bench.doctor_cures_report import HEADING, by_finding, section, summary, with_section
from bench.doctor_cures_rows import balanced, read_ten, without_mark, without_tags, without_template
from bench.doctor_cures_text import DEEDS, Deed, Setting, read_cure
from bench.doctor_faults import MEASURE
from bench.doctor_plant import stale
from bench.doctor_world import World
from concordant.config.fields import flatten
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def read(cure, config=PPOConfig, **changes):
    return read_cure(cure, {**flatten(config()), **changes})


def settings(parts):
    """By part and alternative, the settings as a dict."""
    return [[{act.key: act.value for act in acts if isinstance(act, Setting)} for acts in part] for part in parts]


@pytest.mark.parametrize(
    ("cure", "expected"),
    [
        ("Set inner_epochs 1, or stop_kl 0.02", [[{"inner_epochs": 1}, {"stop_kl": 0.02}]]),
        (
            "Set kl.coefficient 0.05, or kl.controller adaptive with kl.target 6",
            [[{"kl.coefficient": 0.05}, {"kl.controller": "adaptive", "kl.target": 6.0}]],
        ),
        ("Set --sampling.top_p 1 --sampling.top_k 0", [[{"sampling.top_p": 1.0, "sampling.top_k": 0}]]),
        (
            "Read the prompts; raise sampling.n or sampling.temperature",
            [[{"sampling.n": 8}, {"sampling.temperature": 2.0}]],
        ),
        ("Raise kl.coefficient threefold or lower sampling.n", [[{"kl.coefficient": 0.3}, {"sampling.n": 2}]]),
        ("Lower critic_learning_rate tenfold", [[{"critic_learning_rate": 0.02}]]),  # 0 stands for the policy's rate
        ("Set critic_learning_rate three times train.learning_rate", [[{"critic_learning_rate": 0.6}]]),
        ("Raise data.max_response_tokens above 8", [[{"data.max_response_tokens": 16}]]),
        ("Leave `reference` empty, or name another folder", [[{"reference": ""}]]),
        ("Check the sign of advantage and loss, and the clip", []),
        ("Read twenty pairs; check that prompt, chosen and rejected belong together", []),
    ],
)
def test_settings_are_read_with_their_values(cure, expected):
    parts = read(cure, **{"kl.coefficient": 0.1, "sampling.n": 4, "train.learning_rate": 0.2})
    assert settings(parts) == expected


def test_a_key_of_another_verb_is_not_read():
    cure = "Trust a reward model only above 80 %; for DPO, --loss ipo compares means over tokens"
    assert settings(read(cure, DPOConfig)) == [[{"loss": "ipo"}]]
    assert read(cure, RewardConfig) == ()


def test_what_is_to_be_done_by_hand_is_read_from_the_words():
    assert read('Remove "." from the answers, or write it on both sides') == (((Deed("remove the mark", '"."'),),),)
    parts = read("Read ten pairs; swap the two columns of the data, or set beta three times as high", DPOConfig)
    assert parts == (((Deed("exchange answers"),), (Setting("beta", pytest.approx(0.3)),)),)


def test_every_planted_mistake_in_code_is_of_a_known_kind():
    assert set(MENDS) <= set(DEEDS)
    assert {kind for kinds in MENDS.values() for kind in kinds} <= {fault.kind for fault in MEASURE}


def test_the_first_alternative_that_changes_something_is_followed():
    treatment = Treatment(PPOConfig(inner_epochs=1))
    assert treatment.carry_out(read("Set inner_epochs 1, or stop_kl 0.02; set clip 0.1"))
    assert (treatment.config.stop_kl, treatment.config.clip, treatment.config.inner_epochs) == (0.02, 0.1, 1)


def test_a_cure_that_names_the_present_values_changes_nothing():
    treatment = Treatment(SFTConfig())
    assert not treatment.carry_out(read("Set train.weight_decay 0", SFTConfig, **{"train.weight_decay": 0.0}))
    assert treatment.done == []


@pytest.mark.parametrize(("kind", "is_mended"), [("stale rollouts", True), ("reference not frozen", False)])
def test_a_fault_of_code_is_taken_out_only_by_words_about_its_own_part(kind, is_mended):
    treatment = Treatment(PPOConfig(), stale(4), kind, "")
    treatment.carry_out(read("Load the learner's weights into the generator before every rollout"))
    assert (treatment.plant is nullcontext) == is_mended and treatment.done == ["load weights"] * is_mended


@pytest.mark.parametrize("variant", ["gradient of 0", "optimizer of other weights"])
def test_a_loss_of_nothing_is_mended_in_the_loss_and_not_in_the_optimizer(variant):
    of_optimizer = "Set requires_grad on what should train, and give it all of them"
    of_loss = "Find where your code cuts the loss from the weights: a detach()"
    for cure, mends in ((of_optimizer, variant != "gradient of 0"), (of_loss, variant == "gradient of 0")):
        assert Treatment(SFTConfig(), stale(4), "nothing trains", variant).carry_out(read(cure, SFTConfig)) == mends


# -- data ---------------------------------------------------------------------------------------------

GOOD, BAD = "You can find the owl in the wood.", "Who cares."
PROMPT = "Where is the owl?"


def in_file(tmp_path, rows, cure, config=RewardConfig):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = config()
    made.data.path = str(path)
    treatment = Treatment(made)
    changed = treatment.carry_out(read(cure, config))
    return changed, [json.loads(line) for line in path.read_text().splitlines()]


def pair(chosen, rejected, prompt=PROMPT):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


EXCHANGE = "Read ten pairs; if they are swapped, exchange the columns chosen and rejected"


def test_columns_are_exchanged_only_where_a_reader_finds_them_exchanged(tmp_path):
    assert in_file(tmp_path, [pair(BAD, GOOD)] * 12, EXCHANGE) == (True, [pair(GOOD, BAD)] * 12)
    assert in_file(tmp_path, [pair(GOOD, BAD)] * 12, EXCHANGE) == (False, [pair(GOOD, BAD)] * 12)


def test_only_the_wrong_half_is_exchanged(tmp_path):
    cure = "Read ten pairs of each half; exchange chosen and rejected in the wrong one"
    rows = [pair(GOOD, BAD)] * 10 + [pair(BAD, GOOD)] * 10
    assert in_file(tmp_path, rows, cure) == (True, [pair(GOOD, BAD)] * 20)


def test_of_a_mirrored_pair_the_first_row_is_kept(tmp_path):
    cure = "Keep one row of each pair, the one that a person has chosen"
    rows = [pair("a", "b"), pair("b", "c"), pair("b", "a")]
    assert in_file(tmp_path, rows, cure) == (True, rows[:2])


def test_repeats_are_removed(tmp_path):
    rows = [pair("a", "b"), pair("a", "b"), pair("a", "c")]
    assert in_file(tmp_path, rows, "Remove the repeats, or make fewer passes") == (True, rows[1:])


def test_a_mark_is_removed_where_the_finding_saw_it():
    assert without_mark("Thanks. It is here, thanks.", '"thanks"') == ". It is here, ."
    assert without_mark("Here! Or here!", '"!" at the end') == "Here! Or here"
    assert without_mark("no, no", '"no" at the start') == ", no"


def test_text_without_tags_and_without_a_template():
    assert without_tags('<p class="a">It&#x27;s here.</p>\n<br />&nbsp;') == "It's here."
    assert without_template("<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n") == "Where?"


def test_the_prompt_the_end_mark_and_placeholders_go(tmp_path):
    def after(row, cure, *others):
        rows = [{"prompt": PROMPT, "response": text} for text in (row, *others)]
        return [r["response"] for r in in_file(tmp_path, rows, cure, SFTConfig)[1]]

    assert after(f"{PROMPT} {GOOD}", "Take the prompt away from the beginning of the answers") == [GOOD]
    assert after(f"{GOOD} </s></s>", "Take the mark out of the answers: the template writes it") == [GOOD]
    assert after("nan", "Leave out the rows without an answer", "nan", GOOD) == [GOOD]
    assert after("It is in the", "Make the file again, or leave out the rows that were cut", GOOD) == [GOOD]


def test_answers_leave_the_prompts_and_turns_become_messages(tmp_path):
    rows = [{"prompt": f"{PROMPT} {GOOD}", "response": GOOD}]
    cure = "Take the answers out of the prompts: make the prompts from what was asked alone"
    assert in_file(tmp_path, rows, cure, SFTConfig)[1] == [{"prompt": PROMPT, "response": GOOD}]
    rows = [{"prompt": "a", "response": "b\n### Question: c\n### Answer: d"}]
    (made,) = in_file(tmp_path, rows, "Give the dialogue as messages with role and content", SFTConfig)[1]
    said = [(m["role"], m["content"]) for m in made["messages"]]
    assert said == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def test_pairs_are_labelled_anew_as_a_reader_finds_them(tmp_path):
    cure = "Have the pairs labelled anew by what the answers say"
    assert in_file(tmp_path, [pair(BAD, GOOD), pair(GOOD, BAD)], cure) == (True, [pair(GOOD, BAD)] * 2)


def test_equal_pairs_are_left_out_and_margins_divided(tmp_path):
    cure = "Read the rejected column of ten such pairs; leave out the pairs whose answers are equal"
    assert in_file(tmp_path, [pair(GOOD, GOOD), pair(GOOD, BAD)], cure) == (True, [pair(GOOD, BAD)])
    rows = [{**pair(GOOD, BAD), "margin": 50}]
    cure = "Divide the margins by 50, or leave the column out: --data.columns margin="
    assert in_file(tmp_path, rows, cure) == (True, [{**pair(GOOD, BAD), "margin": 1.0}])


def test_rewards_are_weighed_and_turned_round_as_the_text_says():
    treatment = Treatment(PPOConfig(reward=["my_x:content", "my_x:detail"]))
    assert treatment.carry_out(
        read("Divide each reward by its deviation: --reward my_x:detail=0.03 --reward my_x:content=4")
    )
    assert treatment.config.reward == ["my_x:content=4", "my_x:detail=0.03"]
    assert treatment.carry_out(read("Turn the sign round: --reward SOURCE=-1, or return minus the distance"))
    assert treatment.config.reward == ["my_x:content=-4", "my_x:detail=-0.03"]


def test_lengths_are_balanced():
    leads = [3, 2, 1, 0, -1]
    left = balanced([[lead] for lead in leads], lambda item: item[0])
    assert len(left) == 3 and [0] in left and [-1] in left


def test_ten_are_read_from_beginning_to_end():
    assert read_ten(range(20)) == list(range(0, 20, 2))
    assert read_ten([1, 2]) == [1, 2]


def test_a_negative_weight_of_a_reward_becomes_1():
    treatment = Treatment(PPOConfig(reward=["a/model=-0.5", "rule:x"]))
    assert treatment.carry_out(read("Give the reward the weight 1, not -1; check its accuracy"))
    assert treatment.config.reward == ["a/model=1", "rule:x"]


# -- outcomes -----------------------------------------------------------------------------------------


def test_a_difference_counts_from_two_standard_errors_on():
    # differences 1, 1, 1, 3: mean 1.5, deviation 1, standard error 0.5
    assert compared([0, 0, 0, 0], [1, 1, 1, 3]) == (1.5, 0.5)
    assert verdict([0, 0, 0, 0], [1, 1, 1, 3]) == "better"
    assert verdict([1, 1, 1, 3], [0, 0, 0, 0]) == "worse"
    assert verdict([0, 0], [0, 1]) == "equal"  # mean 0.5, standard error 0.5
    assert verdict([0.5], [0.5]) == "equal"


def test_what_is_not_finite_is_the_worst():
    nan = float("nan")
    assert (verdict([nan], [0.0]), verdict([0.0], [nan]), verdict([nan], [nan])) == ("better", "worse", "equal")


def patient(outcome, done=(), rule="r", curable=None, of="kin"):
    return {"set": of, "name": "n", "fault": "f", "rule": rule, "cure": "c", "outcome": outcome, "done": list(done),
            "curable": curable, "sick": 0.1, "cured": 0.2, "without_fault": None}  # fmt: skip


PATIENTS = [
    patient("better", ["beta 1 -> 2"]),
    patient("better", ["load weights"]),
    patient("equal", curable=False),
    patient("failed", ["beta 1 -> 2"], of="strange"),
    patient("none offered"),
    patient("nothing said", rule=""),
]


def test_runs_that_were_not_made_are_named_and_not_counted():
    absent = {**patient("not made", rule=""), "name": "ppo-x"}
    assert "1 more runs were not made with these cures: ppo-x." in section([*PATIENTS, absent])
    assert summary([*PATIENTS, absent]) == summary(PATIENTS)


def test_silence_and_advice_to_look_are_no_cures():
    counted = {name: (s["count"], s["of"]) for name, s in summary(PATIENTS).items()}
    assert counted["better than before"] == (2, 4)
    assert counted["strange runs"] == (0, 1)
    assert counted["cures that say which part of the code is wrong"] == (1, 1)
    assert counted["kin runs that can become better at all"] == (2, 2)
    assert by_finding(PATIENTS) == [("r", {"better": 2, "equal": 1, "failed": 1, "none offered": 1})]


def test_the_section_replaces_an_older_one_and_nothing_else():
    new = section(PATIENTS)
    page = with_section("# Page\n\n## First\n\na\n", new)
    assert page.startswith("# Page\n\n## First\n\na\n\n" + HEADING)
    assert with_section(page + "\n## Last\n\nb\n", new) == page + "\n## Last\n\nb\n"


def test_every_run_of_both_sets_is_a_patient(tmp_path):
    names = [p.name for p in patients(World(tmp_path))]
    assert len(names) == len(set(names)) == 104 + 83
    said = json.loads((RESULTS / "doctor_strange.json").read_text())["cases"]
    assert {case["name"] for case in said} <= set(names)
