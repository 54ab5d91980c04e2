"""smbd ends at each step of what changes a VHD Set, alone or as a whole: what
was acknowledged is there, the set is as it was or as it shall be, and the same
again goes well."""

import struct
import unittest
import uuid

import lab
import rsvd
import smb2
from rsvd import BLOCK, FINAL, INIT, SWITCH, UNBLOCK
from test_rsvd_merge import NAME, Merging

MIB = lab.MIB


class Steps(Merging):

    def setUp(self):
        super().setUp()
        self.other = self.opened(self.connect())
        for _ in range(3):
            self.put()
        self.first = self.snapshot(3)
        self.second = self.snapshot(3)

    def dies(self, step, what):
        self.server.die_at(step)
        with self.assertRaises((OSError, struct.error, smb2.StatusError)):
            what()
        self.assertTrue(self.server.has_died(step), step)

    def each(self, steps):
        """Of its process alone, and of all of them."""
        for step in steps:
            for everything in (False, True):
                yield step, everything
                self.check()
                self.put(disk=self.other)
                self.whole(self.other, self.now, 'the disk')

    def back(self, everything):
        """The other client goes on; or all begin anew."""
        if everything:
            self.server.kill()
            self.server.start()
            self.tree = self.connect()
            self.main = self.opened()
            self.other = self.opened(self.connect())
        else:
            self.drain(self.other)
            self.tree = self.connect()
            self.main = self.opened()
        self.drain(self.main)
        self.drain(self.other)

    def drain(self, disk):
        """Who was not told yet that the size is another is told now."""
        self.assertIn(disk.read_status(0, 512)[0], (0, rsvd.CAPACITY))
        self.expect(0, disk.read_status(0, 512)[0])

    def size(self, disk):
        return struct.unpack_from('<Q', disk.tunnel(rsvd.INITIAL_INFO)[2],
                                  16)[0]

    def test_snapshot(self):
        for step, everything in self.each((
                'switch-made', 'switch-marked', 'switch-added')):
            ident = uuid.uuid4()
            self.put()
            self.dies(step, lambda: self.main.meta(
                rsvd.SNAPSHOT, rsvd.snapshot_data(
                    ident, (INIT, BLOCK, SWITCH, UNBLOCK, FINAL), 1)))
            self.back(everything)
            made = ident in self.main.snapshots()
            self.assertEqual(step == 'switch-added', made)
            if not made:
                self.assertEqual(ident, self.main.snapshot(1, ident))
            self.then[ident] = self.now.copy()
            self.put()
            self.assertEqual(set(self.then), set(self.main.snapshots()))
            self.delete(ident)

    def test_delete(self):
        for step, everything in self.each((
                'delete-noted', 'delete-removed', 'delete-tidied')):
            ident = self.snapshot(2)
            self.snapshot(1)
            self.dies(step, lambda: self.main.delete(ident))
            self.back(everything)
            there = ident in self.main.snapshots()
            self.assertEqual(step == 'delete-noted', there)
            if there:
                self.check()
                self.expect(0, self.main.delete(ident))
            del self.then[ident]
            self.check()
            self.optimize()

    def test_apply(self):
        for step, everything in self.each((
                'apply-noted', 'apply-marked', 'apply-applied',
                'apply-told')):
            self.put()
            self.dies(step, lambda: self.main.apply(self.first))
            self.back(everything)
            if step in ('apply-applied', 'apply-told'):
                self.now = self.then[self.first].copy()
            self.check()
            self.expect(0, self.main.apply(self.first))
            self.now = self.then[self.first].copy()
            self.optimize()
            self.assertLessEqual(len(self.parts()), 4)

    def test_apply_to_another_size(self):
        self.expect(0, self.main.resize(128 * MIB))
        self.now.resize(128 * MIB)
        self.back(True)
        large = self.snapshot(0)
        for step, everything in self.each((
                'apply-noted', 'apply-marked', 'apply-applied',
                'apply-told')):
            wanted = self.first if self.now.size > 64 * MIB else large
            self.dies(step, lambda: self.main.apply(wanted))
            self.back(everything)
            if step in ('apply-applied', 'apply-told'):
                self.now = self.then[wanted].copy()
            self.assertEqual(self.now.size, self.size(self.other))

    def test_resize(self):
        for step, everything in self.each(('resize-marked',
                                           'resize-resized')):
            size = 192 * MIB - self.now.size
            self.dies(step, lambda: self.main.resize(size, unsafe=1))
            self.back(everything)
            if step == 'resize-resized':
                self.now.resize(size)
            self.assertEqual(self.now.size, self.size(self.other))
            self.check()
            size = 192 * MIB - self.now.size
            self.expect(0, self.main.resize(size, unsafe=1))
            self.now.resize(size)
            self.drain(self.main)
            self.drain(self.other)

    def test_optimize(self):
        for step, everything in self.each((
                'merge-noted', 'merge-begun', 'merge-built', 'merge-renamed',
                'merge-told', 'merge-tidied')):
            ident = self.snapshot(2)
            self.snapshot(1)
            self.server.die_at(step)
            with self.assertRaises((OSError, struct.error,
                                    smb2.StatusError)):
                self.main.delete(ident)
                self.main.meta(rsvd.OPTIMIZE, bytes(4))
                # It may be of the background as well.
                for _ in range(200):
                    self.main.snapshots()
            del self.then[ident]
            self.back(everything)
            self.check()
            self.optimize()
            self.assertEqual(len(self.then) + 1, len(self.parts()))

    def test_convert(self):
        for i, (step, everything) in enumerate(self.each((
                'convert-made', 'convert-renamed'))):
            name, new = 'c%d.vhdx' % i, 'c%d.vhds' % i
            rsvd.make_disk(self.path(name), 16 * MIB)
            disk = self.disk('t/' + name, version=2, tree=self.tree)
            self.expect(0, disk.write_status(0, lab.pattern(4096, i)))
            self.dies(step, lambda: disk.meta(rsvd.CONVERT,
                                              rsvd.name_data(new)))
            self.back(everything)
            if step == 'convert-made':
                disk = self.disk('t/' + name, version=2)
                self.assertEqual((0, lab.pattern(4096, i)),
                                 disk.read_status(0, 4096))
                self.expect(0, disk.meta(rsvd.CONVERT, rsvd.name_data(new)))
                disk.close()
            disk = self.disk('t/' + new, version=2)
            self.assertEqual((0, lab.pattern(4096, i)),
                             disk.read_status(0, 4096))
            disk.close()


if __name__ == '__main__':
    unittest.main()
