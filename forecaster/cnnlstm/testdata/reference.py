"""Literal values for the tests of this package, from an independent implementation: PyTorch in 64-bit floats.

Run with Debian's python3-torch: python3 reference.py > reference.json
Every input is drawn from a seed and rounded to four digits, so that the file says all there is to know.
"""
import json
import sys

import torch
from torch.nn import functional as F

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)


def draw(*shape, scale=1.0):
    t = torch.round(torch.randn(*shape) * scale * 1e4) / 1e4
    return t.requires_grad_()


def case(inputs, result):
    """The numbers of a function and the gradient of the sum of its result times weights that differ."""
    weigh = torch.round(torch.randn(result.shape) * 1e4) / 1e4
    (result * weigh).sum().backward()
    flat = lambda t: [float("%.9g" % v) for v in t.detach().flatten().tolist()]
    return {"inputs": [flat(t) for t in inputs], "result": flat(result), "weigh": flat(weigh), "gradients": [flat(t.grad) for t in inputs]}


def conv(x, w, b, kernel, stride, pad, rectify=True):
    """x: batch x steps x in, w: (kernel*in) x out, by place and then by channel."""
    filters = w.view(kernel, x.shape[2], -1).permute(2, 1, 0)
    y = F.conv1d(x.transpose(1, 2), filters, b, stride=stride, padding=pad).transpose(1, 2)
    return F.relu(y) if rectify else y


def lstm(x, w, u, b):
    """Gates in the order input, forget, cell, output, which is PyTorch's own."""
    zero = torch.zeros(1, x.shape[0], u.shape[0])
    h, _, _ = torch.lstm(x, (zero, zero), [w.t(), u.t(), b, torch.zeros_like(b)], True, 1, 0.0, False, False, True)
    return h[:, -1]


def quantiles(x, levels, median):
    """x: batch x (steps*levels)."""
    x = x.view(x.shape[0], -1, levels)
    mid, gap = x[..., median:median + 1], F.softplus(x)
    above = mid + torch.cumsum(gap[..., median + 1:], -1)
    below = mid - torch.flip(torch.cumsum(torch.flip(gap[..., :median], [-1]), -1), [-1])
    return torch.cat([below, mid, above], -1).flatten(1)


def pinball(q, y, there, levels):
    e = y[..., None] - q.view(*y.shape, -1)
    p = torch.tensor(levels)
    return (torch.maximum(p * e, (p - 1) * e) * there[..., None]).sum() / (there.sum() * len(levels))


out = {}
for name, (batch, steps, cin, cout, kernel, stride, pad) in {"conv, stride 1": (2, 7, 3, 4, 3, 1, 1), "conv, stride 2": (2, 8, 3, 5, 4, 2, 1)}.items():
    args = draw(batch, steps, cin), draw(kernel * cin, cout), draw(cout)
    out[name] = case(args, conv(*args, kernel, stride, pad))
args = draw(3, 4), draw(4, 2), draw(2)
out["dense"] = case(args, args[0] @ args[1] + args[2])
args = draw(3, 6, 4), draw(4, 20, scale=0.5), draw(5, 20, scale=0.5), draw(20)
out["lstm"] = case(args, lstm(*args))
args = (draw(2, 15, scale=2.0),)
out["quantiles"] = case(args, quantiles(*args, 5, 1))
levels = [0.1, 0.5, 0.9, 0.95, 0.99]
q, y, there = draw(2, 15), draw(2, 3), torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
loss = pinball(q, y, there, levels)
loss.backward()
flat = lambda t: [float("%.9g" % v) for v in t.detach().flatten().tolist()]
out["pinball"] = {"inputs": [flat(q), flat(y), flat(there)], "result": [loss.item()], "weigh": [1.0], "gradients": [flat(q.grad)]}


# The whole network. Weights come from a formula that the test repeats, because there are too many for a file.
def formula(index, *shape):
    n = torch.tensor(shape).prod().item()
    v = torch.sin(torch.arange(n) * 0.7 + index) * (1.5 / shape[0] ** 0.5 if len(shape) > 1 else 0.1)
    return v.float().double().view(*shape)


w = [formula(i, *s) for i, s in enumerate([(15, 32), (32,), (128, 64), (64,), (64, 256), (64, 256), (256,), (106, 128), (128,), (128, 60), (60,)])]
x = formula(20, 2, 60, 5) * 2 ** 0.5
context = formula(21, 2, 42) * 2 ** 0.5
h = lstm(conv(conv(x, w[0], w[1], 3, 1, 1), w[2], w[3], 4, 2, 1), w[4], w[5], w[6])
y = F.relu(torch.cat([h, context], 1) @ w[7] + w[8]) @ w[9] + w[10]
out["network"] = {"inputs": [], "result": flat(quantiles(y, 5, 1)), "weigh": [], "gradients": []}
json.dump(out, sys.stdout, indent=None, separators=(",", ":"))
print()
