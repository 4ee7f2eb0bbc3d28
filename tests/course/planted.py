"""Files as learners may write them, each with one mistake, in other words than the course's own solutions."""

# ruff: noqa: E501  a mistake a line

HEADS = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"

_LORA = """
class LoRALinear(nn.Module):
    def __init__(self, base, r=16, alpha=32.0):
        super().__init__()
        self.base = base
        {freeze}
        self.lora_A = nn.Parameter({a})
        self.lora_B = nn.Parameter({b})
        self.scale = {scale}
    def forward(self, x):
        low = F.linear(x, self.lora_A)
        return self.base(x) + {scaled} * F.linear(low, self.lora_B)

def find_target_modules(model, names):
    found = []
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and {match}:
            found.append(path)
    return found

def apply_lora_to_model(model, names, r=16, alpha=32.0):
    for parameter in model.parameters():
        parameter.requires_grad = {trainable}
    for path in find_target_modules(model, names):
        *way, last = path.split(".")
        parent = model
        for step in way:
            parent = getattr(parent, step)
        setattr(parent, last, LoRALinear(getattr(parent, last), r=r, alpha=alpha))

def merge_lora_weights(model):
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LoRALinear):
                with torch.no_grad():
                    layer.base.weight.add_({merged})
                setattr(parent, name, layer.base)
"""
_RIGHT = {
    "freeze": "base.weight.requires_grad = False; _ = base.bias is not None and base.bias.requires_grad_(False)",
    "a": "torch.randn(r, base.in_features) / math.sqrt(base.in_features)",
    "b": "torch.zeros(base.out_features, r)",
    "scale": "alpha / r",
    "scaled": "self.scale",
    "match": "path.split('.')[-1] in set(names)",
    "trainable": "False",
    "merged": "self_scale(layer) * layer.lora_B.mm(layer.lora_A)",
}


def lora(**changes: str) -> str:
    return HEADS + "def self_scale(layer): return layer.scale\n" + _LORA.format(**{**_RIGHT, **changes})


def head(last: str, pick: str = "hidden_BTH[range(len(hidden_BTH)), last]", bias: str = "False") -> str:
    return (
        HEADS
        + f"""
class RewardHead(nn.Module):
    def __init__(self, hidden_size):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, bias={bias})
    def forward(self, hidden_BTH, is_token_BT):
        length = hidden_BTH.shape[1]
        last = {last}
        return self.linear({pick})[:, 0]
"""
    )


def loss(body: str, accuracy: str = "((d > 0).double() + (d == 0).double() / 2).mean()") -> str:
    return (
        HEADS
        + f"""
def compute_preference_loss(chosen_P, rejected_P):
    d = chosen_P - rejected_P
    return {body}, {accuracy}.item()
"""
    )


def logprobs(body: str) -> str:
    return (
        HEADS
        + f"""
def compute_log_probs(logits_BTV, ids_BT, is_response_BT):
    {body}
"""
    )


def dpo(body: str) -> str:
    return (
        HEADS
        + f"""
def dpo_loss(pc, pr, rc, rr, beta=0.1):
    return {body}
"""
    )


def gae(delta: str, after: str = "0.0", carry: str = "gamma * lam", returns: str = "out + values_T") -> str:
    return (
        HEADS
        + f"""
def compute_advantages(rewards_T, values_T, gamma, lam):
    count = len(rewards_T)
    v = values_T.tolist() + [{after}]
    out, running = torch.zeros(count), 0.0
    for t in range(count - 1, -1, -1):
        running = {delta} + {carry} * running
        out[t] = running
    return out, {returns}
"""
    )


def ppo(
    surrogate: str,
    ratio: str = "(new - old).exp()",
    rest: str = "+ beta * ((new - ref).square() / 2).mean()",
    sign: str = "-",
) -> str:
    return (
        HEADS
        + f"""
def ppo_loss(new, old, ref, adv, clip=0.2, beta=0.1):
    ratio = {ratio}
    one, two = ratio * adv, torch.clamp(ratio, 1 - clip, 1 + clip) * adv
    outside = (ratio < 1 - clip) | (ratio > 1 + clip)
    return {sign}({surrogate}).mean() {rest}, outside.float().mean().item()
"""
    )


_LAST = "[max(i for i in range(length) if row[i]) for row in is_token_BT]"
_MASKED = "lp = torch.gather(F.log_softmax(logits_BTV, -1)[:, :-1], 2, ids_BT[:, 1:].unsqueeze(-1))[..., 0]; "

