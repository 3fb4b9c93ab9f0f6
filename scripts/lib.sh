# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What every script here shares: where things are, how to complain, and apt with a configuration
# of its own. Sourced, never run.

# The checkout, with symbolic links resolved: build directories remember it.
FERRY_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034 # used by the scripts that source this file
FERRY_BUILD=$FERRY_ROOT/build
FERRY_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ferry
# shellcheck disable=SC2034 # used by the scripts that source this file
FERRY_JOBS=${FERRY_JOBS:-$(nproc)}

say()
{
    printf '%s\n' "$*" >&2
}

die()
{
    say "${0##*/}: $*"
    exit 1
}

# Holds an exclusive lock on FILE until this shell ends. Children must not inherit it, or a
# daemon started below would keep it: close descriptor 9 in those (`9>&-`).
hold_lock()
{
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    flock -n 9 || {
        say "waiting for another ${0##*/} to finish ($1)"
        flock 9
    }
}

# Debian's code name of the running system: bookworm, trixie, ... Empty when it is not Debian.
debian_codename()
{
    # shellcheck disable=SC1091
    [ -r /etc/os-release ] && (. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME")
}

# apt with its own sources, lists and cache, all under the Ferry cache: nothing of the system's is
# read but the list of installed packages and the archive's keys, and nothing is written.
# FERRY_APT_DIR and sources.list are made by private_apt_update.
FERRY_APT_DIR=$FERRY_CACHE/apt
FERRY_MIRROR=${FERRY_MIRROR:-http://deb.debian.org/debian}

private_apt()
{
    local tool=$1
    shift
    "$tool" -q \
        -o Dir::Etc::SourceList="$FERRY_APT_DIR/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$FERRY_APT_DIR/lists" \
        -o Dir::Cache="$FERRY_APT_DIR/cache" \
        -o APT::Sandbox::User=root \
        -o APT::Get::AllowUnauthenticated=false \
        -o Acquire::AllowInsecureRepositories=false \
        -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::Retries=3 \
        -o Debug::NoLocking=1 "$@" 9>&-
}

# Brings the private package lists up to date. Fails quietly into FERRY_APT_DIR/log.
private_apt_update()
{
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    local release
    release=$(debian_codename)

    [ -r "$keys" ] || die "cannot verify Debian packages: $keys is missing (package debian-archive-keyring)"
    mkdir -p "$FERRY_APT_DIR/lists/partial" "$FERRY_APT_DIR/cache/archives/partial"
    {
        echo "deb-src [signed-by=$keys] $FERRY_MIRROR trixie main"
        echo "deb [signed-by=$keys] $FERRY_MIRROR ${release:-trixie} main"
        if [ "$release" = bookworm ]; then
            echo "deb [signed-by=$keys] $FERRY_MIRROR bookworm-backports main"
        fi
    } >"$FERRY_APT_DIR/sources.list"
    private_apt apt-get update -o APT::Update::Error-Mode=any >"$FERRY_APT_DIR/log" 2>&1
}

# Puts a private Meson first in the path when the system's is older than QEMU wants (1.5).
# The private one is an unpacked Debian package; see fetch-qemu.
use_meson()
{
    local dir
    if [ -d "$FERRY_CACHE/meson/current/usr" ]; then
        dir=$(cd "$FERRY_CACHE/meson/current/usr" && pwd -P)
        export PATH="$dir/bin:$PATH"
        export PYTHONPATH="$dir/lib/python3/dist-packages${PYTHONPATH:+:$PYTHONPATH}"
    fi
}

# Compilers go through ccache. The checkout's own path is kept out of what is hashed, so that a
# fresh clone, or the ungrafted tree beside the grafted one, finds what was compiled before.
use_ccache()
{
    export CCACHE_DIR=$FERRY_CACHE/ccache
    export CCACHE_BASEDIR=$FERRY_ROOT
    export CCACHE_NOHASHDIR=1
    export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-3G}
}
