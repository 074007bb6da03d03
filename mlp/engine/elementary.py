"""exp, log1p, sigmoid and tanh on vectors: one fixed sequence of operations in every lane.

The library functions of a scalar loop would cost more than all products of a small network, and
differ from one C library to the next.
"""

from math import log

from numba import njit

from mlp.engine.simd import (
    atanh_series,
    expm1_series,
    fma,
    like,
    ln2_high,
    ln2_low,
    lowest_exponent,
    magnitude,
    power_of_two,
    rounding_shift,
    where_less,
)

_LOG2_E = 1 / log(2)


@njit(nogil=True)
def scaled_expm1(x):
    """For x <= 0: (q, s) with exp(x) = s (1 + q).

    x = n ln 2 + r with |r| <= ln(2) / 2 (Cody and Waite's reduction), s = 2^n, and q is Taylor's
    series of exp(r) - 1. Arguments whose exponential is no normal number count as the lowest one
    that has one.
    """
    x = where_less(x, lowest_exponent(x), lowest_exponent(x), x)
    shifted = fma(x, like(x, _LOG2_E), rounding_shift(x))
    n = rounding_shift(x) - shifted
    r = fma(n, ln2_low(x), fma(n, ln2_high(x), x))
    return fma(r * r, expm1_series(r), r), power_of_two(shifted)


@njit(nogil=True)
def exp(x):
    """The exponential for x <= 0."""
    q, s = scaled_expm1(x)
    return fma(q, s, s)


@njit(nogil=True)
def log1p(x):
    """The logarithm of 1 + x for 0 <= x <= 1, as 2 artanh(x / (2 + x))."""
    s = x / (like(x, 2.0) + x)
    square = s * s
    return like(x, 2.0) * fma(s * square, atanh_series(square), s)


@njit(nogil=True)
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    one = like(x, 1.0)
    e = exp(like(x, 0.0) - magnitude(x))
    upper = one / (one + e)
    return where_less(x, like(x, 0.0), e * upper, upper)


@njit(nogil=True)
def tanh(x):
    """-(exp(-2|x|) - 1) / (exp(-2|x|) + 1) with the sign of x, exact also near zero."""
    zero, one = like(x, 0.0), like(x, 1.0)
    q, s = scaled_expm1(like(x, -2.0) * magnitude(x))
    m = fma(q, s, s - one)
    t = (zero - m) / (like(x, 2.0) + m)
    return where_less(x, zero, zero - t, t)
