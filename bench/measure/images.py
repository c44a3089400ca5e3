"""Disk images of the kinds that are compared."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Kind:
    name: str
    format: str
    options: tuple[str, ...] = ()
    # Whether it is an empty overlay over a full image.
    overlay: bool = False


FULL = ("-o", "preallocation=full")
KINDS = (
    Kind("raw", "raw", FULL),
    Kind("qcow2, fresh", "qcow2"),
    Kind("qcow2, preallocated", "qcow2", FULL),
    Kind("qcow2, backing file", "qcow2", overlay=True),
    Kind("vmdk", "vmdk", ("-o", "subformat=monolithicSparse")),
)


def make(folder: Path, kind: Kind, size: int) -> Path:
    """A new image in the folder, in the place of an earlier one."""
    options = kind.options
    if kind.overlay:
        base = folder / "base.qcow2"
        if not base.exists():
            _create(base, "qcow2", FULL, size)
        options = ("-b", str(base), "-F", "qcow2")
    image = folder / f"disk.{kind.format}"
    image.unlink(missing_ok=True)
    _create(image, kind.format, options, size)
    # What is still to be written must not disturb those who use it.
    subprocess.run(["sync", "-f", folder], check=True)
    return image


def _create(image: Path, form: str, options: tuple[str, ...], size: int) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, image, str(size)], check=True)
