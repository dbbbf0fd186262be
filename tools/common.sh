# Shared by the scripts in tools/ and .ci/: sourced, never run. Sets `root` and goes there.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' plain=$'\e[0m'
else
    bold='' red='' green='' yellow='' plain=''
fi

# What the scripts themselves have to say goes to stderr; stdout is for the tools that they run.
say() { printf '%s\n' "$*" >&2; }
heading() { printf '%s== %s%s\n' "$bold" "$*" "$plain" >&2; }
good() { printf '%s%s%s\n' "$green" "$*" "$plain" >&2; }
skipped() { printf '%sskipped:%s %s\n' "$yellow" "$plain" "$*" >&2; }
problem() { printf '%s%s:%s %s\n' "$red" "${0##*/}" "$plain" "$*" >&2; }
give_up() { problem "$*"; exit 2; }

# packages_in GROUP...: names from tools/apt-packages, one a line.
packages_in() {
    awk -v groups=" $* " '!/^#/ && NF >= 2 && index(groups, " " $2 " ") { print $1 }' \
        tools/apt-packages
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Runs a command as root: directly, by sudo without a password, or by asking for one on a terminal.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        return 127
    elif sudo -n true 2>/dev/null; then
        sudo -n "$@"
    elif [ -t 0 ] && [ -t 2 ]; then
        say "sudo is needed for: $*"
        sudo "$@"
    else
        return 126
    fi
}

apt_quietly() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=120 \
        "$@" </dev/null >"$apt_log" 2>&1
}

apt_is_fresh=no
apt_log=/dev/null
apt_update_once() {
    [ "$apt_is_fresh" = no ] || return 0
    apt_is_fresh=yes
    apt_quietly update
}

# install_missing GROUP...: installs what is missing of the groups. Without apt, root or network it
# says what is missing and returns 0: what is installed may be enough.
install_missing() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        skipped "no apt here: see tools/apt-packages for what must be installed"
        return 0
    fi
    while read -r package; do
        is_installed "$package" || missing+=("$package")
    done < <(packages_in "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt_log=$(mktemp)
    if ! { apt_update_once; apt_quietly install -y --no-install-recommends "${missing[@]}"; }; then
        skipped "could not install ${missing[*]}: $(first_trouble "$apt_log")"
    fi
    rm -f "$apt_log"
    apt_log=/dev/null
}

# The line of a log that says what went wrong.
first_trouble() {
    local line
    line=$(grep -m 1 -E '^(E:|sudo:)' "$1" || tail -n 1 "$1")
    printf '%s' "${line:-no root, or no network}"
}

# fetch_guests: unpacks the packages of the guest group under .build/guests, as any user, where
# they are not installed anyway.
fetch_guests() {
    local package
    for package in $(packages_in guest); do
        ! is_installed "$package" || continue
        [ ! -e ".build/guests/$package.done" ] || continue
        if unpack_package "$package"; then
            touch ".build/guests/$package.done"
        else
            skipped "could not download the package $package: what needs it is left out"
        fi
    done
}

# guest_file PATH: where a file of one of these packages is; fails where it is nowhere.
guest_file() {
    local place
    for place in "$1" "$root/.build/guests$1"; do
        if [ -r "$place" ]; then
            printf '%s\n' "$place"
            return 0
        fi
    done
    return 1
}

unpack_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local work status=0
    mkdir -p .build/guests
    work=$(mktemp -d)
    chmod 0755 "$work"
    download_package "$work" "$1" || { apt_update_once && download_package "$work" "$1"; } \
        || status=1
    [ $status != 0 ] || dpkg-deb -x "$work/$1"_*.deb .build/guests || status=1
    rm -rf "$work"
    return $status
}

download_package() {
    (cd "$1" && apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
        download "$2" </dev/null >/dev/null 2>&1)
}

# need_swift: goes no further without a Swift toolchain, 6.2 or later. Sets swift_version.
need_swift() {
    local where="https://www.swift.org/install/linux"
    command -v swift >/dev/null || give_up "no swift on the PATH: install Swift 6.2 or later ($where)"
    swift_version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9.]*\).*/\1/p' | head -n 1)
    local major minor
    IFS=. read -r major minor _ <<<"$swift_version"
    [ -n "${minor:-}" ] || give_up "'swift --version' names no version: reinstall Swift ($where)"
    if [ "$major" -lt 6 ] || { [ "$major" = 6 ] && [ "$minor" -lt 2 ]; }; then
        give_up "Swift $swift_version is too old: install 6.2 or later ($where)"
    fi
}

# toolchain_bin: the directory of clang, ld.lld and llvm-objcopy of the Swift toolchain in use. Asked
# of swiftc itself: what is on the PATH may be a proxy (swiftly) or a link.
toolchain_bin() {
    local resources
    resources=$(swiftc -print-target-info 2>/dev/null \
        | sed -n 's/.*"runtimeResourcePath" *: *"\(.*\)\/lib\/swift".*/\1/p')
    [ -x "$resources/bin/clang" ] || give_up "the Swift toolchain has no clang in '$resources/bin'"
    printf '%s/bin\n' "$resources"
}

# Whether this user can run guests; if not, says why.
have_kvm() {
    if [ ! -e /dev/kvm ]; then
        skipped "no /dev/kvm on this machine: nothing can be recorded or replayed here"
        return 1
    fi
    if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
        skipped "no permission for /dev/kvm: join its group ($(stat -c %G /dev/kvm)) or become root"
        return 1
    fi
}
