"""FSCTL_SET_SPARSE and FSCTL_QUERY_ALLOCATED_RANGES: [MS-FSCC] 2.3.69 and
2.3.48, [MS-FSA] 2.1.5.10.37 and 2.1.5.10.22."""

import os
import select
import struct
import unittest

import fsctl
import lab
import smb2
from fsctl import TOP, query, ranges
from smb2 import (ACCESS_DENIED, BUFFER_OVERFLOW, BUFFER_TOO_SMALL,
                  FILE_CLOSED, INVALID_PARAMETER, MEDIA_WRITE_PROTECTED, OK,
                  SPARSE)

KIB, MIB = lab.KIB, lab.MIB
SIZE = len(fsctl.Case.DATA)

SET_REFUSED = [
    ('directory', 'directory', b'\1', INVALID_PARAMETER),
    ('directory_without_data_access', 'look_directory', b'\1',
     INVALID_PARAMETER),
    ('read_only_share', 'readonly', b'\1', MEDIA_WRITE_PROTECTED),
    ('open_for_reading', 'read', b'\1', ACCESS_DENIED),
    ('open_for_looking', 'look', b'\1', ACCESS_DENIED),
    ('user_who_may_read', 'other', b'\1', ACCESS_DENIED),
    ('false_open_for_reading', 'read', b'\0', ACCESS_DENIED),
    ('closed_handle', 'closed', b'\1', FILE_CLOSED),
    ('handle_of_another_session', 'stranger', b'\1', FILE_CLOSED),
    ('handle_of_another_share', 'elsewhere', b'\1',
     FILE_CLOSED),
]

SET = [
    # name, handle, input, attribute before, attribute after
    ('true', 'rw', b'\1', False, True),
    ('nothing_is_true', 'rw', b'', False, True),
    ('any_byte_is_true', 'rw', b'\xFF', False, True),
    ('false', 'rw', b'\0', True, False),
    ('true_again', 'rw', b'\1', True, True),
    ('false_again', 'rw', b'\0', False, False),
    ('first_byte_counts', 'rw', b'\1' + bytes(100), False, True),
    ('first_byte_counts_for_false', 'rw', b'\0' + b'\1' * 100, True, False),
    ('open_for_appending', 'append', b'\1', False, True),
    ('open_for_attributes', 'attributes', b'\1', False, True),
    ('false_open_for_attributes', 'attributes', b'\0', True, False),
]


def is_sparse(file):
    status, data = file.info(4)
    assert status == OK
    return bool(struct.unpack_from('<I', data, 32)[0] & SPARSE)


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(SET_REFUSED)
@lab.rows(SET, lambda self, *row: self.set(*row))
class SetSparse(fsctl.Case):
    code = fsctl.SET_SPARSE

    def refuse(self, kind, data, status, max_out=None):
        super().refuse(kind, data, status, max_out)
        self.assertFalse(is_sparse(self.open()))

    def set(self, kind, data, before, after):
        path = self.make(data=self.DATA)
        look = self.open()
        if before:
            self.expect_fsctl(OK, look, self.code, b'\1')
        self.assertEqual(before, is_sparse(look))
        shape = self.shape()
        file = self.handle(kind)
        self.assertEqual(b'', self.expect_fsctl(OK, file, self.code, data, 0))
        self.assertEqual(after, is_sparse(look), 'another open')
        file.close()
        look.close()
        self.assertEqual(after, bool(self.open().attributes & SPARSE),
                         'a new open')
        self.assert_bytes(self.DATA, lab.content(path))
        self.assertEqual(shape, self.shape())

    def test_false_fills_the_holes(self):
        path = self.make(data=self.DATA, size=16 * MIB)
        file = self.open()
        self.expect_fsctl(OK, file, self.code, b'\1')
        self.assertLess(lab.blocks(path), MIB)
        self.expect_fsctl(OK, file, self.code, b'\0')
        self.assertEqual(16 * MIB, lab.mapped(path, 0, 16 * MIB))
        self.assert_bytes(self.DATA + bytes(16 * MIB - SIZE),
                          lab.content(path))

    def test_other_attributes_leave_it(self):
        """A change of attributes, and the archive bit of a first write."""
        self.make(data=self.DATA)
        file = self.open()
        self.expect_fsctl(OK, file, self.code, b'\1')
        basic = struct.pack('<QQQQII', 0, 0, 0, 0, 0x80, 0)
        self.expect(OK, file.set_info(4, basic))
        self.assertTrue(is_sparse(file))
        file.write(0, b'first write')
        self.assertTrue(is_sparse(file))
        file.close()
        file = self.open()
        self.assertEqual(0x20 | SPARSE, file.attributes)
        self.expect_fsctl(OK, file, self.code, b'\0')
        file.close()
        self.assertEqual(0x20, self.open().attributes)

    def test_attribute_at_create_is_ignored(self):
        file = self.open(attributes=SPARSE)
        self.assertFalse(is_sparse(file))
        self.assertFalse(file.attributes & SPARSE)

    def test_attribute_is_told_to_watchers(self):
        """CHANGE_NOTIFY for attributes completes when it is set."""
        self.make(data=self.DATA)
        watcher = self.connect().create(
            't', access=smb2.READ_ONLY, disposition=smb2.OPEN,
            options=smb2.DIRECTORY)
        body = struct.pack('<HHI16sII', 32, 0, 4096, watcher.id, 4, 0)
        mid = watcher.tree.send(smb2.CHANGE_NOTIFY, body)
        while watcher.tree.connection.receive().status != smb2.PENDING:
            pass
        # smbd answers that it waits before its notify daemon has heard of
        # it: a change at once may not be told.
        file = self.open()
        for turn in range(60):
            self.expect_fsctl(OK, file, self.code, b'\1' if turn % 2 == 0
                              else b'\0')
            if select.select([watcher.tree.connection.socket], [], [], 1)[0]:
                break
        reply = watcher.tree.connection.wait(mid)
        self.expect(OK, reply.status)
        self.assertIn('disk.vhdx'.encode('utf-16-le'), reply.body)


