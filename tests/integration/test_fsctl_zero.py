"""FSCTL_SET_ZERO_DATA: [MS-FSCC] 2.3.71, [MS-FSA] 2.1.5.10.38."""

import os
import unittest

import fsctl
import lab
import smb2
from fsctl import TOP, zero
from smb2 import (ACCESS_DENIED, FILE_CLOSED, FILE_LOCK_CONFLICT,
                  INVALID_PARAMETER, MEDIA_WRITE_PROTECTED, OK)

SIZE = len(fsctl.Case.DATA)
KIB = lab.KIB

REFUSED = [
    ('nothing_sent', 'rw', b'', INVALID_PARAMETER),
    ('one_byte_short', 'rw', zero(0, 4096)[:15], INVALID_PARAMETER),
    ('offset_negative', 'rw', zero(-1, 4096), INVALID_PARAMETER),
    ('end_negative', 'rw', zero(0, -1), INVALID_PARAMETER),
    ('both_negative', 'rw', zero(-8192, -4096), INVALID_PARAMETER),
    ('offset_least_number', 'rw', zero(-2**63, 4096), INVALID_PARAMETER),
    ('end_before_offset', 'rw', zero(8192, 4096), INVALID_PARAMETER),
    ('directory', 'directory', zero(0, 4096), INVALID_PARAMETER),
    ('read_only_share', 'readonly', zero(0, 4096), MEDIA_WRITE_PROTECTED),
    ('open_for_reading', 'read', zero(0, 4096), ACCESS_DENIED),
    ('open_for_appending', 'append', zero(0, 4096), ACCESS_DENIED),
    ('open_for_attributes', 'attributes', zero(0, 4096), ACCESS_DENIED),
    ('user_who_may_read', 'other', zero(0, 4096), ACCESS_DENIED),
    ('input_is_looked_at_before_access', 'read', zero(0, 4096)[:15],
     INVALID_PARAMETER),
    ('range_is_looked_at_before_access', 'read', zero(2, 1),
     INVALID_PARAMETER),
    ('range_is_looked_at_before_the_share', 'readonly', zero(2, 1),
     INVALID_PARAMETER),
    ('lock_of_another_open', 'locked', zero(0, 8192), FILE_LOCK_CONFLICT),
    ('lock_on_the_last_byte', 'locked', zero(0, 5001), FILE_LOCK_CONFLICT),
    ('shared_lock_of_another_open', 'share_locked', zero(0, 8192),
     FILE_LOCK_CONFLICT),
    ('closed_handle', 'closed', zero(0, 4096), FILE_CLOSED),
    ('handle_of_another_session', 'stranger', zero(0, 4096), FILE_CLOSED),
    ('handle_of_another_share', 'elsewhere', zero(0, 4096),
     FILE_CLOSED),
    # Nothing to do, so nothing changes.
    ('empty_range', 'rw', zero(4096, 4096), OK),
    ('from_the_end', 'rw', zero(SIZE, SIZE + 4096), OK),
    ('far_beyond_the_end', 'rw', zero(1 << 50, TOP), OK),
    ('empty_range_at_a_lock', 'locked', zero(5000, 5000), OK),
]

ZEROED = [
    # name, handle, offset, end
    ('aligned_range', 'rw', 64 * KIB, 128 * KIB),
    ('unaligned_range', 'rw', 1000, 100001),
    ('one_byte', 'rw', 7, 8),
    ('within_one_block', 'rw', 4097, 8191),
    ('across_the_end', 'rw', 100 * KIB, SIZE + 100 * KIB),
    ('up_to_the_end', 'rw', 100 * KIB, SIZE),
    ('last_byte', 'rw', SIZE - 1, SIZE),
    ('whole_file', 'rw', 0, SIZE),
    ('greatest_range', 'rw', 0, TOP),
    ('input_longer_than_needed', 'rw_long', 0, 64 * KIB),
    ('beside_a_lock_of_another_open', 'locked', 5010, 64 * KIB),
    ('before_a_lock_of_another_open', 'locked', 0, 5000),
    ('under_a_lock_of_ones_own', 'own_lock', 0, 64 * KIB),
]


