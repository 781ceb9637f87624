#!/usr/bin/env bash
# Puts Debian's prometheus, promtool and prometheus-alertmanager under DIRECTORY, without installing anything:
# the packages themselves would start services.
#
#   .ci/prometheus.sh DIRECTORY      # they are in DIRECTORY/usr/bin
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1/usr/bin"
target=$(cd "$1/usr/bin" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
for package in prometheus prometheus-alertmanager; do
    apt-get download "$package" >/dev/null 2>&1 || {
        apt-get update >/dev/null
        apt-get download "$package" >/dev/null
    }
done
for archive in ./*.deb; do dpkg-deb -x "$archive" root; done
for program in prometheus promtool prometheus-alertmanager amtool; do
    [ -x "root/usr/bin/$program" ] && install -m 755 "root/usr/bin/$program" "$target/$program"
done
"$target/promtool" --version 2>&1 | head -1
