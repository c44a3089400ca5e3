"""Command lines of machines with disks and shared folders, with the same kernel, initramfs and root in all of them.

The guest serves its console (measure/guests.py)."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peers

GUEST = Path(os.environ["BENCH_GUEST"])
KERNEL = str(peers.BIN / "vmlinux")
INITRAMFS = str(GUEST / "initramfs.cpio")
ROOT = str(GUEST / "root.ext4")
MEMORY = "512M"
COMMAND_LINE = "console=ttyS0 panic=-1 quiet"
# How the guest resets itself at its end: by a keyboard controller's line, which QEMU microvm lacks, or by a triple fault.
MSB_RESET = " reboot=k"
QEMU_RESET = " reboot=t"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


@dataclass(frozen=True)
class Disk:
    path: str
    format: str
    read_only: bool = False


DISK_OF_THE_ROOT = Disk(ROOT, "raw", read_only=True)


def msb(disks: list[Disk], shares: dict[str, Path]) -> list[str]:
    command = [str(peers.BIN / "msb"), "vm", "-m", MEMORY, "--kernel", KERNEL, "--initramfs", INITRAMFS]
    command += ["--cmdline", COMMAND_LINE + MSB_RESET]
    for disk in [DISK_OF_THE_ROOT, *disks]:
        command += ["--disk", f"{disk.path}:{disk.format}" + (":ro" if disk.read_only else "")]
    for tag, folder in shares.items():
        command += ["--share", f"{folder}:{tag}"]
    return command


def qemu(disks: list[Disk], drive_options: str = "") -> list[str]:
    """With QEMU's own drivers of the formats and its defaults, which are aio=threads and cache=writeback."""
    command = [
        *("qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-m", MEMORY, "-nodefaults", "-no-reboot"),
        *("-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,acpi=off"),
        *("-nographic", "-serial", "stdio", "-monitor", "none"),
        *("-kernel", KERNEL, "-initrd", INITRAMFS, "-append", COMMAND_LINE + QEMU_RESET),
        *("-global", "virtio-mmio.force-legacy=false"),
    ]
    for number, disk in enumerate([DISK_OF_THE_ROOT, *disks]):
        drive = f"if=none,id=disk{number},format={disk.format},file={disk.path}{drive_options}"
        command += ["-drive", drive + (",readonly=on" if disk.read_only else "")]
        command += ["-device", f"virtio-blk-device,drive=disk{number}"]
    return command


@contextmanager
def qemu_with_virtiofsd(folder: Path, tag: str, share: Path) -> Iterator[list[str]]:
    """QEMU, and the virtiofsd that serves the one share while the block runs. Guest memory is what both need to map."""
    path = folder / "virtiofsd.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        server = [VIRTIOFSD, f"--fd={listener.fileno()}", "-o", f"source={share}", "-o", "cache=auto"]
        server += ["-o", "xattr", "-o", "log_level=err"]
        # It complains when its client ends; what is worse makes QEMU fail.
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(server, pass_fds=[listener.fileno()], stdin=quiet, stderr=quiet)
    try:
        yield [
            *qemu([]),
            *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
            *("-machine", "memory-backend=memory"),
            *("-chardev", f"socket,id=files,path={path}"),
            *("-device", f"vhost-user-fs-device,chardev=files,tag={tag},queue-size=1024"),
        ]
        # It ends with its only client.
        process.wait()
    finally:
        process.kill()
        process.wait()
        path.unlink()