def check_zeroed(self, kind, offset, end):
    self.zeroed(kind, offset, end)


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(REFUSED)
@lab.rows(ZEROED, check_zeroed)
class Zero(fsctl.Case):
    code = fsctl.SET_ZERO_DATA
    max_out = 0

    def handle_rw_long(self):
        self.long = True
        return self.open()

    def zeroed(self, kind, offset, end):
        self.long = False
        path = self.make(data=self.DATA)
        file = self.handle(kind)
        request = zero(offset, end) + (b'\xFF' * 100 if self.long else b'')
        self.expect_fsctl(OK, file, self.code, request, 0)
        stop = min(end, SIZE)
        wanted = self.DATA[:offset] + bytes(stop - offset) + self.DATA[stop:]
        if kind == 'locked':
            file = None	# reads through the lock are refused
        else:
            self.assert_bytes(wanted, file.read(0, 2 * SIZE), 'over SMB')
        self.assert_bytes(wanted, lab.content(path), 'on disk')
        first = -(-offset // 4096) * 4096
        last = stop // 4096 * 4096
        if last > first:
            self.assertEqual(0, lab.mapped(path, first, last - first),
                             'whole blocks are freed')
        self.assertEqual(SIZE, os.stat(path).st_size)

    def test_sparse_file_gets_its_blocks_back(self):
        path = self.make(data=self.DATA)
        file = self.open()
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        self.expect_fsctl(OK, file, self.code, zero(0, 128 * KIB))
        self.assertEqual(bytes(128 * KIB), lab.content(path)[:128 * KIB])
        self.assertEqual(0, lab.mapped(path, 0, 128 * KIB))

    def test_empty_file_stays_empty(self):
        path = self.make(data=b'')
        self.expect_fsctl(OK, self.open(), self.code, zero(0, 1 << 20))
        self.assertEqual(0, os.stat(path).st_size)

    def test_hole_stays_a_hole(self):
        path = self.make(size=64 * lab.MIB)
        self.expect_fsctl(OK, self.open(), self.code, zero(0, 64 * lab.MIB))
        self.assertEqual([], lab.extents(path))
        self.assertEqual(64 * lab.MIB, os.stat(path).st_size)

    def test_largest_disk(self):
        """64 TiB; ext4 takes files up to 16 TiB less a block."""
        size = lab.LARGEST[self.share]
        data = lab.pattern(lab.MIB, 3)
        path = self.make(data=data, size=size)
        for at in (lab.TIB, size // 2, size - lab.MIB):
            lab.put(path, at, data)
        file = self.open()
        self.expect_fsctl(OK, file, self.code,
                          zero(4096, size - lab.MIB + 4096))
        self.assert_bytes(data[:4096] + bytes(lab.MIB - 4096),
                          lab.content(path, 0, lab.MIB), 'start')
        for at in (lab.TIB, size // 2):
            self.assert_bytes(bytes(lab.MIB), lab.content(path, at, lab.MIB),
                              'middle')
        self.assert_bytes(bytes(4096) + data[4096:],
                          lab.content(path, size - lab.MIB, lab.MIB), 'end')
        self.assertEqual(size, os.stat(path).st_size)
        self.assertEqual(lab.MIB, lab.mapped(path, 0, size))

    def test_request_that_is_no_fsctl(self):
        """Flags without SMB2_0_IOCTL_IS_FSCTL."""
        path = self.make(data=self.DATA)
        status, _ = self.open().fsctl(self.code, zero(0, 4096), 0, flags=0)
        self.expect(smb2.NOT_SUPPORTED, status)
        self.assert_bytes(self.DATA, lab.content(path))

    def test_write_beyond_16_tib(self):
        """What a disk of 64 TiB needs besides."""
        size = lab.LARGEST[self.share]
        if size < 16 * lab.TIB:
            self.skipTest('ext4 has no files of more than 16 TiB')
        self.make(size=size)
        file = self.open()
        reply = self.tree.connection.wait(
            file.write_send(size - 65536, self.DATA[:65536]))
        if reply.status == INVALID_PARAMETER:
            self.skipTest('smbd writes nothing beyond 16 TiB less 64 KiB')
        self.expect(OK, reply.status)
        self.assert_bytes(self.DATA[:65536], file.read(size - 65536, 65536))

    def test_write_time_moves(self):
        path = self.make(data=self.DATA)
        os.utime(path, (1e9, 1e9))
        file = self.open()
        self.expect_fsctl(OK, file, self.code, zero(0, 4096))
        file.close()
        self.assertGreater(os.stat(path).st_mtime, 1e9 + 1)

    def test_other_client_sees_zeros_at_once(self):
        self.make(data=self.DATA)
        theirs = self.open(tree=self.connect())
        self.assert_bytes(self.DATA[:65536], theirs.read(0, 65536))
        self.expect_fsctl(OK, self.open(), self.code, zero(0, 65536))
        self.assert_bytes(bytes(65536), theirs.read(0, 65536))

    def test_write_through_open(self):
        path = self.make(data=self.DATA)
        file = self.open(options=smb2.WRITE_THROUGH)
        self.expect_fsctl(OK, file, self.code, zero(0, 65536))
        self.assert_bytes(bytes(65536) + self.DATA[65536:],
                          lab.content(path))


@lab.on_shares(*fsctl.ON_DISK)
class ZeroKept(lab.Case):
    """A share that keeps the space of zeroed ranges."""

    shares = {name: ['vfs objects = hvrs', 'hvrs:zero data frees = no']
              for name in fsctl.ON_DISK}
    DATA = fsctl.Case.DATA

    def zeroed(self, sparse):
        path = self.make(data=self.DATA)
        file = self.open()
        if sparse:
            self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        self.expect_fsctl(OK, file, fsctl.SET_ZERO_DATA,
                          zero(64 * KIB, 128 * KIB))
        self.assert_bytes(self.DATA[:64 * KIB] + bytes(64 * KIB) +
                          self.DATA[128 * KIB:], lab.content(path))
        return lab.mapped(path, 64 * KIB, 64 * KIB)

    def test_plain_file_keeps_its_blocks(self):
        self.assertEqual(64 * KIB, self.zeroed(False))

    def test_sparse_file_gives_them_up(self):
        self.assertEqual(0, self.zeroed(True))

    def test_end_does_not_move(self):
        path = self.make(data=self.DATA)
        self.expect_fsctl(OK, self.open(), fsctl.SET_ZERO_DATA,
                          zero(100 * KIB, lab.GIB))
        self.assert_bytes(self.DATA[:100 * KIB] + bytes(SIZE - 100 * KIB),
                          lab.content(path))
        self.assertEqual(SIZE, os.stat(path).st_size)


if __name__ == '__main__':
    unittest.main()
