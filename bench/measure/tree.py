"""A tree of source files under git, as an archive."""

import random
import subprocess
import tempfile
from pathlib import Path

FILES_OF_A_FOLDER = 20
FOLDERS_OF_A_FOLDER = 10
LINE = b"The quick brown fox jumps over the lazy dog, and nobody knows why it does.\n"


def archive(cache: Path, files: int, scratch: Path) -> Path:
    """The archive in the cache, made in `scratch` when it is not there: so many files in the folder `tree`, which is a repository
    that has all of them committed in one pack."""
    result = cache / f"tree-{files}.tar"
    if not result.exists():
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            tree = Path(name) / "tree"
            tree.mkdir()
            _write(tree, files)
            _commit(tree)
            partial = result.with_suffix(".new")
            subprocess.run(["tar", "-cf", partial, "-C", name, tree.name], check=True)
            partial.rename(result)
    return result


def _write(tree: Path, files: int) -> None:
    # The same files each time; most are small, as in a source tree.
    sizes = random.Random(1)
    for number in range(files):
        outer, inner = divmod(number // FILES_OF_A_FOLDER, FOLDERS_OF_A_FOLDER)
        place = tree / f"part{outer}" / f"module{inner}"
        if number % FILES_OF_A_FOLDER == 0:
            place.mkdir(parents=True)
        lines = min(int(sizes.lognormvariate(3.5, 1.0)), 1000)
        (place / f"file{number}.txt").write_bytes(b"%d\n" % number + LINE * lines)


def _commit(tree: Path) -> None:
    _git(tree, "init", "--quiet")
    _git(tree, "add", ".")
    _git(tree, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all")
    _git(tree, "repack", "-adq")
    _git(tree, "prune-packed", "-q")


def _git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "gc.auto=0", "-C", tree, *arguments], check=True)