RIGHT = {
    1: lora(),
    2: head(_LAST),
    3: loss("F.softplus(-d).mean()"),
    4: logprobs(_MASKED + "return lp.masked_fill(~is_response_BT[:, 1:], 0).sum(-1)"),
    5: dpo("F.softplus(-beta * ((pc - pr) - (rc - rr))).mean()"),
    6: gae("rewards_T[t].item() + gamma * v[t + 1] - v[t]"),
    7: ppo("torch.min(one, two)"),
}

WRONG: dict[int, dict[str, str]] = {
    1: {
        "scaling is missing": lora(scaled="1.0"),
        "scaling by r / alpha": lora(scale="r / alpha"),
        "B is not zero": lora(b="torch.full((base.out_features, r), 0.01)"),
        "A is zero too": lora(a="torch.zeros(r, base.in_features)"),
        "the base is not frozen": lora(freeze="pass"),
        "the model is not frozen": lora(trainable="True"),
        "names match anywhere": lora(match="any(n in path for n in names)"),
        "the merge forgets the scaling": lora(merged="layer.lora_B.mm(layer.lora_A)"),
    },
    2: {
        "the last position": head("[-1] * len(hidden_BTH)"),
        "the number of tokens": head("[int(n) - 1 for n in is_token_BT.sum(dim=1)]"),
        "the first token": head("[row.tolist().index(True) for row in is_token_BT]"),
        "the mean of all positions": head("None", "hidden_BTH.sum(1) / length"),
        "a bias": head(_LAST, bias="True"),
    },
    3: {
        "the sign": loss("-F.softplus(-d).mean()"),
        "chosen and rejected are swapped": loss("F.softplus(d).mean()"),
        "log of sigmoid": loss("-torch.log(1 / (1 + torch.exp(-d))).mean()"),
        "the sum and not the mean": loss("F.softplus(-d).sum()"),
        "no logarithm": loss("-(1 / (1 + torch.exp(-d))).mean()"),
        "an equal pair counts as wrong": loss("F.softplus(-d).mean()", "(d > 0).float().mean()"),
        "an equal pair counts as right": loss("F.softplus(-d).mean()", "(d >= 0).float().mean()"),
    },
    4: {
        "no shift": logprobs("lp = F.log_softmax(logits_BTV, 2).gather(2, ids_BT[..., None])[..., 0]; return lp.mul(is_response_BT.float()).sum(1)"),
        "the mask is not shifted": logprobs(_MASKED + "return (lp * is_response_BT[:, :-1].float()).sum(-1)"),
        "the prompt counts": logprobs(_MASKED + "return lp.sum(-1)"),
        "the mean and not the sum": logprobs(_MASKED + "m = is_response_BT[:, 1:].float(); return (lp * m).sum(1) / m.sum(1)"),
        "logits without softmax": logprobs("lp = torch.gather(logits_BTV[:, :-1], 2, ids_BT[:, 1:, None])[..., 0]; return (lp * is_response_BT[:, 1:]).sum(1)"),
    },
    5: {
        "no reference": dpo("F.softplus(-beta * (pc - pr)).mean()"),
        "beta is missing": dpo("F.softplus(-((pc - rc) - (pr - rr))).mean()"),
        "beta outside of the sigmoid": dpo("beta * F.softplus(-((pc - rc) - (pr - rr))).mean()"),
        "chosen and rejected are swapped": dpo("F.softplus(beta * ((pc - rc) - (pr - rr))).mean()"),
        "the ratio of the reference has the wrong sign": dpo("F.softplus(-beta * ((pc - rc) - (pr + rr))).mean()"),
    },
    6: {
        "lambda is missing": gae("rewards_T[t].item() + gamma * v[t + 1] - v[t]", carry="gamma"),
        "gamma is missing in delta": gae("rewards_T[t].item() + v[t + 1] - v[t]"),
        "the last value again": gae("rewards_T[t].item() + gamma * v[t + 1] - v[t]", after="values_T[-1].item()"),
        "the value of the token itself": gae("rewards_T[t].item() + gamma * v[t] - v[t]"),
        "returns without values": gae("rewards_T[t].item() + gamma * v[t + 1] - v[t]", returns="out"),
    },
    7: {
        "the sign": ppo("torch.min(one, two)", sign="+"),
        "maximum and not minimum": ppo("torch.max(one, two)"),
        "only the clipped surrogate": ppo("two"),
        "no clipping": ppo("one"),
        "the ratio to the reference": ppo("torch.min(one, two)", ratio="(new - ref).exp()"),
        "the ratio is upside down": ppo("torch.min(one, two)", ratio="(old - new).exp()"),
        "the penalty is missing": ppo("torch.min(one, two)", rest=""),
        "the penalty has the wrong sign": ppo("torch.min(one, two)", rest="- beta * ((new - ref).square() / 2).mean()"),
    },
}  # fmt: skip
