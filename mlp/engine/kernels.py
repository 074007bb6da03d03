"""The arithmetic of the population engine, one block of rows at a time.

Every sum here is a fixed sequence of operations that depends on the trial and the data alone,
never on what stands in the neighbouring columns: that is what makes a trial's bits the same in
every population. Two layouts alternate. In the first layer, lanes are columns (hidden units of
all trials side by side) and the non-zero pixels of a row are summed one after another. Above it,
lanes are rows, so that a network of any width fills its vectors.

exp, log1p, sigmoid and tanh on vectors are such fixed sequences, too, the same in every lane. The
library functions of a scalar loop would cost more than all products of a small network, and
differ from one C library to the next.
"""

from math import log

from mlp.engine.handle import inner, woven
from mlp.engine.simd import (
    NARROW,
    WIDE,
    at,
    atanh_series,
    expm1_series,
    fma,
    lanes,
    like,
    ln2_high,
    ln2_low,
    load,
    lowest_exponent,
    magnitude,
    meet,
    power_of_two,
    rank,
    rounding_shift,
    spread,
    store,
    store_sums,
    team_size,
    transpose,
    where_less,
    widen_sum,
    zeros,
)
from mlp.engine.sparse import BLOCK

_LOG2_E = 1 / log(2)

# One cache line more than a block: rows of equal place in neighbouring units must not fall into
# the same set of the cache.
ROW = BLOCK + 16

SIGMOID, TANH, RELU = range(3)
EXACT, QUESTION = range(2)

# A unit within a hundredth of the end of its range hardly learns: its derivative is below 4 % (of
# the sigmoid) or 2 % (of tanh) of what it is at most.
SATURATED = 0.01


@woven
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


@woven
def exp(x):
    """The exponential for x <= 0."""
    q, s = scaled_expm1(x)
    return fma(q, s, s)


@woven
def log1p(x):
    """The logarithm of 1 + x for 0 <= x <= 1, as 2 artanh(x / (2 + x))."""
    s = x / (like(x, 2.0) + x)
    square = s * s
    return like(x, 2.0) * fma(s * square, atanh_series(square), s)


@woven
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    one = like(x, 1.0)
    e = exp(like(x, 0.0) - magnitude(x))
    upper = one / (one + e)
    return where_less(x, like(x, 0.0), e * upper, upper)


@woven
def tanh(x):
    """-(exp(-2|x|) - 1) / (exp(-2|x|) + 1) with the sign of x, exact also near zero."""
    zero, one = like(x, 0.0), like(x, 1.0)
    q, s = scaled_expm1(like(x, -2.0) * magnitude(x))
    m = fma(q, s, s - one)
    t = (zero - m) / (like(x, 2.0) + m)
    return where_less(x, zero, zero - t, t)


def _pixel_passes(span):
    """The two passes over the pixels for tiles of `span` bytes, which the compiler must know."""

    @woven
    def add_products(even, feature, value, index, entry, end, matrix, m0):
        """The sum over entries of feature[value] * matrix[index, :], and even; as two chains."""
        tile = lanes(matrix, span)
        odd = zeros(matrix, span)
        while entry + 1 < end:
            x = spread(feature, at(value, entry), span)
            even = fma(x, load(matrix, m0 + at(index, entry) * tile, span), even)
            x = spread(feature, at(value, entry + 1), span)
            odd = fma(x, load(matrix, m0 + at(index, entry + 1) * tile, span), odd)
            entry += 2
        if entry < end:
            x = spread(feature, at(value, entry), span)
            even = fma(x, load(matrix, m0 + at(index, entry) * tile, span), even)
        return even + odd

    @inner
    def forward(source, feature, weights, w0, first, n_rows, target):
        """target[row, :] = sum over the row's pixels of feature * weights[pixel, :]."""
        tile = lanes(weights, span)
        order, start, pixel, value = source.order, source.start, source.pixel, source.value
        for r in range(n_rows):
            i = at(order, first + r)
            begin, end, none = at(start, i), at(start, i + 1), zeros(feature, span)
            total = add_products(none, feature, value, pixel, begin, end, weights, w0)
            store(target, r * tile, total)

    @inner
    def backward(source, feature, block, n_pixels, pixels, delta, gradient, g0, is_first):
        """gradient[pixel, :] (+)= sum over the block's rows of feature * delta[row, :].

        Args:
            pixels: the first and the end of those to do.
        """
        tile = lanes(delta, span)
        start, row, value = source.pixel_start, source.row, source.row_value
        for pixel in range(pixels[0], pixels[1]):
            place = block * n_pixels + pixel
            begin, end = at(start, place), at(start, place + 1)
            place = g0 + pixel * tile
            before = zeros(gradient, span) if is_first else load(gradient, place, span)
            total = add_products(before, feature, value, row, begin, end, delta, 0)
            store(gradient, place, total)

    return forward, backward


