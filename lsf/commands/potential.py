"""``lsf potential``: the potential a model gives a structure, as pictures and volumetric files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN
from lsf.electrostatics.plan.coulomb_plan import outline_structure
from lsf.electrostatics.potential.grid import Grid, planar_average, structure_grid
from lsf.electrostatics.potential.structure import ChargedStructure
from lsf.electrostatics.potential.values import density_on_grid, potential_at, potential_on_grid
from lsf.electrostatics.settings import Electrostatics
from lsf.engines.ase.calculator import LsfCalculator
from lsf.errors import LsfError
from lsf.formats.model_file.file import LoadedModel, load_model
from lsf.machine.files import replacing
from lsf.recipe.catalog import catalog
from lsf.report.plots import save
from lsf.report.potential_figures import LineCut, Profile, Slice, average_figure, line_figure, slice_figure

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

AXES: Final = "abc"
LINE_POINTS: Final = 400
SLICE_POINTS: Final = 81
PROFILE_POINTS: Final = 201
MOST_POINTS: Final = 4_000_000
NEAR_PLANE: Final = 0.75
"""Atoms closer than this to a slice, in Å, are marked in it."""

_SLICE: Final = re.compile(r"([abc])(?:=(-?[0-9]*\.?[0-9]+))?")


@attrs.frozen
class Request:
    """What to draw, as given on the command line.

    ``lines`` are texts FROM:TO, each end an atom's number or x,y,z in Å; ``slices`` texts a, b or c, with
    =FRACTION of the grid along that axis (0.5 where left out). None of one kind: through the middle, one for
    each axis.
    """

    lines: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    spacing: float = 0.3
    probe_width: float = 0.0
    cube: bool = True


@attrs.frozen(eq=False)
class _Scene:
    """A structure with its multipoles, the settings of its potential, and the grid that shows it."""

    atoms: Atoms
    structure: ChargedStructure
    settings: Electrostatics
    kind: int
    grid: Grid
    probe_width: float
    title: str


def draw_potential(
    model_path: str | Path,
    structure_path: str | Path,
    request: Request,
    out: str | Path | None = None,
    frame: int = 0,
    device: str = "auto",
    console: Console | None = None,
) -> list[Path]:
    """Draw the potential of a structure's charges and dipoles; return the files that were written.

    Parameters
    ----------
    model_path : model file of lsf
    structure_path : a file ASE reads
    request : what to draw
    out : folder for the files; None is ``<structure>_potential``
    frame : number of the structure in its file, from 0; negative numbers count from the end
    device : where the model is evaluated
    console : where the files are named; None is silent

    Raises
    ------
    LsfError
        when the model has no charges, a file cannot be read, or a line, slice or spacing makes no sense.
        Nothing has been written then.
    """
    structure_path = Path(structure_path)
    folder = Path(out) if out is not None else Path(f"{structure_path.stem}_potential")
    loaded = load_model(model_path)
    scene = _scene(loaded, _read(structure_path, frame), request, structure_path.name, device)
    lines = _lines(request.lines, scene)
    slices = _slices(request.slices, scene)
    potential = potential_on_grid(scene.structure, scene.grid, scene.settings, request.probe_width)
    density = density_on_grid(scene.structure, scene.grid, scene.settings)
    profiles = _profiles(scene)

    written = [
        save(line_figure(lines, scene.title), folder / "lines.png"),
        _write_table(
            folder / "lines.csv", ("line", "distance_A", "potential_V", "field_V_per_A"), _line_rows(lines)
        ),
        save(slice_figure(slices, scene.title), folder / "slices.png"),
    ]
    if profiles:
        columns = ("normal_of", "height_A", "potential_V", "density_e_per_A3")
        written.append(save(average_figure(profiles, scene.title), folder / "planar_average.png"))
        written.append(_write_table(folder / "planar_average.csv", columns, _profile_rows(profiles)))
    if request.cube:
        written.append(_write_cube(folder / "potential.cube", scene, potential, "potential in V"))
        written.append(_write_cube(folder / "density.cube", scene, density, "charge density in e/Å³"))
    for path in written:
        (console or Console(quiet=True)).print(str(path), markup=False, highlight=False, soft_wrap=True)
    return written


# ---------------------------------------------------------------------------------------------------
# input


def _read(path: Path, frame: int) -> Atoms:
    import ase.io

    if not path.is_file():
        raise LsfError(f"{path}: there is no such file")
    try:
        return ase.io.read(path, index=frame)
    except (IndexError, StopIteration) as error:
        raise LsfError(f"{path}: there is no frame {frame}; frames are counted from 0") from error
    except Exception as error:  # readers of some forty formats raise whatever they meet
        raise LsfError(f"{path}: not a structure ASE can read ({type(error).__name__}: {error})") from error


def _scene(loaded: LoadedModel, atoms: Atoms, request: Request, name: str, device: str) -> _Scene:
    settings = loaded.recipe.electrostatics
    if "potential" not in catalog().entry("models", loaded.recipe.model.use).provides:
        raise LsfError(
            f"{loaded.path.name} is a {loaded.recipe.model.use} model without charges: it has no potential"
        )
    if not 0.0 < request.spacing < float("inf"):
        raise LsfError(f"--spacing {request.spacing:g}: expected a positive number of Å")
    if not 0.0 <= request.probe_width < float("inf"):
        raise LsfError(f"--probe-width {request.probe_width:g}: expected a number of Å, 0 for a point charge")
    results = _evaluate(loaded, atoms, device)
    cell = atoms.cell.array
    arrays = atoms.positions, cell, np.array(atoms.pbc)
    grid = structure_grid(*arrays, settings, request.spacing)
    if grid.n_points > MOST_POINTS:
        raise LsfError(
            f"--spacing {request.spacing:g} makes a grid of {grid.n_points} points, more than {MOST_POINTS}: "
            f"try --spacing {request.spacing * (grid.n_points / MOST_POINTS) ** (1 / 3) * 1.05:.2g}"
        )
    structure = ChargedStructure(
        torch.from_numpy(np.array(results["density_coefficients"], dtype=np.float64)),
        torch.from_numpy(atoms.positions.copy()),
        torch.from_numpy(np.array(cell, dtype=np.float64)),
        np.array(atoms.pbc),
    )
    kind = outline_structure(settings, *arrays).kind
    probe = "point charge" if request.probe_width == 0.0 else f"Gaussian of {request.probe_width:g} Å"
    title = f"{name}: potential felt by a {probe}, {loaded.recipe.name}"
    return _Scene(atoms, structure, settings, kind, grid, request.probe_width, title)


def _evaluate(loaded: LoadedModel, atoms: Atoms, device: str) -> dict[str, Any]:
    """Return the results of the model's calculator, with the keys its recipe maps."""
    keys: dict[str, Any] = {}
    for head in loaded.recipe.heads.values():
        keys |= (
            {"external_field_key": head.info_keys["external_field"]}
            if "external_field" in head.info_keys
            else {}
        )
        keys |= {"formal_charges_key": head.arrays_keys["charges"]} if "charges" in head.arrays_keys else {}
    calculator = LsfCalculator(loaded, device=device, **keys)
    calculator.calculate(atoms, ["energy"])
    results: dict[str, Any] = calculator.results
    return results


