"""A plugin of nbdkit whose disk is a shared virtual disk, as a guest has it:
nbdfuse and a loop device make it a disk of the kernel.  Its parameters are
smbd's port, the share, and the name of the disk on it.  A request that fails is
an exception, which nbdkit prints and answers with EIO."""

import errno
import os
import struct
import sys

import nbdkit

sys.path.append(os.path.dirname(__file__))

import rsvd
import smb2

API_VERSION = 2

parameters = {}


def config(key, value):
    parameters[key] = value


def open(readonly):
    connection = smb2.Connection(int(parameters['port']))
    tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'),
                     parameters['share'])
    return rsvd.Disk(tree, parameters['name'])


def close(disk):
    status = disk.close()
    if status != smb2.OK:
        raise smb2.StatusError(status, 'close')


def scsi(disk, cdb, out=b'', room=0):
    result = disk.scsi(cdb, out, room)
    if result.status != rsvd.GOOD:
        raise RuntimeError('SCSI command %#x: status %#x, sense %06x' % (
            cdb[0], result.status, result.sense))
    return result.data


def capacity(disk):
    """(sectors, bytes of one)"""
    last, sector = struct.unpack_from('>QI', scsi(
        disk, [0x9E, 0x10] + [0] * 11 + [32], room=32))
    return last + 1, sector


def get_size(disk):
    sectors, sector = capacity(disk)
    return sectors * sector


def pread(disk, buffer, offset, flags):
    buffer[:] = disk.read(offset, len(buffer))


def pwrite(disk, buffer, offset, flags):
    disk.write(offset, buffer)


def flush(disk, flags):
    """nbdkit asks for it behind what is to be written through (FUA) as well.
    """
    scsi(disk, [0x35])


def trim(disk, count, offset, flags):
    _, sector = capacity(disk)
    if offset % sector or count % sector:
        nbdkit.set_error(errno.EINVAL)
        raise RuntimeError('trim of %d bytes at %d' % (count, offset))
    scsi(disk, [0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
        '>HHIQII', 22, 16, 0, offset // sector, count // sector, 0))