QUERY_REFUSED = [
    ('nothing_sent', 'rw', b'', INVALID_PARAMETER),
    ('one_byte_short', 'rw', query(0, SIZE)[:15], INVALID_PARAMETER),
    ('offset_negative', 'rw', query(-1, 10), INVALID_PARAMETER),
    ('offset_least_number', 'rw', query(-2**63, 10), INVALID_PARAMETER),
    ('length_negative', 'rw', query(0, -1), INVALID_PARAMETER),
    ('sum_beyond_63_bits', 'rw', query(4096, TOP - 4095),
     INVALID_PARAMETER),
    ('sum_beyond_64_bits', 'rw', query(-2, 4), INVALID_PARAMETER),
    ('no_room_for_one_entry', 'rw', query(0, SIZE), BUFFER_TOO_SMALL, 15),
    ('no_room_at_all', 'rw', query(0, SIZE), BUFFER_TOO_SMALL, 0),
    ('directory', 'directory', query(0, SIZE), INVALID_PARAMETER),
    ('open_for_writing', 'append', query(0, SIZE), ACCESS_DENIED),
    ('open_for_looking', 'look', query(0, SIZE), ACCESS_DENIED),
    ('access_is_looked_at_before_the_room', 'append', query(0, SIZE),
     ACCESS_DENIED, 15),
    ('closed_handle', 'closed', query(0, SIZE), FILE_CLOSED),
    ('handle_of_another_session', 'stranger', query(0, SIZE), FILE_CLOSED),
    ('handle_of_another_share', 'elsewhere', query(0, SIZE),
     FILE_CLOSED),
    ('empty_query', 'rw', query(4096, 0), OK),
    ('empty_query_without_room', 'rw', query(4096, 0), OK, 0),
    ('behind_the_end', 'rw', query(SIZE, 4096), OK),
    ('far_behind_the_end', 'rw', query(1 << 50, 4096), OK),
]

# A file of 1 MiB with data in [128 KiB, 192 KiB) and [512 KiB, 576 KiB).
DATA_AT = (128 * KIB, 512 * KIB)
PART = 64 * KIB

