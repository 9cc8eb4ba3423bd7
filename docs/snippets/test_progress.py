"""Progress of what a suite does itself."""

# region: progress
from pathlib import Path

from pytest_qmp.vm.progress import progress


def fetch(image: Path, copy: Path) -> None:
    total = image.stat().st_size
    name = f"copying {image.name}"
    with progress(name) as report, image.open("rb") as source, copy.open("wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
            report(target.tell(), total, "bytes")


# endregion
def test_fetch(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * (3 << 20))
    fetch(image, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
