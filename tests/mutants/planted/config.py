"""Planted bugs of config/: names, ranges, contradictions, keys without effect."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="rloo-is-whitened",
        file="config/names.py",
        old='return ("step" if advantage in WHITENED else "none") if whiten == "auto" else whiten',
        new='return ("none" if advantage == "grpo" else "step") if whiten == "auto" else whiten',
        story="RLOO's KL penalty is divided by the deviation of a step, so that its coefficient hardly matters.",
        tests=("algorithms/test_ppo.py",),
    ),
    Mutant(
        name="half-of-the-labels-may-be-wrong",
        file="config/ranges.py",
        old="""    s.DPOConfig: {
        "beta": POSITIVE,
        "label_smoothing": Range("[0, 0.5)"),""",
        new="""    s.DPOConfig: {
        "beta": POSITIVE,
        "label_smoothing": Range("[0, 0.5]"),""",
        story="--loss robust --label_smoothing 0.5 divides by zero after an accepted config.",
        tests=("config/test_checks.py",),
    ),
    Mutant(
        name="no-step-after-the-warm-up",
        file="config/contradictions.py",
        old='lambda v: 0 < v["train.max_steps"] <= v["critic_warmup"],',
        new='lambda v: 0 < v["train.max_steps"] < v["critic_warmup"],',
        story="A run of as many steps as the critic's warm-up trains no policy and says nothing.",
        tests=("config/test_checks.py",),
    ),
    Mutant(
        name="as-many-minibatches-as-prompts-refused",
        file="config/contradictions.py",
        old='lambda v: 0 < v["train.batch_size"] < v["minibatches"],',
        new='lambda v: 0 < v["train.batch_size"] <= v["minibatches"],',
        story="One prompt a minibatch, which works, is refused.",
        tests=("config/test_checks.py",),
    ),
    Mutant(
        name="a-critics-coefficient-beside-rloo",
        file="config/no_effect.py",
        old='"critic_warmup", "value_clip", "value_coefficient"),',
        new='"critic_warmup", "value_clip"),',
        story="--advantage rloo --value_coefficient 2 is taken, and the key does nothing.",
        tests=("config/test_no_effect.py",),
    ),
    Mutant(
        name="top-p-beside-greedy-chat",
        file="config/no_effect.py",
        old="""    s.ChatConfig: (
        _TRAINS_NOTHING,
        _GREEDY,
""",
        new="""    s.ChatConfig: (
        _TRAINS_NOTHING,
""",
        story="chat --sampling.temperature 0 --sampling.top_p 0.5 is taken, and top_p does nothing.",
        tests=("config/test_no_effect.py",),
    ),
    Mutant(
        name="a-weighted-reward-is-no-path",
        file="config/paths.py",
        old="return list(dict.fromkeys([text, place_of(text)]))",
        new="return [text]",
        story="A run resumes with a changed reward model if the reward was given with a weight.",
        tests=("runs/test_inputs.py",),
    ),
    Mutant(
        name="best-of-n-of-an-odd-path",
        file="config/specs.py",
        old='_, count, path = (value.split(":", 2) + ["", ""])[:3]',
        new='_, count, path = (value.split(":") + ["", ""])[:3]',
        story="best_of_n:4:package:NAME/FOLDER evaluates a model called package.",
        tests=("config/test_specs.py",),
    ),
    Mutant(
        name="a-gpus-settings-on-a-cpu",
        file="config/presets.py",
        old="(not methods or method in methods) and (not machines or machine in machines)",
        new="(not methods or method in methods) and (not machines or bool(methods) or machine in machines)",
        story="A preset for a CPU gets the settings of a GPU that are meant for the same method.",
        tests=("config/test_presets.py",),
    ),
    Mutant(
        name="a-preset-over-the-users-own-keys",
        file="config/parse.py",
        old="config = typed(config_class, [below, *layers])",
        new="config = typed(config_class, [*layers, below])",
        story="--preset overrides the learning rate that stands on the command line.",
        tests=("config/test_presets.py",),
    ),
    Mutant(
        name="beside-a-preset-a-key-without-effect-is-dropped",
        file="config/parse.py",
        old="without_idle(config_class, flatten(config), given)) if preset",
        new="without_idle(config_class, flatten(config), ())) if preset",
        story="A key that the user gave and that does nothing is left out without a word.",
        tests=("config/test_presets.py",),
    ),
    Mutant(
        name="a-gpu-of-just-the-size-does-not-fit",
        file="config/presets.py",
        old="fitting = [known for known in sizes if known <= asked]",
        new="fitting = [known for known in sizes if known < asked]",
        story="Who writes qwen3-4b/80GB is told that the nearest preset is the one of 24 GB.",
        tests=("config/test_presets.py",),
    ),
    Mutant(
        name="a-run-of-warm-up-alone-is-refused",
        file="config/contradictions.py",
        old='lambda v: 0 < v["train.max_steps"] < v["train.warmup_steps"],',
        new='lambda v: 0 < v["train.max_steps"] <= v["train.warmup_steps"],',
        story="A run whose last step has the full learning rate is refused.",
        tests=("config/test_checks.py",),
    ),
)
