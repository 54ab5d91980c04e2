"""Differencing disks: parents are found below the share, with the rights of
the user and without links; a parent path of somebody else's gets nothing."""

import os
import shutil
import struct
import unittest

import lab
import rsvd
import smb2

IN_PARENT = 0xC03A0019
NO_ACCESS = 0xC03A0016


class Parents(rsvd.Case):

    def setUp(self):
        super().setUp()
        os.mkdir(self.path('parents'))
        self.base = rsvd.make_disk(self.path('parents/base.vhdx'))
        shutil.chown(self.path('parents'), 'hvrs', 'hvrs')
        self.data = lab.pattern(3 * lab.MIB, 3)
        disk = self.disk('t/parents/base.vhdx')
        for at in range(0, len(self.data), lab.MIB):
            self.expect(0, disk.write_status(at, self.data[at:at + lab.MIB]))
        disk.close()
        self.child()

    def child(self, parent='.\\parents\\base.vhdx', name='child.vhdx'):
        """A child whose locator says so, whatever lies there: it is made
        beside a copy, whose name is as long, and changed."""
        copy = 'x' * (len(parent) - 7) + '.vhdx'
        shutil.copy(self.base, self.path(copy))
        lab.run('hvrs-vhd', 'create', '-q', '--parent', self.path(copy),
                '--block-size', '2M', self.path(name))
        os.unlink(self.path(copy))
        content = lab.content(self.path(name))
        old = ('.\\' + copy).encode('utf-16-le')
        self.assertEqual(1, content.count(old))
        lab.put(self.path(name), content.index(old),
                parent.encode('utf-16-le'))
        shutil.chown(self.path(name), 'hvrs', 'hvrs')

    def reads(self, name='t/child.vhdx'):
        disk = self.disk(name)
        self.assert_bytes(self.data[:lab.MIB],
                          disk.read_status(0, lab.MIB)[1])
        return disk

    def test_a_chain(self):
        disk = self.reads()
        before = lab.content(self.base)
        self.expect(0, disk.write_status(4096, b'C' * 4096))
        wanted = bytearray(self.data)
        wanted[4096:8192] = b'C' * 4096
        other = self.disk('t/child.vhdx', tree=self.connect())
        for one in (disk, other):
            self.assert_bytes(bytes(wanted[:lab.MIB]),
                              one.read_status(0, lab.MIB)[1])
        self.assertEqual(before, lab.content(self.base))
        # The parent is read by others at most, while its child is in use.
        with self.assertRaises(smb2.StatusError):
            self.tree.create('t/parents/base.vhdx')
        disk.close()
        other.close()
        self.tree.create('t/parents/base.vhdx').close()
        again = self.disk('t/child.vhdx')
        self.assert_bytes(bytes(wanted[:lab.MIB]),
                          again.read_status(0, lab.MIB)[1])

    def test_unmap_shows_no_parent(self):
        disk = self.disk('t/child.vhdx')
        self.good(disk.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
            '>HHIQII', 22, 16, 0, 0, 3 * lab.MIB // 512, 0)))
        for at in range(0, 3 * lab.MIB, lab.MIB):
            self.assert_bytes(bytes(lab.MIB),
                              disk.read_status(at, lab.MIB)[1])

    def test_a_parent_that_is_gone_or_another(self):
        os.rename(self.base, self.base + '.away')
        self.refused(IN_PARENT, 't/child.vhdx')
        rsvd.make_disk(self.base)
        self.refused(IN_PARENT, 't/child.vhdx')
        os.rename(self.base + '.away', self.base)
        self.reads().close()

    def test_a_parent_behind_a_link(self):
        os.rename(self.base, self.path('real.vhdx'))
        os.symlink('../real.vhdx', self.base)
        self.refused(IN_PARENT, 't/child.vhdx')
        os.unlink(self.base)
        os.rename(self.path('parents'), self.path('elsewhere'))
        os.rename(self.path('real.vhdx'), self.path('elsewhere/base.vhdx'))
        os.symlink('elsewhere', self.path('parents'))
        self.refused(IN_PARENT, 't/child.vhdx')

    def test_a_parent_outside_the_share(self):
        """It is a right parent by its ids, and the user could read it."""
        outside = '/srv/xfs/plain/base.vhdx'
        shutil.copy(self.base, outside)
        shutil.chown(outside, 'hvrs', 'hvrs')
        self.addCleanup(os.unlink, outside)
        for i, path in enumerate((
                '..\\..\\plain\\base.vhdx', '..\\..\\..\\..\\srv\\xfs\\'
                'plain\\base.vhdx', '..\\t\\..\\..\\plain\\base.vhdx')):
            self.child(path, 'escape%d.vhdx' % i)
            self.refused(IN_PARENT, 't/escape%d.vhdx' % i)
        # The same, where it may.
        self.child('..\\t\\.\\parents\\base.vhdx', 'inside.vhdx')
        self.reads('t/inside.vhdx').close()

    def test_a_parent_of_somebody_else(self):
        os.chmod(self.base, 0o600)
        os.chown(self.base, 0, 0)
        with self.assertRaises(smb2.StatusError) as caught:
            self.disk('t/child.vhdx')
        self.assertIn(caught.exception.status, (NO_ACCESS, IN_PARENT))
        self.server.alive()

    def test_a_parent_that_somebody_writes(self):
        writer = self.tree.create('t/parents/base.vhdx')
        self.refused(IN_PARENT, 't/child.vhdx')
        writer.close()
        self.reads().close()


if __name__ == '__main__':
    unittest.main()
