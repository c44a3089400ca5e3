"""Sandboxes that stay: how each program creates, uses and ends them."""

import os
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import peers

# What a sandbox does when it is asked for as little as possible.
NOTHING = ("true",)


class CommandFailed(SystemExit):
    """A command of a program failed, which ends the measurements unless somebody has to do with it."""


@dataclass(frozen=True)
class Program:
    name: str
    program: Path
    home: Path
    create_options: tuple[str, ...]
    root: str

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), *arguments]

    def run(self, *arguments: str) -> float:
        """Runs one of its commands, which must succeed, and returns how long that took."""
        begin = time.monotonic()
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        took = time.monotonic() - begin
        if done.returncode != 0:
            raise CommandFailed(f"error: {self.name} {' '.join(arguments)}: {done.stderr.decode()[-2000:]}")
        return took

    def environment(self) -> dict[str, str]:
        return {**os.environ, "MSB_HOME": str(self.home)}

    def create(self, sandbox: str, *options: str) -> float:
        return self.run("create", *self.create_options, *options, "--name", sandbox, self.root)

    def exec(self, sandbox: str, *command: str) -> float:
        return self.run("exec", sandbox, "--", *command)

    def start(self, sandbox: str) -> float:
        return self.run("start", sandbox)

    def stop(self, sandbox: str) -> float:
        return self.run("stop", sandbox)

    def remove(self, *sandboxes: str) -> None:
        self.run("rm", "-f", *sandboxes)


def programs(folder: Path) -> list[Program]:
    """Those that can be had, each with a home of its own."""
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    found = [Program(peers.MSB, peers.BIN / "msb", home, ("-m", "128M"), str(peers.root(folder, peers.MSB)))]
    if peers.MICROSANDBOX:
        home = folder / "microsandbox"
        options = ("-q", "-m", "256", "-c", "1")
        found.append(Program(peers.THEIRS, home / "bin/msb", home, options, str(peers.root(folder, peers.THEIRS))))
    else:
        print("(microsandbox could not be had from PyPI and is left out)")
    return found


def shuffled(kinds: dict[str, Program]) -> list[tuple[str, Program]]:
    """All of them in another order each time. What ran before counts: an emulator translates a guest's kernel slower where it has
    translated one before, so whoever comes after another program's guest would be ahead."""
    order = list(kinds.items())
    random.shuffle(order)
    return order


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Least, median and most."""
    return [f"{1000 * value:.1f}" for value in (min(seconds), median(seconds), max(seconds))]


def share(times: dict[str, list[float]], program: str) -> str:
    """What msb takes of the time of this one."""
    return f"{median(times[peers.MSB]) / median(times[program]):.2f}"


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
