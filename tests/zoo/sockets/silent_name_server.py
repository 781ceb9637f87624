"""Looks up a name; the name server never answers. In a mount namespace of its own: /etc stays as it is."""

import ctypes
import os
import socket
import tempfile
import urllib.request

TRUTH = {"state": "hung", "cause": "dns", "blame": ["download"], "needs": ["tmpfs", "root"]}
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000


def use_name_server(address):
    libc = ctypes.CDLL(None, use_errno=True)
    path = tempfile.mkstemp()[1]
    with open(path, "w") as file:
        file.write(f"nameserver {address}\noptions timeout:60 attempts:5\n")
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    assert libc.mount(path.encode(), b"/etc/resolv.conf", None, MS_BIND, None) == 0


def download(url):
    return urllib.request.urlopen(url).read()


def main():
    # An address of the loopback that is this process's alone: tests that run beside it have others.
    pid = os.getpid()
    address = f"127.{1 + pid % 200}.{pid // 200 % 250}.{1 + pid // 50000 % 250}"
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind((address, 53))
    use_name_server(address)
    print("READY", flush=True)
    download("http://data.example.com/shard-00000.tar")


main()
