#!/bin/bash
# Installs the emulator that the comparison bench runs beside Softmetal: QEMU, from the release's backports where there are
# any, else from the release itself. Doing it again does nothing. Needs apt and root.
# usage: setup-peers.sh
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
say() { echo "setup-peers: $*" >&2; }
major() { qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\).*/\1/p'; }

command -v apt-get >/dev/null || { say "no apt-get here: install qemu-system-x86_64 by your system's own means"; exit 2; }
if [ "$(major)" ] && [ "$(major)" -ge 10 ]; then say "QEMU $(major) is installed"; exit 0; fi
[ "$(id -u)" = 0 ] || { say "run this as root (sudo $0)"; exit 2; }
. /etc/os-release
release=${VERSION_CODENAME:-}
from=()
if [ "${ID:-}" = debian ] && [ "$release" ]; then
    list=/etc/apt/sources.list.d/softmetal-backports.list
    if ! apt-get indextargets --format '$(RELEASE)' | grep -qx "$release-backports"; then
        # The same mirror that serves the release serves its backports.
        mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | awk -v r="$release" '$1 == r { print $2; exit }')
        key=/usr/share/keyrings/debian-archive-keyring.gpg
        [ -z "$mirror" ] || echo "deb $([ -e $key ] && echo "[signed-by=$key]") $mirror $release-backports main" > "$list"
    fi
    apt-get update -q || { rm -f "$list"; apt-get update -q; }
    version=$(apt-cache madison qemu-system-x86 | awk -F' *[|] *' -v s="$release-backports/" 'index($3, s) { print $2; exit }')
    [ -z "$version" ] || from=(-t "$release-backports")
else
    apt-get update -q
fi
apt-get install -y -q --no-install-recommends "${from[@]}" qemu-system-x86
say "$(qemu-system-x86_64 --version | head -1)"
