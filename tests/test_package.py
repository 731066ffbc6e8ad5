"""The wheel, installed outside the checkout: what a user gets from ``pip install lsf``."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lsf

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command writes; its whole output is shown when it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("lsf-*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has lsf from the wheel and borrows everything else from this one.

    The borrowed folder is named in a .pth file. Python does not read the .pth files inside a folder added
    that way, so the editable installation of the checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    assert ROOT not in folder.parents
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    own = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def command(elsewhere: Path) -> Path:
    return elsewhere / "env" / "bin" / "lsf"


def test_wheel_holds_registry_recipes_and_data(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("registry", "recipes"):
        expected = {
            f"lsf/{path.relative_to(ROOT)}"
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".toml", ".xyz")
        }
        assert expected, folder
        assert expected <= names


def test_the_page_on_an_index_has_no_link_that_leads_nowhere(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    page = archive.read(name).decode()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert links == [link for link in re.findall(r"\]\(([^)\s]+)\)", readme) if link.startswith("http")] != []
    assert "see LICENSE." in page
    assert "lsf/py.typed" in archive.namelist()


def test_lsf_comes_from_the_wheel(elsewhere: Path, command: Path):
    where = run(elsewhere / "env" / "bin" / "python", "-c", "import lsf; print(lsf.__file__)", cwd=elsewhere)
    assert (elsewhere / "env") in Path(where.strip()).parents
    assert lsf.__version__ in run(command, "--version", cwd=elsewhere)


def test_list_and_describe_read_the_bundled_registry(elsewhere: Path, command: Path):
    listed = run(command, "list", cwd=elsewhere)
    for path in (ROOT / "registry").glob("*/*.toml"):
        assert path.stem in listed
    described = run(command, "describe", "models", "LocalSplitCharges", cwd=elsewhere)
    assert "formal_charges" in described


def test_check_reads_a_bundled_recipe_and_its_data(elsewhere: Path, command: Path):
    (recipe,) = (elsewhere / "env" / "lib").glob("python*/site-packages/lsf/recipes/water_split.toml")
    assert "train" in run(command, "check", recipe, cwd=elsewhere)