# Few columns leave half of a wide tile empty; both do the same operations in every column.
forward_wide, backward_wide = _pixel_passes(WIDE)
forward_narrow, backward_narrow = _pixel_passes(NARROW)


@inner
def transpose_all(source, s0, s_stride, n_rows, n_columns, target, t0, t_stride):
    """target[column, row] = source[row, column], in squares."""
    square = lanes(source, NARROW)
    for row in range(0, n_rows, square):
        for column in range(0, n_columns, square):
            place, to = s0 + row * s_stride + column, t0 + column * t_stride + row
            transpose(source, place, s_stride, target, to, t_stride)


@woven
def others(i, n):
    """The three indices after i, none above n - 1."""
    return min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)


@inner
def mix(weights, w0, by_output, by_input, n_inputs, source, s0, n_outputs, target, t0, n_rows):
    """target[o, row] = sum over i of weights[o * by_output + i * by_input] * source[i, row].

    Four outputs at a time share the loads; the last ones are computed again where the number of
    outputs is no multiple of four, which writes the same numbers twice.
    """
    tile = lanes(source, WIDE)
    zero = zeros(source, WIDE)
    for row in range(0, n_rows, tile):
        for o in range(0, n_outputs, 4):
            o1, o2, o3 = others(o, n_outputs)
            p0, p1 = w0 + o * by_output, w0 + o1 * by_output
            p2, p3 = w0 + o2 * by_output, w0 + o3 * by_output
            a0, a1, a2, a3 = zero, zero, zero, zero
            place = s0 + row
            for _ in range(n_inputs):
                x = load(source, place, WIDE)
                a0 = fma(spread(weights, p0, WIDE), x, a0)
                a1 = fma(spread(weights, p1, WIDE), x, a1)
                a2 = fma(spread(weights, p2, WIDE), x, a2)
                a3 = fma(spread(weights, p3, WIDE), x, a3)
                p0 += by_input
                p1 += by_input
                p2 += by_input
                p3 += by_input
                place += ROW
            store(target, t0 + o * ROW + row, a0)
            store(target, t0 + o1 * ROW + row, a1)
            store(target, t0 + o2 * ROW + row, a2)
            store(target, t0 + o3 * ROW + row, a3)


@inner
def correlate(a, a0, n_a, d, d0, n_d, n_rows, gradient, g0):
    """gradient[i, j] += sum over the rows of a[i, row] * d[j, row], in squares of four by four.

    The first 16 numbers of `a` are overwritten.
    """
    step = lanes(a, NARROW)
    zero = zeros(a, NARROW)
    for i in range(0, n_a, 4):
        i1, i2, i3 = others(i, n_a)
        for j in range(0, n_d, 4):
            j1, j2, j3 = others(j, n_d)
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for row in range(0, n_rows, step):
                x0 = load(d, d0 + j * ROW + row, NARROW)
                x1 = load(d, d0 + j1 * ROW + row, NARROW)
                x2 = load(d, d0 + j2 * ROW + row, NARROW)
                x3 = load(d, d0 + j3 * ROW + row, NARROW)
                y = load(a, a0 + i * ROW + row, NARROW)
                s00, s01 = fma(y, x0, s00), fma(y, x1, s01)
                s02, s03 = fma(y, x2, s02), fma(y, x3, s03)
                y = load(a, a0 + i1 * ROW + row, NARROW)
                s10, s11 = fma(y, x0, s10), fma(y, x1, s11)
                s12, s13 = fma(y, x2, s12), fma(y, x3, s13)
                y = load(a, a0 + i2 * ROW + row, NARROW)
                s20, s21 = fma(y, x0, s20), fma(y, x1, s21)
                s22, s23 = fma(y, x2, s22), fma(y, x3, s23)
                y = load(a, a0 + i3 * ROW + row, NARROW)
                s30, s31 = fma(y, x0, s30), fma(y, x1, s31)
                s32, s33 = fma(y, x2, s32), fma(y, x3, s33)
            rows = (s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33)
            store_sums(a, 0, rows)
            if rank() == 0:
                for u in range(min(4, n_a - i)):
                    for v in range(min(4, n_d - j)):
                        gradient[g0 + (i + u) * n_d + j + v] += a[4 * u + v]


