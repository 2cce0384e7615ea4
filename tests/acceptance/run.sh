#!/usr/bin/env bash
# docs/operate.md and docs/runbook.md, followed to the letter on a bare Debian, and the firewalls of docs/firewall.md.
#
#     tests/acceptance/run.sh target/debian/adit_0.1.0-1_amd64.deb
#
# The root file system is unpacked anew, and entered by chroot in namespaces of its own: network (loopback alone), mounts,
# processes. Whatever was started there ends with it. systemd does not run in a chroot: systemctl.py stands in, and says
# what it does of a unit and what not.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
package=$(realpath "${1:?which package?}")
[ "$(id -u)" -eq 0 ] || { echo "error: this takes root" >&2; exit 1; }
scratch=$(mktemp -d "$top/target/acceptance/run.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT
root=$scratch/root
mkdir "$root"
tar -C "$root" -xf "$top/target/acceptance/root.tar"
cp "$package" "$root/root/"
mkdir "$root/acceptance"
cp "$top"/docs/{operate,runbook,firewall}.md "$top"/tests/acceptance/*.py "$root/acceptance/"
# Where maintainers' scripts find it, too.
install -m 755 "$top/tests/acceptance/systemctl.py" "$root/usr/bin/systemctl"
# In there nothing is known of this environment.
colours=never
[ -t 1 ] && colours=always
unshare --net --mount --pid --ipc --uts --fork --kill-child env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c '
        set -e
        mount --make-rprivate /
        mount --bind "$1" "$1"
        mount -t proc proc "$1/proc"
        mount -t tmpfs tmpfs "$1/run"
        mount --rbind /dev "$1/dev"
        ip link set lo up
        chroot "$1" python3 /acceptance/firewall.py
        exec chroot "$1" python3 /acceptance/follow.py "$2"
    ' sh "$root" "$colours"
