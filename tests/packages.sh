# For scripts to source: install_packages PACKAGE…
#
# Installs Debian packages by apt-get, if this is root or `sudo` asks for no password. Otherwise it ends the script and
# says what is missing. Needs `say`, for a person to read; leaves in `as_root` what makes root of a command.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    if [ "$(id -u)" -eq 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        say "error: this needs $*, and installing takes root; run: apt-get install $*"
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        say "error: this needs $*, and there is no apt-get; install them with this system's package manager"
        exit 1
    fi
    say "installing $*"
    # In a shell of its own: what it traps is its own, too.
    (
        # Debian starts a service when its package is installed; a policy that answers 101 ("not allowed") keeps it from
        # that (invoke-rc.d(8)). A policy of the system's own stays as it is.
        if [ ! -e "$policy" ]; then
            trap '"${as_root[@]}" rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
            "${as_root[@]}" chmod 755 "$policy"
        fi
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
    )
}
