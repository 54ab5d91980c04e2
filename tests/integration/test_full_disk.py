"""A full disk: what needs no space works, what needs some ends with
DISK_FULL, and nothing is lost."""

import os
import struct
import time
import unittest

import fsctl
import lab
import odx
import smb2
from smb2 import DISK_FULL, OK

MIB = lab.MIB
DATA = lab.pattern(MIB, 31)


class FullDisk(lab.Case):
    share = 'disk'
    kind = None

    @classmethod
    def setUpClass(cls):
        if cls.kind is None:
            raise unittest.SkipTest('a base of other classes')
        cls.disk = lab.LoopDisk(cls.kind)
        cls.addClassCleanup(cls.disk.remove)
        cls.shares = {
            'disk': (cls.disk.share, ['vfs objects = hvrs']),
            'keep': (cls.disk.share, ['vfs objects = hvrs',
                                      'hvrs:zero data frees = no'])}
        super().setUpClass()

    def fill(self):
        lab.fill(self.make('filler'))

    def test_zero_and_trim_need_no_space(self):
        path = self.make(data=DATA)
        lab.settle(path)
        file = self.open()
        self.fill()
        self.expect_fsctl(OK, file, fsctl.FILE_LEVEL_TRIM,
                          fsctl.trim((0, 262144)))
        self.expect_fsctl(OK, file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(262144, 524288))
        self.assert_bytes(bytes(524288) + DATA[524288:], lab.content(path))
        self.assertEqual(524288, lab.mapped(path, 0, MIB))

    def test_hole_that_shall_be_kept_as_space(self):
        """zero data frees = no over a hole wants blocks: there are none."""
        path = self.make(data=DATA, size=256 * MIB)
        lab.settle(path)
        file = self.open(tree=self.connect('keep'))
        self.fill()
        self.expect_fsctl(DISK_FULL, file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(MIB, 256 * MIB))
        self.assert_bytes(DATA, lab.content(path, 0, MIB))
        self.assert_bytes(bytes(MIB), lab.content(path, 128 * MIB, MIB))
        self.assertEqual(256 * MIB, os.stat(path).st_size)
        self.server.alive()

    def test_unsparse_without_space(self):
        path = self.make(data=DATA, size=300 * MIB)
        file = self.open()
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        lab.settle(path)
        self.fill()
        self.expect_fsctl(DISK_FULL, file, fsctl.SET_SPARSE, b'\0')
        file.close()
        self.assertTrue(self.open().attributes & smb2.SPARSE)
        self.assert_bytes(DATA, lab.content(path, 0, MIB))
        self.assert_bytes(bytes(MIB), lab.content(path, 200 * MIB, MIB))
        self.server.alive()

    def pieces(self, name, count, seed):
        """A file of many extents, so that a clone needs room for them."""
        path = self.make(name, size=count * 8192)
        piece = lab.pattern(4096, seed)
        with open(path, 'r+b') as file:
            for i in range(count):
                file.seek(i * 8192)
                file.write(piece)
        lab.settle(path)
        return path

    def clone_on_full_disk(self, flags):
        count = 20000
        source_path = self.pieces('source.vhdx', count, 41)
        path = self.pieces('disk.vhdx', count, 42)
        old, new = lab.content(path), lab.content(source_path)
        source, file = self.open('source.vhdx'), self.open()
        self.fill()
        status, _ = file.fsctl(fsctl.DUPLICATE_EXTENTS_EX, fsctl.clone_ex(
            source, 0, 0, count * 8192, flags))
        self.assertIn(status, (OK, DISK_FULL), smb2.status_name(status))
        self.assert_bytes(new, lab.content(source_path), 'source')
        self.server.alive()
        return status, old, new, lab.content(path)

    def test_clone(self):
        """Every block is the old or the new one."""
        status, old, new, found = self.clone_on_full_disk(0)
        if status == OK:
            self.assert_bytes(new, found)
        for at in range(0, len(found), 4096):
            block = found[at:at + 4096]
            if block not in (old[at:at + 4096], new[at:at + 4096]):
                self.fail('the block at %d is neither old nor new' % at)

    def test_atomic_clone(self):
        """All of the target is old, or all of it is new."""
        status, old, new, found = self.clone_on_full_disk(1)
        self.assert_bytes(new if status == OK else old, found)


    def offload(self, access):
        count = 3000
        source_path = self.pieces('source.vhdx', count, 43)
        path = self.pieces('disk.vhdx', count, 44)
        old, new = lab.content(path), lab.content(source_path)
        source = self.open('source.vhdx', access=access)
        file = self.open()
        tokens = []
        for _ in range(2):
            status, out = source.fsctl(odx.OFFLOAD_READ,
                                       odx.read(0, len(new)), 528)
            self.assertIn(status, (OK, DISK_FULL))
            tokens += [out[16:]] if status == OK else []
            self.fill()
        # The source is changed before the second try.
        for _ in range(2):
            for token in tokens:
                status, _ = file.fsctl(odx.OFFLOAD_WRITE,
                                       odx.write(0, len(new), token), 16)
                self.assertIn(status, (OK, DISK_FULL, odx.INVALID_TOKEN))
                found = lab.content(path)
                for at in range(0, len(found), 4096):
                    self.assertIn(found[at:at + 4096], (
                        old[at:at + 4096], new[at:at + 4096]))
            begun = time.monotonic()
            try:
                with open(source_path, 'r+b', buffering=0) as out:
                    out.write(b'x' * 4096)
            except OSError as error:
                self.assertEqual(lab.errno.ENOSPC, error.errno)
            self.assertLess(time.monotonic() - begun, 20)
        self.server.alive()

    def test_offload(self):
        self.offload(smb2.READ_WRITE)

    def test_offload_of_a_source_nobody_writes(self):
        self.offload(smb2.READ_ONLY)


class FullDisk_xfs(FullDisk):
    kind = 'xfs'


class FullDisk_btrfs(FullDisk):
    kind = 'btrfs'


del FullDisk
if __name__ == '__main__':
    unittest.main()
