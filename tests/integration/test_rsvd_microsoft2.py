"""The tests of Microsoft's suite for version 2, restated: what each of them
sends and what it asserts, and the content that belongs to it."""

import os
import struct
import time
import unittest
import uuid

import lab
import rsvd
from rsvd import BLOCK, FINAL, INIT, SNAPSHOT, SWITCH, UNBLOCK, VM

GIB = lab.GIB


class Microsoft(rsvd.Case):

    def setUp(self):
        super().setUp()
        rsvd.make_set(self.path('rsvd.vhds'), GIB)

    def opened(self, name='t/rsvd.vhds', **how):
        return self.disk(name, version=2, **how)

    def properties(self, disk):
        """What a version 2 response says of the disk."""
        (name, answer), = disk.answers
        self.assertEqual((rsvd.CONTEXT, 192), (name, len(answer)))
        return struct.unpack_from('<IIIIQ', answer, 168)

    def test_open_and_close(self):
        disk = self.opened()
        self.assertEqual((1, 2, 512, 4096, GIB), self.properties(disk))
        self.assertEqual(rsvd.open_context(disk.initiator, 2)[:168],
                         disk.answers[0][1][:168])
        self.expect(0, disk.close())

    def test_a_version_1_context_gets_a_version_1_answer(self):
        disk = self.disk('t/rsvd.vhds')
        self.assertEqual(rsvd.open_context(disk.initiator),
                         disk.answers[0][1])

    def test_query_snapshot_list(self):
        disk = self.opened()
        self.assertEqual([], disk.snapshots())
        smb, status, body = disk.query(2, VM)
        self.assertEqual((0, 0), (smb, status))
        self.assertEqual(2, struct.unpack_from('<I', body)[0])

    def test_query_snapshot_entry(self):
        disk = self.opened()
        before = time.time() * 1000
        ident = disk.snapshot()
        smb, status, body = disk.query(5, VM, ident)
        self.assertEqual((0, 0, 72), (smb, status, len(body)))
        kind, _, created, which, valid, got, parent, log = struct.unpack(
            '<IIQII16s16s16s', body)
        self.assertEqual((5, VM, 1, ident.bytes_le, bytes(16), bytes(16)),
                         (kind, which, valid, got, parent, log))
        self.assertTrue(before - 1 <= created <= time.time() * 1000)
        self.expect(0, disk.delete(ident))
        self.expect(0xC0000225, disk.query(5, VM, ident)[1])

    def test_create_and_delete_a_checkpoint(self):
        disk = self.opened()
        ident, transaction = uuid.uuid4(), uuid.uuid4()
        self.expect(0, disk.meta(SNAPSHOT, rsvd.snapshot_data(
            ident, (INIT,), 1), transaction))
        self.expect(0, disk.meta(SNAPSHOT, rsvd.snapshot_data(
            ident, (BLOCK, SWITCH, UNBLOCK, FINAL), 0), transaction))
        self.expect(0, disk.query(5, VM, ident)[1])
        self.assertEqual([ident], disk.snapshots())
        self.expect(0, disk.delete(ident))
        self.assertEqual([], disk.snapshots())

    def test_apply_snapshot(self):
        disk = self.opened()
        self.expect(0, disk.write_status(0, lab.pattern(512, 3)))
        before = disk.read_status(0, 512)
        ident = disk.snapshot()
        disk.close()
        disk = self.opened()
        self.expect(0, disk.write_status(0, lab.pattern(512, 4)))
        self.assertEqual((0, lab.pattern(512, 4)), disk.read_status(0, 512))
        self.expect(0, disk.apply(ident))
        self.assertEqual(before, disk.read_status(0, 512))
        self.expect(0, disk.delete(ident))
        self.assertEqual(before, disk.read_status(0, 512))

    def test_open_by_target_specifier(self):
        disk = self.opened()
        self.expect(0, disk.write_status(0, lab.pattern(512, 3)))
        ident = disk.snapshot()
        self.expect(0, disk.write_status(0, lab.pattern(512, 4)))
        disk.close()
        old = self.at('t/rsvd.vhds', ident)
        self.assertEqual([], old.answers)
        self.assertEqual((0, lab.pattern(512, 3)), old.read_status(0, 512))
        self.assertEqual((0, lab.pattern(512, 4)),
                         self.opened().read_status(0, 512))

    def test_resize(self):
        disk = self.opened()
        self.expect(0, disk.write_status(GIB - 512, lab.pattern(512, 3)))
        self.expect(0, disk.resize(2 * GIB))
        disk.close()
        disk = self.opened()
        self.assertEqual((1, 2, 512, 4096, 2 * GIB), self.properties(disk))
        self.assertEqual((0, lab.pattern(512, 3) + bytes(512)),
                         disk.read_status(GIB - 512, 1024))
        self.expect(0, disk.write_status(2 * GIB - 512, lab.pattern(512, 5)))
        self.assertEqual((0, lab.pattern(512, 5)),
                         disk.read_status(2 * GIB - 512, 512))

    def test_a_snapshot_of_another_size_hides_no_resize(self):
        disk = self.opened()
        ident = disk.snapshot()
        self.expect(0, disk.resize(2 * GIB))
        self.expect(rsvd.CAPACITY, disk.read_status(0, 512)[0])
        # Of 1 GiB: it says nothing of the disk.
        self.at('t/rsvd.vhds', ident)
        self.expect(0, disk.resize(2 * GIB))
        self.expect(0, disk.read_status(0, 512)[0])
        self.expect(0, disk.resize(GIB, unsafe=1))
        self.expect(rsvd.CAPACITY, disk.read_status(0, 512)[0])

    def test_optimize(self):
        disk = self.opened()
        self.expect(0, disk.meta(rsvd.OPTIMIZE, bytes(4)))

    def parts(self):
        return sorted(n for n in os.listdir(self.path(''))
                      if n.startswith('rsvd_'))

    def test_a_file_that_nothing_needs_goes_with_its_snapshot(self):
        disk = self.opened()
        self.expect(0, disk.write_status(0, lab.pattern(4096, 3)))
        first = disk.snapshot()
        self.expect(0, disk.write_status(0, lab.pattern(4096, 4)))
        second = disk.snapshot()
        self.expect(0, disk.apply(first))
        before = self.parts()
        # The leaf is a child of the first: the second is a dead branch.
        self.expect(0, disk.delete(second))
        self.assertEqual(len(before) - 1, len(self.parts()))
        # The leaf reads through this one: it stays.
        self.expect(0, disk.delete(first))
        self.assertEqual(len(before) - 1, len(self.parts()))
        self.assertEqual((0, lab.pattern(4096, 3)), disk.read_status(0, 4096))
        disk.close()
        self.assertEqual((0, lab.pattern(4096, 3)),
                         self.opened().read_status(0, 4096))

    def convert(self, disk, name):
        return disk.meta(rsvd.CONVERT, rsvd.name_data(name))

    def test_convert_a_disk_to_a_set(self):
        name = 'ConvertedSharedVHDSName.vhds'
        disk, other = self.disk(version=2), self.other(version=2)
        self.expect(0, disk.write_status(0, lab.pattern(4096, 3)))
        self.expect(0, self.convert(disk, name))
        self.assertFalse(os.path.exists(self.path('disk.vhdx')))
        # Both go on with what they have open.
        self.assertEqual((0, lab.pattern(4096, 3)), other.read_status(0, 4096))
        self.expect(0, other.write_status(8 * lab.MIB, lab.pattern(4096, 4)))
        self.assertEqual((0, lab.pattern(4096, 4)),
                         disk.read_status(8 * lab.MIB, 4096))
        disk.close()
        other.close()
        disk = self.opened('t/' + name)
        smb, status, body = disk.tunnel(rsvd.DISK_INFO, bytes(56))
        self.assertEqual((0, 0, 4), (smb, status,
                                     struct.unpack_from('<I', body, 4)[0]))
        self.assertEqual((0, lab.pattern(4096, 3)), disk.read_status(0, 4096))
        self.assertEqual((0, lab.pattern(4096, 4)),
                         disk.read_status(8 * lab.MIB, 4096))
        ident = disk.snapshot()
        self.expect(0, disk.write_status(0, lab.pattern(4096, 5)))
        self.assertEqual((0, lab.pattern(4096, 3)),
                         self.at('t/' + name, ident).read_status(0, 4096))

    def test_convert_refuses_names_that_are_taken_or_none(self):
        disk = self.disk(version=2)
        before = sorted(os.listdir(self.path('')))
        self.expect(0xC0000035, self.convert(disk, 'rsvd.vhds'))
        self.expect(0xC000000D, self.convert(disk, 'a\\b.vhds'))
        self.expect(0xC000000D, self.convert(disk, 'b.vhdx'))
        with open(self.path('junk.vhds'), 'wb') as file:
            file.write(b'what somebody wrote')
        self.expect(0xC0000035, self.convert(disk, 'junk.vhds'))
        self.assertEqual(sorted(before + ['junk.vhds']),
                         sorted(os.listdir(self.path(''))))

    def test_convert_again_after_a_crash_before_its_commit(self):
        disk = self.disk(version=2)
        self.expect(0, disk.write_status(0, lab.pattern(4096, 3)))
        self.expect(0, self.convert(disk, 'new.vhds'))
        disk.close()
        leaf, = [n for n in os.listdir(self.path(''))
                 if n.startswith('new_') and n.endswith('.avhdx')]
        # What a kill leaves between the set and the disk's new name.
        os.rename(self.path(leaf), self.path('disk.vhdx'))
        self.refused(0xC05CFF0C, 't/new.vhds', version=2)
        disk = self.disk(version=2)
        self.assertEqual((0, lab.pattern(4096, 3)), disk.read_status(0, 4096))
        self.expect(0, self.convert(disk, 'new.vhds'))
        disk.close()
        self.assertEqual((0, lab.pattern(4096, 3)),
                         self.opened('t/new.vhds').read_status(0, 4096))

    def test_query_support(self):
        self.assertEqual((0, struct.pack('<II', 7, 3)),
                         self.opened().fsctl(rsvd.QUERY_SUPPORT, b'', 4096))


if __name__ == '__main__':
    unittest.main()
