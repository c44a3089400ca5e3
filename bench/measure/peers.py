"""The programs that are compared, as command lines."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

BIN = Path(os.environ["BENCH_BIN"])
ROOT = os.environ["BENCH_ROOT"]
MICROSANDBOX = os.environ["BENCH_MICROSANDBOX"]

MSB = "msb"
QEMU = "QEMU microvm"
THEIRS = "microsandbox"

Commands = dict[str, list[str]]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder on a real file system, with the microsandbox of the cache in it, which wants extended attributes, and a root for each
    program: microsandbox writes into the one that it is given."""
    with tempfile.TemporaryDirectory(prefix="msb-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        # The root file system of the tests' KVM host is a share; a disk image in its memory is not.
        if os.environ.get("KVMHOST"):
            stack.enter_context(_disk(folder))
        shutil.copytree(ROOT, root(folder, MSB), symlinks=True)
        if MICROSANDBOX:
            shutil.copytree(MICROSANDBOX, folder / "microsandbox", symlinks=True)
            shutil.copytree(ROOT, root(folder, THEIRS), symlinks=True)
        yield folder


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    image = Path("/dev/shm") / f"{folder.name}.ext4"
    try:
        with image.open("xb") as file:
            file.truncate(3 << 30)
        # Nothing is left for the kernel to initialise while others are measured.
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-q", folder], check=False)
        image.unlink(missing_ok=True)


def root(folder: Path, program: str) -> Path:
    """The root file system of this program's guests."""
    return folder / "roots" / program


def msb(folder: Path, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [str(BIN / "msb"), "run", "-m", "128M", *options, str(root(folder, MSB)), "--", *command]


def qemu() -> list[str]:
    """Up to the first line of agentd, which ends the machine because no host answers."""
    return [
        *("qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-m", "128M", "-nodefaults", "-no-reboot"),
        *("-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on"),
        *("-nographic", "-serial", "stdio", "-monitor", "none"),
        *("-kernel", str(BIN / "vmlinux"), "-initrd", str(BIN / "initramfs.cpio")),
        *("-append", "console=ttyS0 reboot=t panic=-1 quiet"),
    ]


def microsandbox(folder: Path, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    home = folder / "microsandbox"
    program = ["env", f"MSB_HOME={home}", str(home / "bin/msb")]
    return [*program, "run", "-q", "-m", "256", "-c", "1", *options, str(root(folder, THEIRS)), "--", *command]


def boots(folder: Path) -> Commands:
    """The shortest life of a machine with each program."""
    commands = {MSB: msb(folder, "/bin/true"), QEMU: qemu()}
    if MICROSANDBOX:
        commands[THEIRS] = microsandbox(folder, "/bin/true")
    else:
        print("(microsandbox could not be had from PyPI and is left out)")
    return commands


def run(command: list[str]) -> None:
    """Runs it with nothing to read and its output thrown away."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    # QEMU's guest ends by a panic, and QEMU by 0.
    if done.returncode != 0:
        raise SystemExit(f"error: {command[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
