import errno

import pytest

from lsf.errors import LsfError
from lsf.machine.files import MachineError, replacing


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    with replacing(path) as temporary:
        temporary.write_text("weights")
        assert not path.exists()
        assert temporary.suffix == ".safetensors"
    assert path.read_text() == "weights"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_older_file_survives_an_interruption(tmp_path, interruption):
    path = tmp_path / "last"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_message_and_changes_nothing(tmp_path):
    path = tmp_path / "last"
    path.write_text("old")
    with (
        pytest.raises(MachineError, match=r"cannot write .*last: No space left on device; .* unchanged"),
        replacing(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with (
        pytest.raises(LsfError, match=r"cannot write .*taken") as caught,
        replacing(tmp_path / "taken" / "model"),
    ):
        pass
    assert not isinstance(caught.value, MachineError)
