"""The same in PyTorch: python examples/guard_pytorch.py. On batches of 128."""

import copy

import torch

import mlp

torch.manual_seed(0)
X = torch.randn(2000, 20)
y = (X @ torch.randn(20) > 0).long()
model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
guard, best = mlp.Guard(batch_size=128), copy.deepcopy(model.state_dict())
for _ in range(600):
    rows = torch.randint(len(X), (128,))
    loss = torch.nn.functional.cross_entropy(model(X[rows]), y[rows])
    action = guard.observe(loss.item())
    if action.is_best:
        best = copy.deepcopy(model.state_dict())
    if action.name == "restore":
        print(action.why)
        model.load_state_dict(best)
        optimizer.state.clear()  # momentum would carry the swing on
        for group in optimizer.param_groups:
            group["lr"] *= action.factor
        continue
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {torch.nn.functional.cross_entropy(model(X), y).item():.4g}")
