"""Wire forms of offload data transfer, [MS-FSCC] 2.3.41 to 2.3.44, and who
holds tokens."""

import struct

import lab
import smb2
from fsctl import number

OFFLOAD_READ = 0x00094264
OFFLOAD_WRITE = 0x00098268

INVALID_TOKEN = 0xC0000465
READ_FILE_NOT_SUPPORTED = 0xC000A2A3
WRITE_FILE_NOT_SUPPORTED = 0xC000A2A4

# Processes that hold tokens of clients that have gone.
PLACES = 32

ZERO = bytes.fromhex('FFFF0001 0000 01F8') + bytes(504)


def read(offset, length, lifetime=0, size=32, flags=0):
    return struct.pack('<IIIIQQ', size, flags, lifetime, 0, number(offset),
                       number(length))


def write(offset, length, token, start=0, size=544, flags=0):
    return struct.pack('<IIQQQ', size, flags, number(offset), number(length),
                       number(start)) + token


def get(file, offset, length, lifetime=0):
    """(transfer length, flags, token), or a StatusError."""
    status, out = file.fsctl(OFFLOAD_READ, read(offset, length, lifetime),
                             528)
    if status != smb2.OK:
        raise smb2.StatusError(status, 'offload read')
    size, flags, moved = struct.unpack_from('<IIQ', out)
    assert size == 528 and len(out) == 528, (size, len(out))
    return moved, flags, out[16:]


def put_once(file, offset, length, token, start=0):
    """Bytes written by one request."""
    status, out = file.fsctl(OFFLOAD_WRITE, write(offset, length, token,
                                                  start), 16)
    if status != smb2.OK:
        raise smb2.StatusError(status, 'offload write')
    size, flags, done = struct.unpack('<IIQ', out)
    assert size == 16 and flags == 0, (size, flags)
    return done


def put(file, offset, length, token, start=0):
    """All of it, in as many requests as the server wants."""
    done = 0
    while done < length:
        part = put_once(file, offset + done, length - done, token,
                        start + done)
        assert 0 < part <= length - done, part
        done += part
    return done


def copy(source, target, offset, to, length):
    """As a client copies: tokens, each written until it is used up."""
    done = 0
    while done < length:
        moved, _, token = get(source, offset + done, length - done)
        assert 0 < moved <= length - done, moved
        put(target, to + done, moved, token)
        done += moved


def holders(server):
    """Pids of those processes of a server."""
    return lab.who_has(server.directory + '/lock/hvrs_tokens.holders')
