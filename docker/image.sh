#!/usr/bin/env bash
# Builds the image with buildah from nothing but the built program and this machine's libraries, writes it as an OCI archive,
# and then tries what is in the archive: its root file system, unpacked, its user, its command, its health check, read-only.
#
#     docker/image.sh target/release/adit target/image
#
# Load it with `podman load -i target/image/adit.tar`, or `skopeo copy oci-archive:… docker-daemon:adit:latest`.
set -euo pipefail
program=$(realpath "${1:?which adit?}")
target=$(mkdir -p "${2:?to which folder?}" && realpath "$2")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ "$(id -u)" -eq 0 ] || { echo "error: this gives files to the image's user, which takes root" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
version=$("$program" --version | cut -d ' ' -f 2)

# A storage of its own, and nothing that needs an engine: no layers are run, only copied.
buildah() { command buildah --root "$scratch/storage" --runroot "$scratch/run" --storage-driver vfs "$@"; }
"$here/rootfs.sh" "$program" "$scratch/root"
image=$(buildah from scratch)
# `buildah copy` would give everything to root.
cp -a "$scratch/root/." "$(buildah mount "$image")"
buildah umount "$image" >/dev/null
buildah config --user 10001:10001 --workingdir /var/lib/adit --env ADIT__TUNNEL__TLS__DIR=certs \
    --env PATH=/usr/local/bin --port 8080 --port 9090 --stop-signal SIGTERM --entrypoint '["adit"]' \
    --cmd 'server --config /etc/adit/server.toml' --label org.opencontainers.image.title=adit \
    --label "org.opencontainers.image.version=$version" \
    --label 'org.opencontainers.image.licenses=MIT OR Apache-2.0' "$image"
rm -f "$target/adit.tar"
buildah commit --quiet "$image" "oci-archive:$target/adit.tar:adit:$version" >/dev/null
echo "built: $target/adit.tar, $(du -h "$target/adit.tar" | cut -f 1)"

mkdir "$scratch/archive"
tar -C "$scratch/archive" -xf "$target/adit.tar"
unshare --net --mount --pid --fork --kill-child python3 "$here/try.py" "$scratch/archive" "$scratch/unpacked"
