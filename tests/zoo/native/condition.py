"""Waits in native code for what never comes."""

import ctypes

TRUTH = {"state": "hung", "cause": "native-wait", "blame": ["wait_natively"]}


def wait_natively():
    libc = ctypes.CDLL(None)
    condition, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("READY", flush=True)
    libc.pthread_cond_wait(condition, mutex)


wait_natively()
