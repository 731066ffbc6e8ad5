"""Read a model of mace-torch and write its weights and settings where lsf can read them.

    python tools/export_mace_weights.py MODEL.model WEIGHTS.safetensors

Runs in the environment mace-torch is installed in, and needs nothing but torch, safetensors and whatever
the model was made with: lsf is not imported. A model file of mace-torch is a pickle, and unpickling runs
code, so use it on files you trust. The other half is ``lsf import-mace``, which runs where lsf is
installed; docs/foundation_models.md has both.
"""

import argparse
import json
import sys
from importlib import metadata

import torch
from safetensors.torch import save_file

FORMAT_VERSION = 1
LEFT_OUT = ("output_mask", "_compiled_main", "graph_opt", "contractions_", "_zeroed")
"""Parts of the state that hold no weights: constants of e3nn, and what follows from coupling matrices."""


def plain(value):
    """Return a setting as JSON can hold it."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def activation(wrapped):
    """Return name and normalisation constant of an activation that e3nn has wrapped."""
    if wrapped is None:
        return {"name": "none", "scale": 1.0}
    function = getattr(wrapped, "f", wrapped)
    name = getattr(function, "__name__", type(function).__name__)
    return {"name": name.lower(), "scale": float(getattr(wrapped, "cst", 1.0))}


def network(module):
    """Return the widths of a radial network and its activations, or None where it is no such network."""
    if not hasattr(module, "hs"):
        return None
    layers = [module._modules[f"layer{index}"] for index in range(len(module.hs) - 1)]
    acts = [activation(getattr(layer, "act", None)) for layer in layers]
    return {"widths": [int(width) for width in module.hs], "activations": acts}


def paths(interaction):
    """Return (feature, harmonic, message) degree of every path of the convolution, in weight order."""
    product = interaction.conv_tp
    if not hasattr(product, "instructions"):
        return None
    irreps = product.irreps_in1, product.irreps_in2, product.irreps_out
    places = [(item.i_in1, item.i_in2, item.i_out) for item in product.instructions]
    return [
        [irreps_here[place].ir.l for irreps_here, place in zip(irreps, item, strict=True)] for item in places
    ]


def interaction_facts(block):
    """Return what has to be known of an interaction to place its weights."""
    return {
        "class": type(block).__name__,
        "avg_num_neighbors": plain(block.avg_num_neighbors),
        "inputs": str(block.node_feats_irreps),
        "edge_inputs": str(getattr(block, "edge_irreps", block.node_feats_irreps)),
        "messages": str(block.target_irreps),
        "paths": paths(block),
        "radial": network(block.conv_tp_weights),
    }


def product_facts(block):
    """Return irreps, order and kind of a product block."""
    contractions = getattr(block.symmetric_contractions, "contractions", None)
    return {
        "outputs": str(block.linear.irreps_out),
        "correlation": None if contractions is None else int(contractions[0].correlation),
        "agnostic": bool(getattr(block, "use_agnostic_product", False)),
    }


def readout_facts(block):
    """Return kind, hidden width and activation of a readout."""
    gate = getattr(block, "non_linearity", None)
    return {
        "class": type(block).__name__,
        "hidden": str(block.hidden_irreps) if hasattr(block, "hidden_irreps") else None,
        "gate": activation(gate.acts[0]) if gate is not None else None,
    }


def facts_of(model):
    """Return the settings of a model that its weights do not tell."""
    radial = model.radial_embedding
    transform = getattr(radial, "distance_transform", None)
    return {
        "format_version": FORMAT_VERSION,
        "mace_version": metadata.version("mace-torch"),
        "class": type(model).__name__,
        "dtype": str(model.r_max.dtype).removeprefix("torch."),
        "atomic_numbers": plain(model.atomic_numbers),
        "heads": plain(getattr(model, "heads", None) or ["Default"]),
        "r_max": plain(model.r_max),
        "max_ell": int(model.spherical_harmonics._lmax),
        "radial_type": type(radial.bessel_fn).__name__,
        "cutoff_p": plain(radial.cutoff_fn.p),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "distance_transform": "none" if transform is None else type(transform).__name__,
        "pair_repulsion": hasattr(model, "pair_repulsion_fn"),
        "interactions": [interaction_facts(block) for block in model.interactions],
        "products": [product_facts(block) for block in model.products],
        "readouts": [readout_facts(block) for block in model.readouts],
        "use_so3": bool(getattr(model, "use_so3", False)),
        "embedding": plain(getattr(model, "embedding_specs", None)),
    }


def export(model, target):
    """Write the weights of an unpickled model and its settings to a safetensors file."""
    if not (hasattr(model, "interactions") and hasattr(model, "products")):
        raise SystemExit(f"found a {type(model).__name__}; expected a MACE or ScaleShiftMACE of mace-torch")
    if isinstance(model, torch.jit.ScriptModule):
        raise SystemExit("found a compiled model; expected the .model file it was compiled from")
    tensors = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in model.state_dict().items()
        if tensor.numel() and not any(part in name for part in LEFT_OUT)
    }
    save_file(tensors, target, metadata={"mace": json.dumps(facts_of(model))})


def main():
    """Read the arguments and convert one file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="the .model file of mace-torch")
    parser.add_argument("weights", help="the safetensors file to write")
    arguments = parser.parse_args()
    # e3nn 0.4.4 reads a file of its own that torch 2.6 and newer take only with this
    torch.serialization.add_safe_globals([slice])
    model = torch.load(arguments.model, map_location="cpu", weights_only=False)
    export(model, arguments.weights)
    sys.stdout.write(f"wrote {arguments.weights}; now: lsf import-mace WEIGHTS OUT.safetensors\n")


if __name__ == "__main__":
    main()
