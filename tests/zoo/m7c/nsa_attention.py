"""Sparse attention as the M7C run had it: the selected branch goes over positions in Python."""

import math

import torch
from torch import nn
from torch.nn import functional


class SelectedAttention(nn.Module):
    """Each query attends to the blocks of keys that score highest."""

    def __init__(self, dim, heads, groups, block, top):
        super().__init__()
        self.heads, self.groups, self.block, self.top = heads, groups, block, top
        self.head_dim = dim // heads
        self.queries = nn.Linear(dim, dim)
        self.keys_values = nn.Linear(dim, 2 * groups * self.head_dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        batch, length, dim = x.shape
        queries = self.queries(x).view(batch, length, self.heads, self.head_dim)
        keys, values = self.keys_values(x).view(batch, length, self.groups, -1).chunk(2, dim=-1)
        return self.out(self.select(queries, keys, values).reshape(batch, length, dim))

    def select(self, queries, keys, values):
        batch, length = queries.shape[:2]
        found = []
        for position in range(length):
            rows = []
            for sequence in range(batch):
                for group in range(self.groups):
                    ranges = self.ranges(queries[sequence, position], keys[sequence, :, group], group)
                    index = []
                    for start, end in ranges.tolist():
                        index.append(torch.arange(start, end))
                    chosen = torch.unique(torch.cat(index))
                    rows.append(
                        self.attend(
                            queries[sequence, position].view(self.groups, -1, self.head_dim)[group],
                            keys[sequence, :, group],
                            values[sequence, :, group],
                            chosen,
                        )
                    )
            found.append(torch.stack(rows).view(batch, -1))
        return torch.stack(found, dim=1)

    def ranges(self, query, keys, group):
        """The best blocks for one query, as (start, end), by the weight that its heads give them."""
        per_group = self.heads // self.groups
        weights = {}
        for head in range(group * per_group, (group + 1) * per_group):
            for at, score in enumerate((keys @ query[head]).tolist()):
                block = at // self.block
                weights[block] = weights.get(block, 0.0) + math.exp(min(score, 50.0))
        best = sorted(weights, key=weights.get, reverse=True)[: self.top]
        return torch.tensor([(block * self.block, (block + 1) * self.block) for block in best])

    def attend(self, queries, keys, values, chosen):
        """One query's heads of one group over the keys that were chosen for it."""
        chosen = chosen[chosen < len(keys)]
        return functional.softmax(queries @ keys[chosen].T, dim=-1) @ values[chosen]