@inner
def activate(activation, n_units, n_rows, source, s0, target, t0):
    """Writes each unit's activation, and after the last a unit that is one in every row."""
    tile = lanes(source, WIDE)
    for unit in range(n_units):
        s, t = s0 + unit * ROW, t0 + unit * ROW
        for row in range(0, n_rows, tile):
            x = load(source, s + row, WIDE)
            if activation == SIGMOID:
                store(target, t + row, sigmoid(x))
            elif activation == TANH:
                store(target, t + row, tanh(x))
            else:
                store(target, t + row, where_less(x, like(x, 0.0), like(x, 0.0), x))
    t = t0 + n_units * ROW
    for row in range(0, n_rows, tile):
        store(target, t + row, like(zeros(source, WIDE), 1.0))


@inner
def differentiate(activation, derivative, n_units, n_rows, output, o0, delta, d0):
    """Multiplies delta by the activation's derivative, taken from its output."""
    tile = lanes(output, WIDE)
    for unit in range(n_units):
        o, d = o0 + unit * ROW, d0 + unit * ROW
        for row in range(0, n_rows, tile):
            a, x = load(output, o + row, WIDE), load(delta, d + row, WIDE)
            zero, one = like(a, 0.0), like(a, 1.0)
            if derivative == QUESTION:
                store(delta, d + row, x * (one - sigmoid(a)))
            elif activation == SIGMOID:
                store(delta, d + row, x * (a * (one - a)))
            elif activation == TANH:
                store(delta, d + row, x * (one - a * a))
            else:
                store(delta, d + row, x * where_less(zero, a, one, zero))


@woven
def clear_lanes(totals):
    """Sets the sums of all lanes to zero."""
    meet()
    for lane in range(rank(), len(totals), team_size()):
        totals[lane] = 0


@woven
def add_lanes(totals, first, n_lanes):
    """The sums of some lanes, added in their order."""
    meet()
    total = 0.0
    for lane in range(first, first + n_lanes):
        total += totals[lane]
    return total


@inner
def count_idle(activation, side, side0, n_rows, output, o0, totals):
    """In how many rows of a block a unit's derivative is gone: zero (relu) or saturated.

    Args:
        side: 0 for a row without an example, as in `judge_rows`.
        output: the unit's activations, from o0 on.
        totals: float64, a number for each lane at least; overwritten.
    """
    tile = lanes(output, WIDE)
    count = zeros(output, WIDE)
    for row in range(0, n_rows, tile):
        a, is_row = load(output, o0 + row, WIDE), magnitude(load(side, side0 + row, WIDE))
        zero, one = like(a, 0.0), like(a, 1.0)
        if activation == SIGMOID:
            left = a * (one - a) - like(a, SATURATED * (1 - SATURATED))
        elif activation == TANH:
            left = like(a, 1 - SATURATED) - magnitude(a)
        else:
            left = a
        count = count + where_less(zero, left, zero, is_row)
    clear_lanes(totals)
    widen_sum(totals, 0, count)
    return add_lanes(totals, 0, tile)


@inner
def judge_rows(side, side0, n_rows, logit, l0, totals):
    """Losses, hits and the loss's derivative from the difference of the two logits.

    With u = side * logit the loss is log(1 + exp(u)) and its derivative side / (1 + exp(-u)). A
    row without an example has side 0 and counts for nothing. Two equal logits name class 0, as
    argmax does.

    Args:
        side: 1 for label 0, -1 for label 1, 0 for none.
        side0: the first row's place.
        n_rows: how many rows, a multiple of the lanes.
        logit: from l0 on it holds logit 1 minus logit 0, and receives the derivative by it.
        l0: see logit.
        totals: float64, two numbers for each lane; overwritten.

    Returns:
        The sum of the losses, and how many rows were told right.
    """
    tile = lanes(logit, WIDE)
    clear_lanes(totals)
    for row in range(0, n_rows, tile):
        s, z = load(side, side0 + row, WIDE), load(logit, l0 + row, WIDE)
        zero, one = like(z, 0.0), like(z, 1.0)
        u = s * z
        e = exp(zero - magnitude(u))
        loss = where_less(zero, u, u, zero) + log1p(e)
        upper = one / (one + e)
        store(logit, l0 + row, s * where_less(u, zero, e * upper, upper))
        is_row = magnitude(s)
        widen_sum(totals, 0, where_less(zero, is_row, loss, zero))
        says_one = where_less(zero, z, one, zero)
        is_one = where_less(s, zero, one, zero)
        widen_sum(totals, tile, where_less(zero, magnitude(says_one - is_one), zero, is_row))
    return add_lanes(totals, 0, tile), add_lanes(totals, tile, tile)
