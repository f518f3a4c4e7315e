#!/usr/bin/env bash
# Proves `make serve` and `make test` on a bare system: Debian bookworm with python3, make, git, nothing else.
#
#   sudo scripts/bare_environment.sh [--folder DIR] [--pass VARIABLE]... [--bind PATH]...
#
# --folder DIR     work in DIR and keep the bootstrapped system for the next run (default: a temporary folder)
# --pass VARIABLE  hand an environment variable on to the bare system (PIP_INDEX_URL, SSL_CERT_FILE, …)
# --bind PATH      make a file or folder of this machine visible there, read-only (a CA certificate, wheels)
#
# What runs there is the committed tree, as a new user with an empty home. python3-venv comes in as a user
# would get it: by the line that `make setup` prints without it. The system lives in a mount and process
# namespace of its own, so that no mount and no process outlives the run.
set -euo pipefail

readonly release=bookworm user=newcomer
readonly packages=(python3 make git ca-certificates)
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() {
    echo "bare: $*" >&2
    exit 1
}

# ---- inside the bare system, as the new user; functions are carried there by their text ----

say() { printf '\n== %s\n' "$*"; }

clock() { date +%s.%N; }

took() { # STEP STARTED: print and remember how long the step took
    local line
    line=$(awk -v name="$1" -v from="$2" -v to="$(clock)" 'BEGIN { printf "%7.1f s  %s", to - from, name }')
    echo "bare:$line"
    times+=("$line")
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

wait_for_health() { # PORT PID: until the server answers; fails if make ends first
    python3 - "$1" "$2" <<'PYTHON'
import os, sys, time, urllib.request
url, make = f"http://127.0.0.1:{sys.argv[1]}/health", f"/proc/{sys.argv[2]}/stat"
while True:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            sys.exit(answer.status != 200)
    except OSError:
        pass
    try:
        ended = open(make).read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        ended = True
    if ended:
        sys.exit("bare: make serve ended before it answered")
    time.sleep(0.1)
PYTHON
}

ask() { # PORT: one chat completion, its answer printed
    python3 - "$1" <<'PYTHON'
import json, sys, urllib.request
question = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 24,
    "temperature": 0,
}
request = urllib.request.Request(
    f"http://127.0.0.1:{sys.argv[1]}/v1/chat/completions",
    json.dumps(question).encode(),
    {"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=300) as answer:
    text = json.load(answer)["choices"][0]["message"]["content"]
print("bare: the model answers:", text)
sys.exit(not text.strip())
PYTHON
}

nothing_left() { # fails if a process of the server is still there
    python3 - <<'PYTHON'
import glob, sys, time
for _ in range(50):
    left = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            command = open(path, "rb").read().decode().split("\0")
        except OSError:
            continue
        if ".venv/bin/" in command[0]:
            left.append(" ".join(command))
    if not left:
        sys.exit()
    time.sleep(0.1)
sys.exit(f"bare: still running after SIGTERM: {left}")
PYTHON
}

serve_once() { # STEP
    local port started make status=0
    port=$(free_port)
    say "$1"
    started=$(clock)
    make serve PORT="$port" &
    make=$!
    wait_for_health "$port" "$make"
    took "$1, until /health answers" "$started"
    started=$(clock)
    ask "$port"
    took "one chat completion" "$started"
    started=$(clock)
    kill -TERM "$make"
    wait "$make" || status=$?
    # make itself ends by the signal it passed on: 128 + 15.
    ((status == 0 || status == 143)) || { echo "bare: make serve ended with status $status" >&2; return 1; }
    nothing_left
    took "SIGTERM, until the server is gone" "$started"
}

newcomer() {
    set -euo pipefail
    local started status=0
    times=()
    cd ~/pascaline
    serve_once "first make serve (set-up and downloads)"
    serve_once "second make serve"
    say "make test"
    started=$(clock)
    make test || status=$?
    took "make test" "$started"
    say "times in the bare environment"
    printf '%s\n' "${times[@]}"
    return "$status"
}

# ---- in the namespace, as root ----

as_newcomer() { # COMMAND: run by the new user's bash, with nothing of this environment but what was passed
    # A background job's ignored Ctrl-C would be inherited by the server and the tests.
    chroot --userspec="$user:$user" "$system" /usr/bin/env -i --default-signal=INT,QUIT HOME="/home/$user" \
        USER="$user" SHELL=/bin/bash PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "${passed[@]}" \
        /bin/bash -c "$1" </dev/null
}

as_root() { # COMMAND
    chroot "$system" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive "${passed[@]}" /bin/bash -c "$1" </dev/null
}

mount_system() {
    mount --make-rprivate /
    mount -t proc proc "$system/proc"
    mount --rbind -o ro /sys "$system/sys"
    mount -t tmpfs -o mode=755 tmpfs "$system/dev"
    local name path
    for name in null zero full random urandom tty; do
        touch "$system/dev/$name"
        mount --bind "/dev/$name" "$system/dev/$name"
    done
    mkdir "$system/dev/shm" "$system/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$system/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$system/dev/pts"
    ln -s pts/ptmx "$system/dev/ptmx"
    ln -s /proc/self/fd "$system/dev/fd"
    for path in "${bound[@]}"; do
        if [[ -d $path ]]; then
            mkdir -p "$system$path"
        else
            mkdir -p "$system${path%/*}"
            touch "$system$path"
        fi
        mount --bind "$path" "$system$path"
        mount -o remount,bind,ro "$system$path"
    done
    cp --dereference /etc/resolv.conf "$system/etc/resolv.conf"
}

prove() {
    local line mend
    mount_system
    as_root "useradd --create-home --shell /bin/bash $user"
    git -c safe.directory="$repository" clone --quiet "$repository" "$system/home/$user/pascaline"
    as_root "chown -R $user:$user /home/$user/pascaline"

    say "make setup without python3-venv"
    if line=$(as_newcomer 'cd ~/pascaline && make setup 2>&1'); then
        fail "make setup passed without python3-venv"
    fi
    echo "$line"
    [[ $(grep -c '^setup: ' <<<"$line") == 1 ]] || fail "it should print one line"
    mend=$(sed -n 's/^setup: .*this mends it: //p' <<<"$line")
    [[ $mend == *"apt install python3"*-venv ]] || fail "it should name the package"
    # As the line says, but as root without sudo, and without a question.
    mend=${mend//sudo /}
    mend=${mend/apt install/apt-get install -qq -y --no-install-recommends}
    as_root "apt-get update -qq && $mend" >/dev/null

    local functions=(say clock took free_port wait_for_health ask nothing_left serve_once newcomer)
    as_newcomer "$(declare -f "${functions[@]}"); newcomer"
}

# ---- on this machine ----

main() {
    local folder="" arguments=("$@")
    passed=() bound=()
    while (($#)); do
        case $1 in
        --folder) folder=$(realpath -m "${2:?--folder needs a folder}") ;;
        --pass) [[ -v ${2:?--pass needs a variable} ]] && passed+=("$2=${!2}") ;;
        --bind) bound+=("$(realpath -s "${2:?--bind needs a path}")") ;;
        *) fail "unknown argument $1; the head of this script lists them" ;;
        esac
        shift 2
    done
    [[ $(id -u) == 0 ]] || fail "needs root for the chroot: sudo $0 ${arguments[*]}"
    local tool
    for tool in debootstrap unshare git; do
        command -v "$tool" >/dev/null || fail "needs $tool; mended by: apt install debootstrap util-linux git"
    done

    if [[ -z ${BARE_NAMESPACE:-} ]]; then
        # Everything below runs again in a namespace whose end unmounts and kills all that is in it.
        local temporary="" status=0
        if [[ -z $folder ]]; then
            temporary=$(mktemp -d)
            folder=$temporary
            arguments+=(--folder "$folder")
        fi
        trap "rm -rf --one-file-system -- '$folder/system' ${temporary:+'$temporary'}" EXIT
        BARE_NAMESPACE=1 unshare --mount --pid --fork --kill-child -- "${BASH_SOURCE[0]}" "${arguments[@]}" &
        # unshare itself heeds no other signal while it waits.
        trap "kill -KILL $!" INT TERM
        wait "$!" || status=$?
        exit "$status"
    fi

    local base=$folder/$release
    system=$folder/system
    mkdir -p "$folder"
    if [[ ! -e $base/.complete ]]; then
        say "bootstrapping Debian $release with ${packages[*]}"
        rm -rf --one-file-system -- "$base"
        debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" "$release" "$base"
        touch "$base/.complete"
    fi
    rm -rf --one-file-system -- "$system"
    cp -a --reflink=auto "$base" "$system"
    prove
}

main "$@"
