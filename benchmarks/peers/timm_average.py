"""The mean as timm's `avg_checkpoints.py` makes it, which its package leaves out.

Its steps: every checkpoint through timm's own loader, sums in float64, clamped and rounded to
float32, and the sha256 of the written file.

    python timm_average.py OUTPUT CHECKPOINT...
"""

import hashlib
import sys
from pathlib import Path

import torch
from timm.models import load_state_dict

output, *paths = sys.argv[1:]
total = {}
for path in paths:
    for name, tensor in load_state_dict(path, use_ema=True).items():
        if name in total:
            total[name] += tensor.to(torch.float64)
        else:
            total[name] = tensor.clone().to(torch.float64)
limits = torch.finfo(torch.float32)
mean = {
    name: tensor.div_(len(paths)).clamp(limits.min, limits.max).to(torch.float32)
    for name, tensor in total.items()
}
torch.save(mean, output)
print(hashlib.sha256(Path(output).read_bytes()).hexdigest())