# ---------------------------------------------------------------------------------------------------
# lines


def _lines(texts: Sequence[str], scene: _Scene) -> list[LineCut]:
    if texts:
        ends = [(text, *_line_ends(text, scene.atoms)) for text in texts]
    else:
        middle = scene.grid.origin + 0.5 * scene.grid.vectors.sum(0)
        ends = [
            (f"along {_axis_name(scene, axis)}", middle - 0.5 * vector, middle + 0.5 * vector)
            for axis, vector in enumerate(scene.grid.vectors)
        ]
    return [_line_cut(name, start, end, scene) for name, start, end in ends]


def _line_ends(text: str, atoms: Atoms) -> tuple[Array, Array]:
    parts = text.split(":")
    if len(parts) != 2:
        raise LsfError(f"--line {text!r}: expected FROM:TO, for example 0:3 (atoms) or 0,0,-5:0,0,5 (Å)")
    start, end = (_place(part, text, atoms) for part in parts)
    if np.allclose(start, end):
        raise LsfError(f"--line {text!r}: begins and ends at the same place")
    return start, end


def _place(part: str, text: str, atoms: Atoms) -> Array:
    numbers = part.split(",")
    if len(numbers) == 1 and part.strip().isdecimal():
        number = int(part)
        if number >= len(atoms):
            raise LsfError(
                f"--line {text!r}: there is no atom {number}; atoms are counted 0 … {len(atoms) - 1}"
            )
        return np.array(atoms.positions[number])
    try:
        place = np.array([float(number) for number in numbers])
    except ValueError:
        place = np.empty(0)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise LsfError(f"--line {text!r}: {part!r} is neither the number of an atom nor x,y,z in Å")
    return place


def _line_cut(name: str, start: Array, end: Array, scene: _Scene) -> LineCut:
    length = float(np.linalg.norm(end - start))
    fractions = np.linspace(0.0, 1.0, LINE_POINTS)
    points = torch.from_numpy(start + fractions[:, None] * (end - start))
    values = potential_at(scene.structure, points, scene.settings, scene.probe_width)
    along = values.electric_field.numpy() @ ((end - start) / length)
    return LineCut(name, fractions * length, values.potential.numpy(), along)


# ---------------------------------------------------------------------------------------------------
# slices and averages


def _axis_name(scene: _Scene, axis: int) -> str:
    """Name an axis of the grid: x, y, z for molecules, whose grid has no lattice vectors."""
    return "xyz"[axis] if scene.kind in (KIND_OPEN, KIND_BOX) else AXES[axis]


