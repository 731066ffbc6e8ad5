"""A second device where there is none: tensors that say they are elsewhere, and refuse to meet others."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

PLACE = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that says it is on :data:`PLACE`."""

    def __new__(cls, here):
        """Wrap a tensor."""
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=0, dtype=here.dtype, device=PLACE
        )

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Compute inside of :class:`SecondDevice` alone."""
        raise RuntimeError(f"{func} outside of SecondDevice")


class SecondDevice(TorchDispatchMode):
    """Computes with both kinds of tensors; an operation on tensors of both is an error, as on a GPU.

    TorchScript loses the message of an error: ``refused`` are the operations.
    """

    def __init__(self):
        super().__init__()
        self.refused = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do one operation."""
        kwargs = dict(kwargs or {})
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        there = [value for value in given if isinstance(value, Elsewhere)]
        # numbers may be anywhere
        here = [value for value in given if not isinstance(value, Elsewhere) and value.dim() > 0]
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if there and here and not copies:
            self.refused.append(str(func))
            raise RuntimeError(f"{func}: tensors on two devices")
        if func is torch.ops.aten._conj.default:
            func = torch.ops.aten.conj_physical.default  # a wrapper does not show the mark of a conjugate
        goes_there = bool(there)
        if kwargs.get("device") is not None:
            goes_there = kwargs["device"].type == PLACE.type
            kwargs["device"] = torch.device("cpu")
        elif func is torch.ops.aten.copy_.default:
            goes_there = isinstance(args[0], Elsewhere)
        found = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))

        def wrapped(value):
            if not isinstance(value, torch.Tensor):
                return value
            for known in given:
                if unwrapped(known) is value:
                    return known  # changed in place
            return Elsewhere(value) if goes_there else value

        return tree_map(wrapped, found)


def unwrapped(value):
    """Return what a tensor elsewhere really is."""
    return value.here if isinstance(value, Elsewhere) else value


def move(module):
    """Move the weights and constants of a TorchScript module elsewhere, as ``map_location`` does."""
    for _, part in module.named_modules():
        for name, value in [
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ]:
            part._c.setattr(name, Elsewhere(value.detach()))
        for method in part._c._method_names():
            for node in _constants(part._c._get_method(method).graph):
                node.t_("value", Elsewhere(node.t("value")))


def _constants(block):
    for node in block.nodes():
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node
        for inner in node.blocks():
            yield from _constants(inner)
