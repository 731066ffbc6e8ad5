"""Triton programs of the convolution; :mod:`lsf.models.message_passing.triton.operators` states the formulas.

All walk through the paths (l1, l2, l3) in their order, l2 outermost and l3 innermost; bit l of ``DEGREES``
says whether features have degree l. ``n_rows``, ``n_entries``, ``n_paths`` and ``n_components`` are the
lengths of messages, couplings, weights and features.
"""

from __future__ import annotations

import triton
import triton.language as tl

_DEGREES_AT_MOST = tl.constexpr(8)


@triton.jit
def receive_program(
    features, couplings, radial, senders, order, starts, result,
    n_components, n_rows, n_entries, n_paths, n_channels,
    DEGREES: tl.constexpr, MAX_ELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the messages of one receiver, one path and one block of channels."""
    atom = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    first, last = tl.load(starts + atom), tl.load(starts + atom + 1)
    path, row, entry = 0, 0, 0
    for l2 in tl.static_range(MAX_ELL + 1):
        component = 0
        for l1 in tl.static_range(_DEGREES_AT_MOST):
            if (DEGREES >> l1) % 2 == 1:
                for l3 in tl.static_range(MAX_ELL + 1):
                    if (l1 + l2 + l3) % 2 == 0 and l3 <= l1 + l2 and l1 <= l2 + l3 and l2 <= l1 + l3:
                        if which == path:
                            _receive(
                                features + component * n_channels, couplings + entry,
                                radial + path * n_channels, senders, order, first, last,
                                result + (atom * n_rows + row) * n_channels,
                                n_components, n_entries, n_paths, n_channels,
                                channel, 2 * l1 + 1, 2 * l3 + 1, BLOCK,
                            )  # fmt: skip
                        path += 1
                        row += 2 * l3 + 1
                        entry += (2 * l1 + 1) * (2 * l3 + 1)
                component += 2 * l1 + 1


@triton.jit
def _receive(
    features, couplings, radial, senders, order, first, last, result,
    n_components, n_entries, n_paths, n_channels,
    channel, N1: tl.constexpr, N3: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    inside = channel < n_channels
    sums = ()
    for _ in tl.static_range(N3):
        sums = sums + (tl.zeros([BLOCK], result.dtype.element_ty),)
    for index in range(first, last):
        edge = tl.load(order + index)
        sender = tl.load(senders + edge)
        weight = tl.load(radial + edge * n_paths * n_channels + channel, inside, 0)
        weighted = ()
        for m1 in tl.static_range(N1):
            value = tl.load(features + (sender * n_components + m1) * n_channels + channel, inside, 0)
            weighted = weighted + (value * weight,)
        added = ()
        for m3 in tl.static_range(N3):
            total = sums[m3]
            for m1 in tl.static_range(N1):
                total += tl.load(couplings + edge * n_entries + m3 * N1 + m1) * weighted[m1]
            added = added + (total,)
        sums = added
    for m3 in tl.static_range(N3):
        tl.store(result + m3 * n_channels + channel, sums[m3], inside)


@triton.jit
def send_program(
    messages, couplings, radial, receivers, order, starts, result,
    n_components, n_rows, n_entries, n_paths, n_channels,
    DEGREES: tl.constexpr, MAX_ELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up what all receivers give back to one sender: one degree of it, one block of channels."""
    atom = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    first, last = tl.load(starts + atom), tl.load(starts + atom + 1)
    degree, component = 0, 0
    for l1 in tl.static_range(_DEGREES_AT_MOST):
        if (DEGREES >> l1) % 2 == 1:
            if which == degree:
                _send(
                    messages, couplings, radial, receivers, order, first, last,
                    result + (atom * n_components + component) * n_channels,
                    n_rows, n_entries, n_paths, n_channels, channel, l1, DEGREES, MAX_ELL, BLOCK,
                )  # fmt: skip
            degree += 1
            component += 2 * l1 + 1


@triton.jit
def _send(
    messages, couplings, radial, receivers, order, first, last, result,
    n_rows, n_entries, n_paths, n_channels, channel,
    L1: tl.constexpr, DEGREES: tl.constexpr, MAX_ELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    inside = channel < n_channels
    N1: tl.constexpr = 2 * L1 + 1
    sums = ()
    for _ in tl.static_range(N1):
        sums = sums + (tl.zeros([BLOCK], result.dtype.element_ty),)
    for index in range(first, last):
        edge = tl.load(order + index)
        receiver = tl.load(receivers + edge)
        path, row, entry = 0, 0, 0
        for l2 in tl.static_range(MAX_ELL + 1):
            for l1 in tl.static_range(_DEGREES_AT_MOST):
                if (DEGREES >> l1) % 2 == 1:
                    for l3 in tl.static_range(MAX_ELL + 1):
                        if (l1 + l2 + l3) % 2 == 0 and l3 <= l1 + l2 and l1 <= l2 + l3 and l2 <= l1 + l3:
                            if l1 == L1:
                                own = couplings + edge * n_entries + entry
                                back = ()
                                for _ in tl.static_range(N1):
                                    back = back + (tl.zeros([BLOCK], result.dtype.element_ty),)
                                for m3 in tl.static_range(2 * l3 + 1):
                                    at = (receiver * n_rows + row + m3) * n_channels
                                    value = tl.load(messages + at + channel, inside, 0)
                                    added = ()
                                    for m1 in tl.static_range(N1):
                                        added = added + (back[m1] + tl.load(own + m3 * N1 + m1) * value,)
                                    back = added
                                at = (edge * n_paths + path) * n_channels
                                weight = tl.load(radial + at + channel, inside, 0)
                                added = ()
                                for m1 in tl.static_range(N1):
                                    added = added + (sums[m1] + back[m1] * weight,)
                                sums = added
                            path += 1
                            row += 2 * l3 + 1
                            entry += (2 * l1 + 1) * (2 * l3 + 1)
    for m1 in tl.static_range(N1):
        tl.store(result + m1 * n_channels + channel, sums[m1], inside)


@triton.jit
def edges_program(
    features, couplings, radial, messages, senders, order, starts, by_couplings, by_radial,
    n_components, n_rows, n_entries, n_paths, n_channels,
    DEGREES: tl.constexpr, MAX_ELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write what all edges of one receiver give back to couplings and weights of one path; all channels."""
    atom = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    first, last = tl.load(starts + atom), tl.load(starts + atom + 1)
    path, row, entry = 0, 0, 0
    for l2 in tl.static_range(MAX_ELL + 1):
        component = 0
        for l1 in tl.static_range(_DEGREES_AT_MOST):
            if (DEGREES >> l1) % 2 == 1:
                for l3 in tl.static_range(MAX_ELL + 1):
                    if (l1 + l2 + l3) % 2 == 0 and l3 <= l1 + l2 and l1 <= l2 + l3 and l2 <= l1 + l3:
                        if which == path:
                            _edges(
                                features + component * n_channels, couplings + entry,
                                radial + path * n_channels, messages + (atom * n_rows + row) * n_channels,
                                senders, order, first, last,
                                by_couplings + entry, by_radial + path * n_channels,
                                n_components, n_entries, n_paths, n_channels,
                                channel, 2 * l1 + 1, 2 * l3 + 1,
                            )  # fmt: skip
                        path += 1
                        row += 2 * l3 + 1
                        entry += (2 * l1 + 1) * (2 * l3 + 1)
                component += 2 * l1 + 1


@triton.jit
def _edges(
    features, couplings, radial, messages, senders, order, first, last, by_couplings, by_radial,
    n_components, n_entries, n_paths, n_channels, channel, N1: tl.constexpr, N3: tl.constexpr,
):  # fmt: skip
    inside = channel < n_channels
    own = ()
    for m3 in tl.static_range(N3):
        own = own + (tl.load(messages + m3 * n_channels + channel, inside, 0),)
    for index in range(first, last):
        edge = tl.load(order + index)
        sender = tl.load(senders + edge)
        at = edge * n_paths * n_channels + channel
        weight = tl.load(radial + at, inside, 0)
        total = weight * 0.0
        for m1 in tl.static_range(N1):
            value = tl.load(features + (sender * n_components + m1) * n_channels + channel, inside, 0)
            weighted = value * weight
            back = weight * 0.0
            for m3 in tl.static_range(N3):
                place = edge * n_entries + m3 * N1 + m1
                back += tl.load(couplings + place) * own[m3]
                tl.store(by_couplings + place, tl.sum(weighted * own[m3], 0))
            total += back * value
        tl.store(by_radial + at, total, inside)
