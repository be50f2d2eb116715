"""The uniform soup as the script of the paper makes it: state dicts loaded and added in turn.

python official_loop.py OUTPUT CHECKPOINT...
"""

import sys

import torch

output, *paths = sys.argv[1:]
soup = {}
for i, path in enumerate(paths):
    state = torch.load(path, map_location="cpu")
    for name, tensor in state.items():
        share = tensor * (1.0 / len(paths))
        soup[name] = share if i == 0 else soup[name] + share
torch.save(soup, output)
