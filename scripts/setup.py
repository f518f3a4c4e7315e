"""Entry of `make setup`: find a Python that can hold the environment, then have it build `.venv`.

This one file keeps to the syntax of Python 3.6, so that an old Python is told what to do and not stopped by a
syntax error. The work is in setup_torch.py and setup_venv.py, which an old Python never reads.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
# Tried in this order: the versions for which every torch we may need has a build come first.
CANDIDATES = ((3, 13), (3, 12), (3, 11), (3, 14))
PROBE = (
    "import importlib.util as u, sys; "
    "has_venv = u.find_spec('venv') and u.find_spec('ensurepip'); "
    "print(sys.version_info[0], sys.version_info[1], int(bool(has_venv)))"
)


class Python:
    """An interpreter: its path, its version (major, minor), and whether it can make environments."""

    def __init__(self, path: str, version: "tuple[int, int]", has_venv: bool) -> None:
        self.path = path
        self.version = version
        self.has_venv = has_venv

    @property
    def name(self) -> str:
        return "Python {}.{}".format(*self.version)

    def suits(self, newest: "tuple[int, int] | None") -> bool:
        """Whether Pascaline and torch run on this version; `newest` is torch's limit, None without one."""
        return self.version >= OLDEST and (newest is None or self.version <= newest)


def examine(path: str) -> "Python | None":
    """Ask the interpreter at `path` what it is; None if it does not run (an unset pyenv shim, say)."""
    try:
        # -I: another program's PYTHONHOME or PYTHONPATH must not colour the answer.
        answer = subprocess.check_output([path, "-I", "-c", PROBE], stderr=subprocess.DEVNULL).split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return Python(path, (int(answer[0]), int(answer[1])), answer[2] == b"1")


def other_pythons() -> "list[Python]":
    """The interpreters of the versions in CANDIDATES that are on PATH or where uv puts them."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.expanduser("~/.local/bin")])
    places = [shutil.which("python{}.{}".format(*version), path=path) for version in CANDIDATES]
    found = [examine(place) for place in places if place]
    return [python for python in found if python]


def choose(
    running: Python, others: "list[Python]", newest: "tuple[int, int] | None"
) -> "tuple[Python | None, Python | None]":
    """Pick (the Python to use, else the one that only lacks its venv module)."""
    suitable = [python for python in [running] + others if python.suits(newest)]  # noqa: RUF005
    for python in suitable:
        if python.has_venv:
            return python, None
    return None, suitable[0] if suitable else None


def apt_install(package: str) -> str:
    """Return the shell line that installs a Debian package here, for whoever runs this."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    lists = "/var/lib/apt/lists"
    known = os.path.isdir(lists) and any("_Packages" in name for name in os.listdir(lists))
    update = "" if known else sudo + "apt update && "
    return f"{update}{sudo}apt install {package}"


def apt_offers(newest: "tuple[int, int] | None") -> "str | None":
    """Name the newest python3.N-venv package that apt can install here and that suits; None without one."""
    if not shutil.which("apt-cache"):
        return None
    for version in CANDIDATES:
        package = "python{}.{}-venv".format(*version)
        if not Python("", version, False).suits(newest):
            continue
        ask = ["apt-cache", "show", package]
        if subprocess.call(ask, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return package
    return None


def uv_line(newest: "tuple[int, int] | None") -> str:
    """Return the shell line that installs a suitable Python for this user alone, on any distribution."""
    fetch = "curl -LsSf" if shutil.which("curl") or not shutil.which("wget") else "wget -qO-"
    version = "3.13" if newest is None or newest >= (3, 13) else "{}.{}".format(*newest)
    return f"{fetch} https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install {version}"


def one_line(
    running: Python,
    without_venv: "Python | None",
    newest: "tuple[int, int] | None",
    package: "str | None",
) -> str:
    """Say in one line what is wrong with the Pythons here and the command that mends it.

    `without_venv` is a Python that only lacks its venv module; `package` what apt can install, if anything.
    """
    if without_venv and without_venv.path.startswith("/usr/bin/") and shutil.which("apt-get"):
        mend = apt_install("python{}.{}-venv".format(*without_venv.version))
        return f"{without_venv.name} here has no venv module; this mends it: {mend}"
    mend = apt_install(package) if package else uv_line(newest)
    if without_venv:
        wrong = f"{without_venv.name} ({without_venv.path}) has no venv module"
    elif running.version < OLDEST:
        wrong = "Pascaline needs Python 3.11 or newer and this is {}.{}".format(*running.version)
    else:
        wrong = f"the torch for this card has no build for {running.name}"
    return f"{wrong}; this mends it: {mend}"


def main() -> int:
    """Bring the environment up to date; 0 when it is ready, 1 with one line on stderr if no Python can."""
    newest = None
    running = Python(sys.executable, (sys.version_info[0], sys.version_info[1]), False)
    setup = None
    if running.suits(None):
        import setup_venv

        setup = setup_venv.Setup.inspect()
        if setup.is_ready():
            setup.say_ready()
            return 0
        newest = setup.torch.newest_python
        running = examine(sys.executable) or running
    if setup and running.suits(newest) and running.has_venv:
        return setup.run()
    chosen, without_venv = choose(running, other_pythons(), newest)
    if chosen:
        os.execv(chosen.path, [chosen.path, os.path.abspath(__file__)])
    print("setup: " + one_line(running, without_venv, newest, apt_offers(newest)), file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the same command starts it afresh", file=sys.stderr)
        sys.exit(130)
