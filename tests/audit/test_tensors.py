"""Functions of tensors: PyTorch's where it is installed, else of something that behaves alike."""

import numpy as np
import pytest

import mlp


class Tensor(np.lib.mixins.NDArrayOperatorsMixin):
    """What the audit uses of a tensor, and what the functions below do."""

    def __init__(self, values, dtype=np.float32):
        self.values = np.array(values, dtype=dtype)
        self.dtype = f"torch.{self.values.dtype}"
        self.requires_grad = False

    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)
    T = property(lambda self: Tensor(self.values.T, self.values.dtype))

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        assert not any(isinstance(each, np.ndarray) for each in inputs), "an array among tensors"
        inputs = [each.values if isinstance(each, Tensor) else each for each in inputs]
        made = getattr(ufunc, method)(*inputs, **named)
        return Tensor(made, made.dtype)

    def __len__(self):
        return len(self.values)

    def sum(self, dim=None):
        made = self.values.sum(axis=dim)
        return Tensor(made, made.dtype)

    def tanh(self):
        return np.tanh(self)

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.values

    def double(self):
        return Tensor(self.values, np.float64)

    def new_tensor(self, values):
        return Tensor(values, self.values.dtype)

    def reshape(self, shape):
        return Tensor(self.values.reshape(shape), self.values.dtype)


def functions(derivative):
    def loss(params, X, y):
        (W1, b1), (W2, b2) = params
        return ((((X @ W1 + b1).tanh() @ W2 + b2) - y) ** 2).sum() / len(y)

    def gradient(params, X, y):
        (W1, b1), (W2, b2) = params
        a = (X @ W1 + b1).tanh()
        delta2 = (a @ W2 + b2 - y) * 2 / len(y)
        delta1 = (delta2 @ W2.T) * derivative(a)
        return [(X.T @ delta1, delta1.sum(0)), (a.T @ delta2, delta2.sum(0))]

    return loss, gradient


def torch_tensor(values):
    return pytest.importorskip("torch").tensor(values)


@pytest.mark.parametrize("tensor", [Tensor, torch_tensor], ids=["stand-in", "torch"])
def test_tensors_in_and_out(tensor):
    def zeros(*shape):
        return tensor(np.zeros(shape, dtype=np.float32))

    params = [(zeros(4, 3), zeros(3)), (zeros(3, 2), zeros(2))]
    X, y = zeros(6, 4) + 0.5, zeros(6, 2) - 0.5
    assert mlp.audit_gradient(*functions(lambda a: 1 - a**2), params, X, y) == ()
    [flaw] = mlp.audit_gradient(*functions(lambda a: 1 - a), params, X, y)
    assert flaw.kind == "factor lost"
    assert flaw.layers == (1,)
