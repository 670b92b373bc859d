# SPDX-License-Identifier: MIT OR Apache-2.0
# sourced by every peer script: PEER up|down; "up" prints the mount points, one a line
P=${PEERS_DIR:-/tmp/corral-bench}; N=$(basename "$0"); D=$P/run/$N; mkdir -p "$D"
IMG=$P/img/$N.img; IMGSZ=${IMGSZ:-6G}; mkdir -p "$P/img"
umnt(){ grep -q " $1 " /proc/self/mounts && { umount "$1" 2>/dev/null || { sleep 1; umount "$1" || umount -l "$1"; }; }; return 0; }
stoppid(){ [ -f "$1" ] || return 0; local p; p=$(cat "$1"); [ -n "$p" ] && kill "$p" 2>/dev/null; for _ in $(seq 50); do [ -d "/proc/$p" ] || break; sleep .1; done; [ -d "/proc/$p" ] && kill -9 "$p"; rm -f "$1"; return 0; }
waitmnt(){ for _ in $(seq 100); do mountpoint -q "$1" && return 0; sleep .1; done; echo "no mount at $1" >&2; return 1; }
# a private network: namespace NS with 10.77.K.1 on its loopback
netns_up(){ ip netns add "$1" 2>/dev/null || true; ip -n "$1" link set lo up; ip -n "$1" addr add "$2/32" dev lo 2>/dev/null || true; }
inns(){ local n=$1; shift; nsenter --net=/run/netns/"$n" "$@"; }
set -e