QUERIES = [
    # name, offset, length, entries
    ('whole_file', 0, MIB, [(128 * KIB, PART), (512 * KIB, PART)]),
    ('greatest_range', 0, TOP, [(128 * KIB, PART), (512 * KIB, PART)]),
    ('hole_only', 256 * KIB, 128 * KIB, []),
    ('data_only', 128 * KIB, PART, [(128 * KIB, PART)]),
    ('starts_in_data', 130 * KIB, 100 * KIB, [(130 * KIB, 62 * KIB)]),
    ('ends_in_data', 0, 130 * KIB, [(128 * KIB, 2 * KIB)]),
    ('not_aligned', 128 * KIB + 7, 9, [(128 * KIB + 7, 9)]),
    ('ends_at_data', 0, 128 * KIB, []),
    ('starts_behind_data', 192 * KIB, 320 * KIB, []),
]


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(QUERY_REFUSED)
@lab.rows(QUERIES, lambda self, *row: self.queried(*row))
class AllocatedRanges(fsctl.Case):
    code = fsctl.QUERY_ALLOCATED_RANGES

    def sparse_file(self):
        path = self.make(size=MIB)
        file = self.open()
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        for at in DATA_AT:
            file.write(at, lab.pattern(PART, at))
        return path, file

    def queried(self, offset, length, entries):
        path, file = self.sparse_file()
        out = self.expect_fsctl(OK, file, self.code, query(offset, length))
        self.assertEqual(entries, ranges(out))
        for at in DATA_AT:
            self.assert_bytes(lab.pattern(PART, at),
                              lab.content(path, at, PART))

    def test_read_access_is_enough(self):
        path, file = self.sparse_file()
        out = self.expect_fsctl(OK, self.handle('other'), self.code,
                                query(0, MIB))
        self.assertEqual([(at, PART) for at in DATA_AT], ranges(out))

    def test_read_only_share(self):
        self.sparse_file()
        out = self.expect_fsctl(OK, self.handle('readonly'), self.code,
                                query(0, MIB))
        self.assertEqual([(at, PART) for at in DATA_AT], ranges(out))

    def test_room_for_some_entries(self):
        path, file = self.sparse_file()
        for room in (16, 17, 31):
            status, out = file.fsctl(self.code, query(0, MIB), room)
            self.expect(BUFFER_OVERFLOW, status)
            # Samba 4.17 sends none of them.
            self.assertEqual([(128 * KIB, PART)] if lab.SERIES >= (4, 22)
                             else [], ranges(out))

    def test_room_for_just_all_entries(self):
        path, file = self.sparse_file()
        out = self.expect_fsctl(OK, file, self.code, query(0, MIB), 32)
        self.assertEqual(2, len(ranges(out)))

    def test_lock_does_not_matter(self):
        self.sparse_file()
        keeper = self.open()
        self.expect(OK, keeper.lock(0, MIB))
        out = self.expect_fsctl(OK, self.open(), self.code, query(0, MIB))
        self.assertEqual(2, len(ranges(out)))

    def test_file_that_is_not_sparse_is_all_allocated(self):
        self.make(size=MIB)
        out = self.expect_fsctl(OK, self.open(), self.code,
                                query(4096, 8192))
        self.assertEqual([(4096, 8192)], ranges(out))

    def test_empty_file(self):
        self.make()
        self.assertEqual(b'', self.expect_fsctl(OK, self.open(), self.code,
                                                query(0, MIB)))

    def test_another_handle_learns_of_the_attribute(self):
        """An open from before SET_SPARSE of another one sees the holes."""
        self.make(size=MIB)
        early = self.open()
        self.expect_fsctl(OK, self.open(), fsctl.SET_SPARSE)
        early.write(128 * KIB, lab.pattern(PART))
        out = self.expect_fsctl(OK, early, self.code, query(0, MIB))
        self.assertEqual([(128 * KIB, PART)], ranges(out))

    def test_punched_range_is_no_longer_allocated(self):
        path, file = self.sparse_file()
        self.expect_fsctl(OK, file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(144 * KIB, 160 * KIB))
        out = self.expect_fsctl(OK, file, self.code, query(0, 256 * KIB))
        self.assertEqual([(128 * KIB, 16 * KIB), (160 * KIB, 32 * KIB)],
                         ranges(out))

    def test_largest_disk(self):
        """64 TiB; ext4 takes files up to 16 TiB less a block."""
        size = lab.LARGEST[self.share]
        path = self.make(size=size)
        file = self.open()
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        places = [0, lab.TIB, size // 2 // 65536 * 65536, size - 65536]
        for at in places:
            lab.put(path, at, lab.pattern(4096))
        out = self.expect_fsctl(OK, file, self.code, query(0, size))
        self.assertEqual([(at, 4096) for at in places], ranges(out))
        self.assert_bytes(lab.pattern(4096), file.read(size - 65536, 4096))


if __name__ == '__main__':
    unittest.main()
