"""Names of the system calls in which a training may be found waiting; the others keep their number.

From Linux's `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h` (aarch64).
"""

from __future__ import annotations

_X86_64 = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 6: "lstat", 7: "poll", 8: "lseek",
    9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 16: "ioctl", 17: "pread64", 18: "pwrite64",
    19: "readv", 20: "writev", 23: "select", 24: "sched_yield", 25: "mremap", 28: "madvise", 34: "pause",
    35: "nanosleep", 40: "sendfile", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom",
    46: "sendmsg", 47: "recvmsg", 56: "clone", 57: "fork", 58: "vfork", 59: "execve", 60: "exit",
    61: "wait4", 62: "kill", 65: "semop", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
    76: "truncate", 77: "ftruncate", 78: "getdents", 82: "rename", 87: "unlink", 101: "ptrace",
    128: "rt_sigtimedwait", 130: "rt_sigsuspend", 162: "sync", 165: "mount", 202: "futex",
    208: "io_getevents", 217: "getdents64", 219: "restart_syscall", 220: "semtimedop",
    230: "clock_nanosleep", 231: "exit_group", 232: "epoll_wait", 233: "epoll_ctl", 242: "mq_timedsend",
    243: "mq_timedreceive", 247: "waitid", 257: "openat", 262: "newfstatat", 270: "pselect6", 271: "ppoll",
    275: "splice", 277: "sync_file_range", 281: "epoll_pwait", 285: "fallocate", 288: "accept4",
    293: "pipe2", 299: "recvmmsg", 306: "syncfs", 307: "sendmmsg", 310: "process_vm_readv",
    318: "getrandom", 326: "copy_file_range", 332: "statx",
}  # fmt: skip

_AARCH64 = {
    4: "io_getevents", 21: "epoll_ctl", 22: "epoll_pwait", 25: "fcntl", 29: "ioctl", 32: "flock",
    35: "unlinkat", 38: "renameat", 40: "mount", 45: "truncate", 46: "ftruncate", 47: "fallocate",
    56: "openat", 57: "close", 59: "pipe2", 61: "getdents64", 62: "lseek", 63: "read", 64: "write",
    65: "readv", 66: "writev", 67: "pread64", 68: "pwrite64", 71: "sendfile", 72: "pselect6", 73: "ppoll",
    76: "splice", 79: "newfstatat", 80: "fstat", 81: "sync", 82: "fsync", 83: "fdatasync",
    84: "sync_file_range", 93: "exit", 94: "exit_group", 95: "waitid", 98: "futex", 101: "nanosleep",
    115: "clock_nanosleep", 117: "ptrace", 124: "sched_yield", 128: "restart_syscall", 129: "kill",
    133: "rt_sigsuspend", 137: "rt_sigtimedwait", 182: "mq_timedsend", 183: "mq_timedreceive",
    192: "semtimedop", 193: "semop", 202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom",
    211: "sendmsg", 212: "recvmsg", 214: "brk", 215: "munmap", 216: "mremap", 220: "clone", 221: "execve",
    222: "mmap", 226: "mprotect", 233: "madvise", 242: "accept4", 243: "recvmmsg", 260: "wait4",
    267: "syncfs", 269: "sendmmsg", 270: "process_vm_readv", 276: "renameat2", 278: "getrandom",
    285: "copy_file_range", 291: "statx",
}  # fmt: skip

# Since Linux 5.1 all architectures number alike.
_ALIKE = {
    426: "io_uring_enter", 435: "clone3", 437: "openat2", 441: "epoll_pwait2", 449: "futex_waitv",
    454: "futex_wake", 455: "futex_wait", 456: "futex_requeue",
}  # fmt: skip

_TABLES = {"x86_64": _X86_64, "aarch64": _AARCH64, "arm64": _AARCH64}


def name(number: int, machine: str) -> str:
    """`futex`, or `syscall 999` where the table does not know it, `none` for -1 (blocked outside of any)."""
    if number < 0:
        return "none"
    return _ALIKE.get(number) or _TABLES.get(machine, {}).get(number) or f"syscall {number}"
