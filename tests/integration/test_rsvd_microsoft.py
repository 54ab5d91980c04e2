"""The tests of Microsoft's suite for version 1, restated: what each of them
sends and what it asserts."""

import struct

import lab
import rsvd
from rsvd import GOOD, IN, OUT

GIB = lab.GIB


class Microsoft(rsvd.Case):

    def setUp(self):
        super().setUp()
        self.image = rsvd.make_disk(self.path('test.vhdx'), GIB, 'dynamic')

    def opened(self, **how):
        return self.disk('t/test.vhdx', **how)

    def body(self, disk, operation, body=b''):
        smb, status, out = disk.tunnel(operation, body)
        self.expect(0, smb)
        self.expect(0, status)
        return out

    def test_open_and_close(self):
        disk = self.opened()
        self.assertEqual([rsvd.CONTEXT], [n for n, _ in disk.answers])
        self.assertEqual(rsvd.open_context(disk.initiator),
                         disk.answers[0][1])
        self.expect(0, disk.close())

    def test_get_file_info(self):
        out = self.body(self.opened(), rsvd.INITIAL_INFO)
        self.assertEqual((2, 512, 4096, 0, GIB),
                         struct.unpack('<IIIIQ', out))

    def test_scsi_read_capacity(self):
        disk = self.opened()
        smb, status, out = disk.tunnel(
            rsvd.SCSI, disk.scsi_body([0x25], b'', 8) + bytes(8))
        self.expect(0, smb)
        self.expect(0, status)
        self.assertEqual(36, struct.unpack_from('<H', out)[0])
        self.assertEqual((1, GOOD), (out[2], out[3]))
        self.assertEqual(IN, out[6])
        self.assertEqual(struct.pack('>II', GIB // 512 - 1, 512), out[36:])

    def test_check_connection_status(self):
        self.assertEqual(b'', self.body(self.opened(),
                                        rsvd.CHECK_CONNECTION))

    def test_srb_status(self):
        disk = self.opened(initiator=None)
        status, _ = disk.read_status(0, 512)
        self.assertEqual(0xC05C0001, status)
        out = self.body(disk, rsvd.SRB_STATUS,
                        bytes([status & 255]) + bytes(27))
        self.assertEqual(24, len(out))
        self.assertEqual(1, out[0])
        self.assertEqual(bytes([2, 2, 20, 0xF0, 0, 0, 0, 0, 0, 0, 10]) +
                         bytes(12), out[1:])

    def test_get_disk_info(self):
        out = self.body(self.opened(), rsvd.DISK_INFO, bytes(56))
        kind, form, block, linkage, mounted, aligned, reserved, size, ident \
            = struct.unpack('<III16sBBHQ16s', out)
        self.assertEqual((3, 3, lab.MIB, bytes(16), 1, 1, 0),
                         (form, kind, block, linkage, mounted, aligned,
                          reserved))
        self.assertEqual(len(lab.content(self.image)), size)
        self.assertNotEqual(bytes(16), ident)

    def test_validate_disk(self):
        disk = self.opened()
        self.assertEqual(b'\1', self.body(disk, rsvd.VALIDATE, bytes(56)))
        self.assertEqual(b'\1', self.body(disk, rsvd.VALIDATE))

    def test_read_and_write(self):
        disk = self.opened()
        self.assertEqual((0, bytes(512)), disk.read_status(0, 512))
        self.expect(0, disk.write_status(0, lab.pattern(512)))
        self.assertEqual((0, lab.pattern(512)), disk.read_status(0, 512))

    def test_query_shared_virtual_disk_support(self):
        disk = self.opened()
        self.assertEqual((0, struct.pack('<II', 7, 3)),
                         disk.fsctl(rsvd.QUERY_SUPPORT, b'', 4096))

    def test_two_clients_read_and_write_the_same_disk(self):
        first = self.opened()
        self.expect(0, first.write_status(0, lab.pattern(512, 3)))
        second = self.opened(tree=self.connect())
        self.assertEqual((0, lab.pattern(512, 3)), second.read_status(0, 512))
        self.expect(0, second.write_status(0, lab.pattern(512, 4)))
        self.assertEqual((0, lab.pattern(512, 4)), first.read_status(0, 512))
        self.expect(0, second.close())
        self.expect(0, first.close())

    def test_register_and_reserve(self):
        disk = self.opened()
        sent = disk.pr_out_send(rsvd.IGNORE, 0, 0, 0x1234)
        result = disk.scsi_end(sent)
        self.good(result)
        self.good(disk.pr_out(rsvd.RESERVE, rsvd.WE_RO, 0x1234))
        smb, status, out = disk.tunnel(rsvd.SCSI, disk.scsi_body(
            [0x5F, rsvd.RESERVE, 5, 0, 0, 0, 0, 0, 24],
            struct.pack('>QQII', 0x1234, 0, 0, 0), length=10))
        self.assertEqual((0, 0), (smb, status))
        self.assertEqual((36, GOOD, OUT),
                         (struct.unpack_from('<H', out)[0], out[3], out[6]))

    def two(self):
        return self.opened(), self.opened(tree=self.connect())

    def test_reserve_conflict(self):
        a, b = self.two()
        self.good(a.pr_out(rsvd.IGNORE, 0, 0, 1))
        self.good(a.pr_out(rsvd.RESERVE, 5, 1))
        self.good(b.pr_out(rsvd.IGNORE, 0, 0, 2))
        self.conflict(b.pr_out(rsvd.RESERVE, 5, 2))

    def test_reserve_and_release(self):
        a, b = self.two()
        self.good(a.pr_out(rsvd.IGNORE, 0, 0, 1))
        self.good(a.pr_out(rsvd.RESERVE, 5, 1))
        self.good(a.pr_out(rsvd.RELEASE, 5, 1))
        self.good(b.pr_out(rsvd.IGNORE, 0, 0, 2))
        self.good(b.pr_out(rsvd.RESERVE, 5, 2))

    def test_preempt(self):
        a, b = self.two()
        self.good(a.pr_out(rsvd.IGNORE, 0, 0, 1))
        self.good(a.pr_out(rsvd.RESERVE, 5, 1))
        self.good(b.pr_out(rsvd.IGNORE, 0, 0, 2))
        self.good(b.pr_out(rsvd.PREEMPT, 5, 2, 1))
        self.assertEqual((2, 5), b.reservation())

    def test_registrations_go_with_the_last_open(self):
        """The suite leaves them behind and comes back as somebody else."""
        a = self.opened()
        self.good(a.pr_out(rsvd.IGNORE, 0, 0, 1))
        self.good(a.pr_out(rsvd.RESERVE, 5, 1))
        a.close()
        b = self.opened()
        self.assertEqual((0, []), b.keys())
        self.assertIsNone(b.reservation())
        self.good(b.pr_out(rsvd.IGNORE, 0, 0, 2))
        self.good(b.pr_out(rsvd.RESERVE, 5, 2))


if __name__ == '__main__':
    import unittest
    unittest.main()
