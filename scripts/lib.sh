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

# `--help` prints the comment at the top of the script, whichever it is.
case ${1-} in
-h | --help)
    sed -n '4,/^[^#]/s/^# \?//p' "$0"
    exit
    ;;
esac

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

# apt with its own sources, lists and cache, all under the Ferry cache. Of the system's apt it reads
# the list of installed packages, the archive's keys, and how the network is reached (proxies,
# credentials, time-outs); no hooks, no preferences, no sources. It writes nothing of the system's.
FERRY_APT_DIR=$FERRY_CACHE/apt
FERRY_MIRROR=${FERRY_MIRROR:-http://deb.debian.org/debian}

# Has private_apt speak of another release than the system's, on which nothing is installed.
foreign_apt()
{
    FERRY_APT_RELEASE=$1
    FERRY_APT_DIR=$FERRY_CACHE/apt-$1
}

private_apt()
{
    local tool=$1
    shift
    APT_CONFIG=$FERRY_APT_DIR/apt.conf "$tool" -q "$@" 9>&-
}

# What the system's apt is told about the network.
apt_network_settings()
{
    apt-config dump | grep -E '^Acquire::((http|https)::|Check-|ForceIPv|Max-ValidTime|Retries )' || true
}

# Writes what private_apt goes by.
private_apt_settings()
{
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    local release=${FERRY_APT_RELEASE:-$(debian_codename)}

    [ -r "$keys" ] || die "cannot verify Debian packages: $keys is missing (package debian-archive-keyring)"
    mkdir -p "$FERRY_APT_DIR/lists/partial" "$FERRY_APT_DIR/cache/archives/partial"
    {
        apt_network_settings
        cat <<EOF
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$FERRY_APT_DIR/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$FERRY_APT_DIR/lists";
Dir::Cache "$FERRY_APT_DIR/cache";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "1";
EOF
        if [ -n "${FERRY_APT_RELEASE-}" ]; then
            : >"$FERRY_APT_DIR/status"
            echo "Dir::State::Status \"$FERRY_APT_DIR/status\";"
        fi
    } >"$FERRY_APT_DIR/apt.conf"
    {
        [ -n "${FERRY_APT_RELEASE-}" ] || echo "deb-src [signed-by=$keys] $FERRY_MIRROR trixie main"
        echo "deb [signed-by=$keys] $FERRY_MIRROR ${release:-trixie} main"
        if [ -z "${FERRY_APT_RELEASE-}" ] && [ "$release" = bookworm ]; then
            echo "deb [signed-by=$keys] $FERRY_MIRROR bookworm-backports main"
        fi
    } >"$FERRY_APT_DIR/sources.list"
}

# Brings the private package lists up to date. Fails quietly into FERRY_APT_DIR/log.
private_apt_update()
{
    private_apt_settings
    private_apt apt-get update -o APT::Update::Error-Mode=any >"$FERRY_APT_DIR/log" 2>&1
}

# Why private_apt_update failed, in a line.
apt_problem()
{
    grep -m1 '^[EW]:' "$FERRY_APT_DIR/log" || echo 'apt-get update failed'
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
