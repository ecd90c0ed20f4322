# shellcheck shell=bash
# Sourced by setup.sh, whose functions it uses: nginx, which splits the requests of a canary (docs/canary.md).
#
# An nginx of the machine is taken where there is one. Else Debian's or Ubuntu's goes into .tools/nginx, with the
# libraries that this machine lacks, and a command `nginx` into .venv/bin. Nothing else needs nginx: where it
# cannot be had, the set-up says so and goes on.
tools=${tools:?}

fetch_nginx() {
    command -v apt-get >/dev/null || return
    start_apt
    # Like `apt-get install`, but without root, and only the download: nginx and what is not installed of its needs.
    own_apt install --download-only --no-install-recommends --yes -o Debug::NoLocking=1 nginx >&2 || return
    rm -rf "$tools/nginx.new"
    local deb
    for deb in "$tools"/apt/archives/*.deb; do dpkg -x "$deb" "$tools/nginx.new" || return; done
    rm -rf "$tools/nginx" "$tools/apt"
    mv "$tools/nginx.new" "$tools/nginx"
}

the_machine_has_nginx() {
    local found
    found=$(PATH=$PATH:/usr/local/sbin:/usr/sbin command -v nginx) && case $found in "$PWD"/*) return 1 ;; esac
}

install_nginx() {
    ! the_machine_has_nginx || return 0
    if [ ! -x "$tools/nginx/usr/sbin/nginx" ]; then
        say "fetching nginx"
        fetch_nginx || return
    fi
    local libraries
    libraries=$(find "$tools/nginx" -name 'lib*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    printf '#!/bin/sh\n%sexec "%s" "$@"\n' "${libraries:+LD_LIBRARY_PATH=\"$libraries\" }" \
        "$tools/nginx/usr/sbin/nginx" >.venv/bin/nginx.new
    chmod +x .venv/bin/nginx.new
    .venv/bin/nginx.new -v 2>/dev/null || return
    mv .venv/bin/nginx.new .venv/bin/nginx
}

install_nginx || say "nginx could not be fetched: all works but canaries (serving.canary); for these install nginx"
