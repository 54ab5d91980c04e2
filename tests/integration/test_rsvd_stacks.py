"""Shared disks with other VFS modules above and below: the disk's reads and
writes take the way of any other, streams go on as they did, and none is ever
made of the marker in a shared open's name."""

import os
import struct
import unittest

import lab
import rsvd
import smb2

AUDIT = ['full_audit:success = pread_send pwrite_send fsync_send',
         'full_audit:failure = none', 'full_audit:syslog = false',
         'full_audit:prefix = audit']
STACKS = (
    ('hvrs', 'io_uring'),
    ('io_uring', 'hvrs'),
    ('hvrs', 'streams_xattr'),
    ('streams_xattr', 'hvrs'),
    ('acl_xattr', 'streams_xattr', 'hvrs', 'io_uring'),
    ('hvrs', 'acl_xattr', 'streams_xattr', 'shadow_copy2', 'io_uring'),
    ('full_audit', 'hvrs'),
    ('hvrs', 'full_audit'),
)


class Stacks(unittest.TestCase):

    maxDiff = 2000

    def setUp(self):
        self.directory = lab.DIRECTORIES['vm'] + '/t'
        lab.run('rm', '-rf', self.directory)
        os.mkdir(self.directory)
        lab.run('chown', 'hvrs:hvrs', self.directory)
        self.addCleanup(lab.run, 'rm', '-rf', self.directory)

    def start(self, stack):
        self.server = lab.Server({'vm': [
            'vfs objects = ' + ' '.join(stack), 'hvrs:shared disks = yes',
            'shadow:snapdir = .snapshots'] + AUDIT})

    def disk(self):
        return rsvd.Disk(self.server.connect('vm'), 't/disk.vhdx')

    def streams(self, path):
        return [name for name in os.listxattr(path)
                if 'DosStream' in name or 'haredVirtual' in name]

    def exercise(self, stack):
        path = rsvd.make_disk(self.directory + '/disk.vhdx')
        a, b = self.disk(), self.disk()
        data = lab.pattern(lab.MIB, 7)
        self.assertEqual(0, a.write_status(5 * lab.MIB - 4096, data))
        self.assertEqual(0, a.scsi([0x35]).status)
        self.assertEqual((0, data), b.read_status(5 * lab.MIB - 4096,
                                                  lab.MIB))
        self.assertEqual(0, b.scsi(struct.pack('>BBQIxx', 0x8A, 8, 0, 8),
                                   data[:4096]).status)
        self.assertEqual((0, data[:4096]), a.read_status(0, 4096))
        self.assertEqual(0, a.pr_out(rsvd.IGNORE, 0, 0, 1).status)
        self.assertEqual(0, a.pr_out(rsvd.RESERVE, rsvd.WE, 1).status)
        self.assertEqual(rsvd.CONFLICT, b.write_status(0, bytes(512)))
        for disk in (a, b):
            self.assertEqual(0, disk.close())
        self.assertEqual(['disk.vhdx'], os.listdir(self.directory))
        self.assertEqual([], self.streams(path))
        lab.run('qemu-img', 'check', path)
        lab.run('qemu-img', 'convert', '-O', 'raw', path, path + '.raw')
        self.assertEqual(data, lab.content(path + '.raw',
                                           5 * lab.MIB - 4096, lab.MIB))
        os.unlink(path + '.raw')

    def ordinary_streams(self, stack):
        """They are there where the stack has them, on the disk's file too."""
        tree = self.server.connect('vm')
        if 'streams_xattr' in stack:
            stream = tree.create('t/disk.vhdx:notes')
            stream.write(0, b'notes')
            stream.close()
            self.assertEqual(1, len(self.streams(self.directory +
                                                 '/disk.vhdx')))
            self.assertEqual(b'notes', tree.create(
                't/disk.vhdx:notes').read(0, 100))
        else:
            with self.assertRaises(smb2.StatusError):
                tree.create('t/disk.vhdx:notes')

    def seen(self, stack):
        """full_audit sees what the server reads, writes and flushes."""
        for name in ('pread_send', 'pwrite_send', 'fsync_send'):
            if 'full_audit' in stack:
                self.assertTrue(self.server.lines(
                    r'audit\|%s\|ok.*disk\.vhdx' % name), name)

    def test_stacks(self):
        for stack in STACKS:
            with self.subTest(' '.join(stack)):
                self.start(stack)
                try:
                    self.exercise(stack)
                    self.ordinary_streams(stack)
                    self.seen(stack)
                    self.server.alive()
                finally:
                    self.server.stop()
                    os.unlink(self.directory + '/disk.vhdx')


if __name__ == '__main__':
    unittest.main()
