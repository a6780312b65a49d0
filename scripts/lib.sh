# What the scripts share. To be sourced by bash, from the top of the tree.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need PROGRAM:PACKAGE...: installs the packages whose programs are missing.
need() {
    local wanted=() pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || wanted+=("${pair##*:}")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        if sudo -n true 2>/dev/null; then sudo=(sudo -n); else
            echo "These packages are missing, and this user may not install them: ${wanted[*]}" >&2
            return 1
        fi
    fi
    command -v apt-get >/dev/null || { echo "Install these packages (there is no apt-get here): ${wanted[*]}" >&2; return 1; }
    echo "Installing: ${wanted[*]}"
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive timeout -k 10 900 apt-get -o DPkg::Lock::Timeout=300 -qq)
    "${apt[@]}" install -y --no-install-recommends "${wanted[@]}" >/dev/null 2>&1 </dev/null && return 0
    "${apt[@]}" update </dev/null >/dev/null || true
    "${apt[@]}" install -y --no-install-recommends "${wanted[@]}" </dev/null >/dev/null
}

# What a build needs: Rust, and a C compiler for the codecs.
need_build() {
    need cc:gcc make:make pkg-config:pkg-config || true
    command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || export PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.88 or later (rustup)"
}

# Lets every user open /dev/fuse, as most systems do.
open_fuse() {
    [ -e /dev/fuse ] || { [ "$(id -u)" = 0 ] && modprobe fuse 2>/dev/null || true; }
    [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ] || chmod a+rw /dev/fuse
}
