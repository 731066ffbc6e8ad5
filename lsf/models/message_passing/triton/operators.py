r"""The convolution as three torch operators of Triton programs, closed under differentiation.

With couplings :math:`T_e^{p m_3 m_1} = \sum_{m_2} C^p_{m_3 m_1 m_2} Y_e^{m_2}`, weights R, features h of
senders s(e) and messages g of receivers r(e), all follow from one form that is linear in each of the four,

.. math:: Q = \sum_e \sum_p \sum_{m_3 m_1 c} T_e^{p m_3 m_1} R_e^{pc}\, h_{s(e)}^{m_1 c}\, g_{r(e)}^{p m_3 c}

``receive``  :math:`\partial Q / \partial g`, the messages: sums over the edges of a receiver

``send``     :math:`\partial Q / \partial h`: sums over the edges of a sender, without atomic additions

``edges``    :math:`\partial Q / \partial T` and :math:`\partial Q / \partial R`, edge by edge

A derivative of one of them is another one with an argument replaced by a cotangent, to any order. One program
takes one atom, one path (one degree in ``send``) and one block of channels. Not measured on a GPU yet.

=========  ==========================================================================================
array      layout
=========  ==========================================================================================
features   (n_atoms, n_components, n_channels)
couplings  (n_edges, Σ_paths (2 l3 + 1) (2 l1 + 1)), T
radial     (n_edges, n_paths · n_channels), R
messages   (n_atoms, Σ_paths (2 l3 + 1), n_channels)
tables     senders, receivers (n_edges,); edges by receiver, starts; edges by sender, starts; int64
shape      bit l set where features have degree l; highest degree of harmonics; components, rows, paths
=========  ==========================================================================================
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from lsf.electrostatics.gpu.launch import kernel_operator, wrap_triton
from lsf.models.convolution import ConvolutionPaths
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.message_passing.triton.programs import edges_program, receive_program, send_program

BLOCK: Final = 64
"""Channels of a program at most, where not all have to be in one."""


def shape_of(convolution: ConvolutionPaths) -> list[int]:
    """Return what programs must know of a convolution."""
    inputs, paths = convolution.inputs, convolution.paths
    degrees = sum(1 << degree for degree in inputs.degrees)
    return [degrees, convolution.max_ell, inputs.dim, sum(convolution.rows), len(paths)]


def tables_of(neighborhood: Neighborhood) -> list[Tensor]:
    """Return the tables of a batch."""
    edge_index = neighborhood.edges.edge_index
    return [edge_index[0], edge_index[1], *neighborhood.by_receiver, *neighborhood.by_sender]


def _channels_per_block(n_channels: int) -> int:
    """Return a power of two that holds all channels, or as many of them as a program takes."""
    return min(BLOCK, _power_of_two(n_channels))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _sizes(couplings: Tensor, shape: list[int], n_channels: int) -> tuple[int, ...]:
    """Return components, rows, entries, paths and channels, as programs take them."""
    return shape[2], shape[3], couplings.shape[1], shape[4], n_channels


def _fake_receive(
    features: Tensor, _couplings: Tensor, _radial: Tensor, _tables: list[Tensor], shape: list[int]
) -> Tensor:
    return features.new_empty(features.shape[0], shape[3], features.shape[2])


def _fake_send(
    messages: Tensor, _couplings: Tensor, _radial: Tensor, _tables: list[Tensor], shape: list[int]
) -> Tensor:
    return messages.new_empty(messages.shape[0], shape[2], messages.shape[2])


def _fake_edges(_features: Tensor, couplings: Tensor, radial: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return couplings.new_empty(couplings.shape), radial.new_empty(radial.shape)


@kernel_operator("convolution_receive", _fake_receive)
def receive(
    features: Tensor, couplings: Tensor, radial: Tensor, tables: list[Tensor], shape: list[int]
) -> Tensor:
    """Return the messages summed by receiver."""
    n_atoms, _, n_channels = features.shape
    result = features.new_empty(n_atoms, shape[3], n_channels)
    block = _channels_per_block(n_channels)
    wrap_triton(receive_program)[(n_atoms, shape[4], (n_channels + block - 1) // block)](
        features.contiguous(), couplings.contiguous(), radial.contiguous(),
        tables[0].contiguous(), tables[2], tables[3], result, *_sizes(couplings, shape, n_channels),
        DEGREES=shape[0], MAX_ELL=shape[1], BLOCK=block, num_warps=1,
    )  # fmt: skip
    return result


@kernel_operator("convolution_send", _fake_send)
def send(
    messages: Tensor, couplings: Tensor, radial: Tensor, tables: list[Tensor], shape: list[int]
) -> Tensor:
    """Return the transpose of :func:`receive`, summed by sender."""
    n_atoms, _, n_channels = messages.shape
    result = messages.new_empty(n_atoms, shape[2], n_channels)
    block = _channels_per_block(n_channels)
    wrap_triton(send_program)[(n_atoms, shape[0].bit_count(), (n_channels + block - 1) // block)](
        messages.contiguous(), couplings.contiguous(), radial.contiguous(),
        tables[1].contiguous(), tables[4], tables[5], result, *_sizes(couplings, shape, n_channels),
        DEGREES=shape[0], MAX_ELL=shape[1], BLOCK=block, num_warps=1,
    )  # fmt: skip
    return result


@kernel_operator("convolution_edges", _fake_edges)
def edges(
    features: Tensor,
    couplings: Tensor,
    radial: Tensor,
    messages: Tensor,
    tables: list[Tensor],
    shape: list[int],
) -> tuple[Tensor, Tensor]:
    """Return what every edge gives back to its couplings and to its weights."""
    n_atoms, _, n_channels = features.shape
    by_couplings, by_radial = couplings.new_empty(couplings.shape), radial.new_empty(radial.shape)
    block = _power_of_two(n_channels)
    wrap_triton(edges_program)[(n_atoms, shape[4])](
        features.contiguous(), couplings.contiguous(), radial.contiguous(), messages.contiguous(),
        tables[0].contiguous(), tables[2], tables[3], by_couplings, by_radial,
        *_sizes(couplings, shape, n_channels),
        DEGREES=shape[0], MAX_ELL=shape[1], BLOCK=block, num_warps=max(1, min(8, block // 64)),
    )  # fmt: skip
    return by_couplings, by_radial


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - torch passes it
    *tensors, tables, shape = inputs
    ctx.save_for_backward(*tensors, *tables)
    ctx.shape = shape


def _receive_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    features, couplings, radial, *tables = ctx.saved_tensors
    by_features = by_couplings = by_radial = None
    if ctx.needs_input_grad[0]:
        by_features = send(gradient, couplings, radial, tables, ctx.shape)
    if any(ctx.needs_input_grad[1:3]):
        by_couplings, by_radial = edges(features, couplings, radial, gradient, tables, ctx.shape)
    return by_features, by_couplings, by_radial, [None] * len(tables), None


def _send_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    messages, couplings, radial, *tables = ctx.saved_tensors
    by_messages = by_couplings = by_radial = None
    if ctx.needs_input_grad[0]:
        by_messages = receive(gradient, couplings, radial, tables, ctx.shape)
    if any(ctx.needs_input_grad[1:3]):
        by_couplings, by_radial = edges(gradient, couplings, radial, messages, tables, ctx.shape)
    return by_messages, by_couplings, by_radial, [None] * len(tables), None


def _edges_backward(ctx: Any, of_couplings: Tensor, of_radial: Tensor) -> tuple[Any, ...]:
    features, couplings, radial, messages, *tables = ctx.saved_tensors
    by_features = by_couplings = by_radial = by_messages = None
    if ctx.needs_input_grad[0]:
        by_features = send(messages, couplings, of_radial, tables, ctx.shape)
        by_features = by_features + send(messages, of_couplings, radial, tables, ctx.shape)
    if any(ctx.needs_input_grad[1:3]):
        # the gradient of one goes through the cotangent of the other
        by_couplings, by_radial = edges(features, of_couplings, of_radial, messages, tables, ctx.shape)
    if ctx.needs_input_grad[3]:
        by_messages = receive(features, couplings, of_radial, tables, ctx.shape)
        by_messages = by_messages + receive(features, of_couplings, radial, tables, ctx.shape)
    return by_features, by_couplings, by_radial, by_messages, [None] * len(tables), None


receive.register_autograd(_receive_backward, setup_context=_save)
send.register_autograd(_send_backward, setup_context=_save)
edges.register_autograd(_edges_backward, setup_context=_save)
