#!/usr/bin/env bash
# Puts Debian's prometheus, promtool, prometheus-alertmanager and amtool under DIRECTORY, without installing the
# packages: they would start services. Alertmanager reads its templates from /usr/share and nowhere else, so those
# go there, where they are missing and may be written.
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
templates=usr/share/prometheus/alertmanager
if [ "$(id -u)" = 0 ]; then
    for template in "root/$templates"/*.tmpl; do
        [ -e "/$templates/${template##*/}" ] || install -D -m 644 "$template" "/$templates/${template##*/}"
    done
fi
"$target/promtool" --version 2>&1 | head -1
