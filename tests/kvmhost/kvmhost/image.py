"""The host's kernel and initramfs: built once from Debian's packages, kept in the cache.

The kernel is the package that `linux-image-cloud-amd64` depends on. It is downloaded and unpacked, not installed, so
the machine's own boot files stay as they are.
"""

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
BUSYBOX = "/bin/busybox"
APT_LISTS = Path("/var/lib/apt/lists")
MODULES = ["virtio_pci", "virtio_console", "virtiofs", "kvm-amd", "tun", "vhost_net", "loop", "overlay", "xfs"]

# A file of each package that tests/kvmhost/packages names, to see whether the package is installed.
WITNESSES = {
    "qemu-system-x86": "/usr/bin/qemu-system-x86_64",
    "qemu-system-common": VIRTIOFSD,
    "busybox-static": BUSYBOX,
    "cpio": "/usr/bin/cpio",
    "kmod": "/sbin/depmod",
    "e2fsprogs": "/sbin/mkfs.ext4",
    "python3": "/usr/bin/python3",
}


class ImageError(Exception):
    """The host's kernel and initramfs cannot be had, and why."""


def build_id() -> str:
    """A hash of these sources: what a kept host was made by, and a part of the cache's key."""
    digest = hashlib.sha256()
    for source in sorted(HERE.iterdir()):
        if source.is_file():
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def ensure() -> Path:
    """The folder that holds `vmlinuz` and `initramfs`; builds it when it is not there yet."""
    _check_packages()
    cache = _cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    package, version = _kernel_package(cache)
    recipe = hashlib.sha256(f"{package} {version}\n".encode())
    for source in (HERE / "image.py", HERE / "init"):
        recipe.update(source.read_bytes())
    image = cache / recipe.hexdigest()[:16]
    if not image.is_dir():
        with _locked(cache / "lock"):
            if not image.is_dir():
                print(f"kvmhost: building the host from {package} {version}", file=sys.stderr)
                _build(package, version, image)
    return image


def _cache_folder() -> Path:
    if "MSB_CACHE" in os.environ:
        return Path(os.environ["MSB_CACHE"]) / "kvmhost"
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "msb" / "kvmhost"


def _check_packages() -> None:
    names = (HERE.parent / "packages").read_text().split()
    missing = [name for name in names if not os.path.exists(WITNESSES[name])]
    if missing:
        command = "apt-get -o DPkg::Lock::Timeout=300 install --no-install-recommends " + " ".join(missing)
        raise ImageError(f"needs Debian packages that are not installed; as root: {command}")


def _kernel_package(cache: Path) -> tuple[str, str]:
    """Name and version of the kernel package, from apt's lists. They are read again only if they have changed since:
    that takes a good part of a second."""
    note = cache / "kernel-package"
    if note.exists() and note.stat().st_mtime > APT_LISTS.stat().st_mtime:
        name, version = note.read_text().split()
        return name, version
    # Under the lock, because apt does not wait for another one that fetches the lists.
    with _locked(cache / "lock"):
        name, version = _known_kernel_package() or _updated_kernel_package()
        fresh = cache / "kernel-package.new"
        fresh.write_text(f"{name} {version}\n")
        fresh.rename(note)
    return name, version


def _updated_kernel_package() -> tuple[str, str]:
    print("kvmhost: apt knows no kernel package; running apt-get update", file=sys.stderr)
    _call(["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "update"])
    if known := _known_kernel_package():
        return known
    raise ImageError("apt knows no linux-image-cloud-amd64; is a Debian archive among its sources?")


def _known_kernel_package() -> tuple[str, str] | None:
    wanted = ["apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64"]
    shown = subprocess.run(wanted, capture_output=True, text=True, check=False).stdout
    found = re.search(r"^Depends: (linux-image-\S+) \(= (\S+)\)", shown, re.MULTILINE)
    return (found[1], found[2]) if found else None


def _build(package: str, version: str, image: Path) -> None:
    """Builds beside `image` and renames, so that a half-built image is never taken for a whole one."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=image.parent) as name:
        work = Path(name)
        _call(["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "download", f"{package}={version}"], cwd=work)
        (archive,) = work.glob("*.deb")
        _call(["dpkg", "-x", str(archive), str(work / "kernel")])
        (modules,) = (work / "kernel/lib/modules").iterdir()
        result = work / "image"
        result.mkdir()
        (vmlinuz,) = (work / "kernel/boot").glob("vmlinuz-*")
        shutil.copy(vmlinuz, result / "vmlinuz")
        _build_initramfs(work, modules.name, result / "initramfs")
        result.rename(image)


def _build_initramfs(work: Path, release: str, target: Path) -> None:
    """Left uncompressed: unpacking it under emulation costs more than reading it."""
    root = work / "root"
    for folder in ("bin", "dev", "proc", "sys", "modules", "root"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    for number, module in enumerate(_modules_in_order(work / "kernel", release)):
        content = module.read_bytes()
        if module.suffix == ".xz":
            content = lzma.decompress(content)
        (root / f"modules/{number:02}-{module.name.removesuffix('.xz')}").write_bytes(content)
    files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = _call(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=files.encode())
    target.write_bytes(archive)


def _modules_in_order(kernel: Path, release: str) -> list[Path]:
    """The wanted modules and what they need, each after what it needs. Built-in ones have no file and are left out."""
    _call(["/sbin/depmod", "-b", str(kernel), release])
    tree = kernel / "lib/modules" / release
    needs: dict[str, list[str]] = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {re.sub(r"\.ko.*", "", Path(path).name).replace("-", "_"): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for other in needs[path]:
            add(other)
        if path not in order:
            order.append(path)

    for wanted in MODULES:
        name = wanted.replace("-", "_")
        if name in by_name:
            add(by_name[name])
    return [tree / path for path in order]


def _call(command: list[str], cwd: Path | None = None, input: bytes | None = None) -> bytes:
    done = subprocess.run(command, cwd=cwd, input=input, capture_output=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
