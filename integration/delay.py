#!/usr/bin/env python3
"""Joins two network interfaces as a slow, lossy wire would, where the kernel has no netem.

usage: delay.py ONE OTHER SECONDS SHARE      what each frame is held back, and the share of frames that is lost
       delay.py --plain NAME                 has what sends over an interface make whole frames, with their checksums
"""
import collections
import ctypes
import fcntl
import random
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 3
OUTGOING = 4
FRAME_BYTES_MAX = 1 << 16


SIOCETHTOOL = 0x8946
# Checksums, scatter-gather, TCP and generic segmentation: left to a device, frames leave without them.
OFFLOADS = (0x17, 0x19, 0x1F, 0x24)


def plain(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for offload in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", offload, 0))
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


def join():
    names, seconds, share = sys.argv[1:3], float(sys.argv[3]), float(sys.argv[4])
    ends = []
    for name in names:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        end.bind((name, 0))
        ends.append(end)
    others = {ends[0]: ends[1], ends[1]: ends[0]}
    held = collections.deque()
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        for end in select.select(ends, [], [], wait)[0]:
            frame, address = end.recvfrom(FRAME_BYTES_MAX)
            # What this program itself has sent comes back as outgoing.
            if address[2] != OUTGOING and random.random() >= share:
                held.append((time.monotonic() + seconds, others[end], frame))
        while held and held[0][0] <= time.monotonic():
            _, end, frame = held.popleft()
            end.send(frame)


if sys.argv[1] == "--plain":
    plain(sys.argv[2])
else:
    join()
