"""Planted bugs of kernels/: what is fast must be the same."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="entropy-gradient-at-temperature-1",
        file="kernels/softmax.py",
        old="entropy_grad = entropy_grad_C[rows, None] / ctx.temperature",
        new="entropy_grad = entropy_grad_C[rows, None]",
        story="With an entropy bonus and a temperature the bonus has another weight than was asked for.",
        tests=("core/test_logprobs.py",),
    ),
    Mutant(
        name="second-block-reads-the-first-targets",
        file="kernels/softmax.py",
        old="top_C[rows] = x.gather(1, target_C[rows, None])[:, 0] >= highest[:, 0]",
        new="top_C[rows] = x.gather(1, target_C[: len(x), None])[:, 0] >= highest[:, 0]",
        story="Token accuracy of a real vocabulary is near 0, since only the first block of rows has its own targets.",
        tests=("core/test_logprobs.py",),
    ),
    Mutant(
        name="norm-gradient-without-epsilon",
        file="kernels/norm.py",
        old="ctx.save_for_backward(x_TH, weight_H, r_T1)",
        new="ctx.save_for_backward(x_TH, weight_H, torch.linalg.vector_norm(x_TH, dim=-1, keepdim=True)"
        ".square().div(x_TH.shape[-1]).rsqrt())",
        story="Gradients are too large where hidden states are as small as the norm's epsilon.",
        tests=("kernels/test_norm_and_rotary.py",),
    ),
    Mutant(
        name="siblings-see-each-other-in-a-joint-segment",
        file="kernels/packed_attention.py",
        old="mask_QK[at + length : end, at : at + length] = -torch.inf",
        new="mask_QK[at + length : at + 2 * length, at : at + length] = -torch.inf",
        story="Of three answers to a prompt the third reads a part of the first.",
        tests=("kernels/test_packed_attention.py",),
    ),
    Mutant(
        name="late-answers-to-a-long-prompt-see-each-other",
        file="kernels/packed_attention.py",
        old="mask_QK = torch.cat([torch.zeros(sum(group), trunk), _causal(group)], 1)",
        new="mask_QK = torch.cat([torch.zeros(sum(group), trunk), _causal([sum(group)])], 1)",
        story="Of many answers to a long prompt the later ones of a group read the earlier ones.",
        tests=("kernels/test_packed_attention.py",),
    ),
    Mutant(
        name="a-row-group-that-ends-too-early",
        file="kernels/ragged_attention.py",
        old="group.last, group.span = last, joint",
        new="group.last = last",
        story="Sampling forgets the last tokens of a longer row that joins a group of shorter ones.",
        tests=("engines/test_local_generator.py",),
    ),
    Mutant(
        name="padding-is-learnt",
        file="kernels/weight_gradients.py",
        old="grad_RH = grad_RH.masked_fill((ids_R == ctx.padding)[:, None], 0.0)",
        new="pass",
        story="The embedding of the padding token moves, which plain PyTorch keeps at rest.",
        tests=("kernels/test_weight_gradients.py",),
    ),
    Mutant(
        name="a-part-that-only-looks-narrowed",
        file="kernels/last_layer.py",
        old="return close(narrowed[read_N], whole[read_N]) and not close(narrowed[unread_N], whole[unread_N])",
        new="return close(narrowed[read_N], whole[read_N])",
        story="A part whose name fits but which computes every position anyway is taken for narrowed.",
        tests=("kernels/test_last_layer.py",),
    ),
)
