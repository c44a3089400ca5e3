"""QEMU with the host inside it, and virtiofsd, which shares the machine's root with it.

Every channel to them is an open descriptor, not a path, and both die with the process that started them. So there is
nothing to clean up, however that process ends.
"""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import image

AGENT = Path(__file__).resolve().parent / "agent.py"
PR_SET_PDEATHSIG = 1


class Machine:
    """A booted host; `kill` ends it at once. All that it writes is in the machine's files already: the shared root has
    no write-back cache, and a mapped file is written back when it is unmapped."""

    def __init__(self, image_folder: Path, memory: str, processors: int) -> None:
        self.commands, commands_end = socket.socketpair()
        self.beats, beats_end = socket.socketpair()
        self.monitor, monitor_end = socket.socketpair()
        self.console, console_end = os.pipe()
        listener, files_end = _listening_pair()
        self._virtiofsd = _spawn_bound(_virtiofsd(listener.fileno()), console_end, [listener])
        ends = [commands_end, beats_end, monitor_end, files_end]
        qemu = _qemu(image_folder, memory, processors, *(end.fileno() for end in ends))
        self._qemu = _spawn_bound(qemu, console_end, ends)
        for end in [listener, *ends]:
            end.close()
        os.close(console_end)
        self.descriptors = [self.commands.fileno(), self.beats.fileno(), self.monitor.fileno(), self.console]
        for ours in self.descriptors:
            os.set_blocking(ours, False)
        self.paused = False

    @property
    def pid(self) -> int:
        return self._qemu.pid

    def processor_seconds(self) -> float:
        """The processor time that QEMU has had. The host's processors are never idle, so this is how long they ran."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Stops the processors: idle=poll keeps them busy even when there is nothing to do."""
        self.monitor.send(b"stop\n")
        self.paused = True

    def resume(self) -> None:
        self.monitor.send(b"cont\n")
        self.paused = False

    def kill(self) -> None:
        for process in (self._qemu, self._virtiofsd):
            process.kill()
            process.wait()
        for ours in (self.commands, self.beats, self.monitor):
            ours.close()
        os.close(self.console)


def _qemu(
    image_folder: Path, memory: str, processors: int, commands: int, beats: int, monitor: int, files: int
) -> list[str]:
    # idle=poll: under nested AMD-V a halted processor loses its wake-up now and then, and the host hangs.
    # tsc=reliable: the emulated processors share one time stamp counter; without it every look at the clock goes to an
    # emulated timer chip.
    # no_timer_check: on a busy machine the timer may be too late for the kernel, which then gives up on it.
    # maxcpus=1: the agent brings the other processors up once the modules are loaded.
    # panic=-1 with -no-reboot: a host that fails ends instead of standing still.
    # norandmaps: QEMU keeps the code that it translated by its address, and would translate a program anew for each start of it.
    kernel_line = (
        "console=ttyS0 quiet panic=-1 maxcpus=1 idle=poll tsc=reliable no_timer_check norandmaps "
        f'kvmhost_agent="{AGENT}"'
    )
    return [
        "/usr/bin/qemu-system-x86_64",
        *("-name", "kvmhost"),
        *("-machine", "q35,memory-backend=memory,usb=off,vmport=off"),
        *("-accel", "tcg,thread=multi,tb-size=1024"),
        # An emulated string instruction goes element by element. Where bytes were said to be fast, Linux would copy
        # and clear pages byte by byte; without, it takes eight at a time, and everything here is twice as fast.
        # QEMU does not tell KVM when a guest sets the register of the extended states, so every guest would find their size
        # inconsistent, print a page of warnings and go on without them.
        # QEMU 7.2 computes the flags of cmpxchg16b from a stale state: an interrupt right behind it then saves some other
        # register's bits as flags, the flag of virtual-8086 mode among them, and the guest dies of its return from that
        # interrupt. Linux allocates memory by this instruction, unless the processor has none.
        *("-cpu", "max,-erms,-fsrm,-xsave,-cx16"),
        *("-smp", str(processors)),
        *("-m", memory),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-kernel", str(image_folder / "vmlinuz")),
        *("-initrd", str(image_folder / "initramfs")),
        *("-append", kernel_line),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=readline"),
        *("-chardev", f"socket,id=files,fd={files}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=machine,queue-size=1024"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=commands,fd={commands}"),
        *("-device", "virtserialport,chardev=commands,name=kvmhost.commands"),
        *("-chardev", f"socket,id=beats,fd={beats}"),
        *("-device", "virtserialport,chardev=beats,name=kvmhost.beats"),
    ]


def _virtiofsd(listener: int) -> list[str]:
    options = ["source=/", "cache=auto", "sandbox=chroot", "xattr", "log_level=err"]
    return [image.VIRTIOFSD, f"--fd={listener}", *(word for option in options for word in ("-o", option))]


def _listening_pair() -> tuple[socket.socket, socket.socket]:
    """A socket to accept a connection from, and the connection. The abstract name, which the kernel chooses, leaves no
    file."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(listener.getsockname())
    return listener, connection


def _spawn_bound(command: list[str], output: int, kept: list[socket.socket]) -> subprocess.Popen[bytes]:
    """Starts a process that dies with this one."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[end.fileno() for end in kept],
        preexec_fn=_die_with_parent(os.getpid()),
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # It died before it was bound to.
            os._exit(1)

    return bind
