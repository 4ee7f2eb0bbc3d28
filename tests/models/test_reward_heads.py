"""A reward model with k heads: its folder is that of one with their mean, and the heads lie beside."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.models.reward_heads import HEADS_FILE, rows_of
from tests.engines.conftest import encoder  # noqa: F401 (a fixture)
from tests.engines.scored import DIALOGUES, check_saved
from tests.engines.tiny import tiny_policy
from tests.models import zoo


@pytest.fixture(params=["Llama", "GPT-2", "BERT"])
def three(request, encoder):  # noqa: F811
    """A decoder without bias, one with other names, and an encoder, whose head has a bias and a pooler before it."""
    if request.param != "BERT":
        return RewardModel.from_backbone(zoo.policy(request.param), heads=3)
    made = RewardModel.from_backbone(ModelConfig(name=encoder.name), heads=3)
    with torch.no_grad():
        rows_of(made.model)[1].bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return made


def test_every_tool_reads_the_mean_of_the_heads_and_we_read_each(three, tmp_path):
    check_saved(three, tmp_path)
    head_BK = three.by_head(DIALOGUES)
    assert head_BK.shape == (3, 3) and len(set(head_BK.flatten().tolist())) == 9, "the heads start apart"
    assert three.score(DIALOGUES) == head_BK.mean(1).tolist()
    back = RewardModel.from_pretrained(tmp_path / "rm")
    torch.testing.assert_close(back.by_head(DIALOGUES), head_BK, atol=1e-6, rtol=0)
    assert back.heads == 3
    single = load_file(tmp_path / "rm" / "model.safetensors")
    path, layer = rows_of(three.model)
    torch.testing.assert_close(single[f"{path}.weight"], layer.weight.mean(0, keepdim=True))


def test_the_seed_draws_the_heads_and_a_model_goes_on_with_as_many(tmp_path):
    one, again, other = (RewardModel.from_backbone(tiny_policy(), seed=s, heads=2) for s in (0, 0, 1))
    heads = [rows_of(made.model)[1].weight for made in (one, again, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    one.save(tmp_path / "rm")
    start = ModelConfig(name=str(tmp_path / "rm"), device="cpu")
    back = RewardModel.from_backbone(start, heads=2)
    torch.testing.assert_close(back.by_head(DIALOGUES), one.by_head(DIALOGUES), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"is a reward model with 2 heads, and goes on with as many: give --heads 2"):
        RewardModel.from_backbone(start)


def test_an_adapter_keeps_its_heads(tmp_path):
    save_policy(tiny_policy(), tmp_path / "base")
    model = ModelConfig(name=str(tmp_path / "base"), device="cpu", lora=LoraConfig(rank=2))
    made = RewardModel.from_backbone(model, heads=2)
    assert rows_of(made.model)[1].weight.requires_grad
    made.save_adapter(tmp_path / "adapter")
    back = RewardModel.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(back.by_head(DIALOGUES), made.by_head(DIALOGUES), atol=1e-6, rtol=0)
    made.save(tmp_path / "merged")
    merged = RewardModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged.by_head(DIALOGUES), made.by_head(DIALOGUES), atol=1e-5, rtol=0)


def test_heads_of_another_model_and_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "rm"
    RewardModel.from_backbone(tiny_policy(), heads=2).save(folder)
    kept = load_file(folder / HEADS_FILE)

    def refused(**tensors):
        save_file(tensors, folder / HEADS_FILE)
        with pytest.raises(UserError) as raised:
            RewardModel.from_pretrained(folder)
        return str(raised.value)

    changed = AutoModelForSequenceClassification.from_pretrained(folder)
    assert "does not belong to the model beside it" in refused(weight=kept["weight"] + 1)
    assert "expected weight (K, H)" in refused(weight=kept["weight"][:1])
    assert "expected weight (K, H)" in refused(other=kept["weight"])
    assert "NaN or infinite" in refused(weight=kept["weight"] * float("nan"))
    assert "bias, other than the model's score" in refused(weight=kept["weight"], bias=torch.zeros(2))
    (folder / HEADS_FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        RewardModel.from_pretrained(folder)
    (folder / HEADS_FILE).unlink()
    assert RewardModel.from_pretrained(folder).heads == 1 == changed.config.num_labels
