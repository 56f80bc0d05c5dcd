"""Records DeiT's losses in torch: tests/golden/distillation_torch.npz. Needs torch.

python tests/reference/record_distillation_torch.py

The two formulas are those of facebookresearch/deit, losses.py: KLDivLoss with log targets, summed,
times T^2 over the number of ALL logits; cross entropy with the teacher's argmax. The first is also
recorded with torch's own reduction 'batchmean'. Base: soft-target cross entropy of smoothed labels.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

B, K, SMOOTHING = 6, 10, 0.1
generator = torch.Generator().manual_seed(0)
student = 3 * torch.randn(B, K, generator=generator)
teacher = 3 * torch.randn(B, K, generator=generator)
labels = torch.arange(B)
arrays = {"student": student, "teacher": teacher}
for T in (1.0, 3.0):
    logs = F.log_softmax(student / T, dim=1), F.log_softmax(teacher / T, dim=1)
    total = F.kl_div(*logs, reduction="sum", log_target=True)
    arrays[f"official_{T:g}"] = total * (T * T) / student.numel()
    arrays[f"batchmean_{T:g}"] = F.kl_div(*logs, reduction="batchmean", log_target=True) * T * T
arrays["hard"] = F.cross_entropy(student, teacher.argmax(dim=1))
targets = torch.full((B, K), SMOOTHING / K)
targets[torch.arange(B), labels] += 1 - SMOOTHING
arrays["base"] = torch.sum(-targets * F.log_softmax(student, dim=-1), dim=-1).mean()
path = Path(__file__).parents[1] / "golden" / "distillation_torch.npz"
np.savez_compressed(path, **{name: np.asarray(value) for name, value in arrays.items()})