def _slices(texts: Sequence[str], scene: _Scene) -> list[Slice]:
    wanted = []
    for text in texts or AXES:
        match = _SLICE.fullmatch(text)
        if match is None:
            raise LsfError(f"--slice {text!r}: expected a, b or c, or with a fraction of the grid, c=0.25")
        fraction = 0.5 if match[2] is None else float(match[2])
        if not 0.0 <= fraction <= 1.0:
            raise LsfError(f"--slice {text!r}: the fraction must lie between 0 and 1")
        wanted.append((AXES.index(match[1]), fraction))
    return [_slice(axis, fraction, scene) for axis, fraction in wanted]


def _slice(axis: int, fraction: float, scene: _Scene) -> Slice:
    grid = scene.grid
    first, second = (row for row in range(3) if row != axis)
    counts = [max(SLICE_POINTS, grid.shape[row] + 1) for row in (first, second)]
    grown = [_closed(grid.vectors[row], n) for row, n in zip((first, second), counts, strict=True)]
    origin = grid.origin + fraction * grid.vectors[axis]
    plane = Grid(origin, np.stack([*grown, grid.vectors[axis]]), (counts[0], counts[1], 1))
    potential = potential_on_grid(scene.structure, plane, scene.settings, scene.probe_width)[..., 0].numpy()
    across = grid.vectors[first] / np.linalg.norm(grid.vectors[first])
    up = grid.vectors[second] - (grid.vectors[second] @ across) * across
    up = up / np.linalg.norm(up)
    basis = np.stack([across, up], axis=1)
    places = (plane.points()[:, :, 0] - origin) @ basis
    normal = np.cross(across, up)
    atoms, symbols = _near_atoms(scene, origin, normal)
    name = f"plane at {fraction:g} of {_axis_name(scene, axis)}"
    labels = f"along {_axis_name(scene, first)}", f"towards {_axis_name(scene, second)}"
    return Slice(name, labels, places[..., 0], places[..., 1], potential, (atoms - origin) @ basis, symbols)


def _closed(vector: Array, n_points: int) -> Array:
    """Return a grid vector whose last of n points is the end of ``vector``, so that a curve closes."""
    return vector * (n_points / (n_points - 1))


def _near_atoms(scene: _Scene, origin: Array, normal: Array) -> tuple[Array, tuple[str, ...]]:
    """Return positions and symbols of atoms, periodic images included, that are close to a plane."""
    counts = [range(-1, 2) if periodic else range(1) for periodic in scene.atoms.pbc]
    shifts = np.array([(i, j, k) for i in counts[0] for j in counts[1] for k in counts[2]], dtype=np.float64)
    images = (shifts @ scene.atoms.cell.array)[:, None] + scene.atoms.positions
    near = np.abs((images - origin) @ normal) < NEAR_PLANE
    symbols = np.broadcast_to(np.array(scene.atoms.get_chemical_symbols()), near.shape)
    return images[near], tuple(symbols[near].tolist())


def _profiles(scene: _Scene) -> list[Profile]:
    """Return planar averages over every pair of periodic vectors."""
    pbc = scene.atoms.pbc
    return [_profile(axis, scene) for axis in range(3) if pbc[(axis + 1) % 3] and pbc[(axis + 2) % 3]]


def _profile(axis: int, scene: _Scene) -> Profile:
    vectors, shape = scene.grid.vectors.copy(), list(scene.grid.shape)
    vectors[axis], shape[axis] = _closed(vectors[axis], PROFILE_POINTS), PROFILE_POINTS
    grid = Grid(scene.grid.origin, vectors, (shape[0], shape[1], shape[2]))
    potential = potential_on_grid(scene.structure, grid, scene.settings, scene.probe_width)
    density = density_on_grid(scene.structure, grid, scene.settings)
    first, second = (AXES[row] for row in range(3) if row != axis)
    return Profile(
        f"{first} and {second}",
        grid.heights(axis),
        planar_average(potential, axis).numpy(),
        planar_average(density, axis).numpy(),
    )


# ---------------------------------------------------------------------------------------------------
# output


def _line_rows(lines: Sequence[LineCut]) -> list[tuple[Any, ...]]:
    return [
        (cut.name, *row) for cut in lines for row in zip(cut.distance, cut.potential, cut.field, strict=True)
    ]


def _profile_rows(profiles: Sequence[Profile]) -> list[tuple[Any, ...]]:
    return [
        (item.name, *row)
        for item in profiles
        for row in zip(item.height, item.potential, item.density, strict=True)
    ]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Path:
    lines = [",".join(columns)]
    lines += [",".join([f'"{row[0]}"', *(f"{value:.9g}" for value in row[1:])]) for row in rows]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_cube(path: Path, scene: _Scene, values: torch.Tensor, what: str) -> Path:
    """Write a Gaussian cube file; lengths in it are in Bohr as the format wants, values as said."""
    from ase.io.cube import write_cube

    framed = scene.atoms.copy()
    framed.set_cell(scene.grid.vectors)  # the cell a cube file states is that of its grid
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        write_cube(file, framed, data=values.numpy(), origin=scene.grid.origin, comment=f"lsf: {what}")
    return path
