"""FSCTL_FILE_LEVEL_TRIM: [MS-FSCC] 2.3.73, [MS-FSA] 2.1.5.10.7."""

import os
import struct
import unittest

import fsctl
import lab
import smb2
from fsctl import trim
from smb2 import (ACCESS_DENIED, FILE_CLOSED, FILE_LOCK_CONFLICT,
                  INTEGER_OVERFLOW, INVALID_DEVICE_REQUEST,
                  INVALID_PARAMETER, MEDIA_WRITE_PROTECTED, OK)

KIB = lab.KIB
SIZE = len(fsctl.Case.DATA)
ALL = 2**64 - 1

REFUSED = [
    ('nothing_sent', 'rw', b'', INVALID_PARAMETER),
    ('header_cut', 'rw', trim((0, 65536))[:7], INVALID_PARAMETER),
    ('no_range', 'rw', trim(), INVALID_PARAMETER),
    ('key_set', 'rw', trim((0, 65536), key=1), INVALID_PARAMETER),
    ('key_set_and_range_empty', 'rw', trim((0, 0), key=0x80000000),
     INVALID_PARAMETER),
    ('range_cut', 'rw', trim((0, 65536))[:-1], INVALID_PARAMETER),
    ('more_ranges_told_than_sent', 'rw', trim((0, 65536), count=2),
     INVALID_PARAMETER),
    ('count_wraps_32_bits', 'rw', trim((0, 65536), count=0x10000001),
     INVALID_PARAMETER),
    ('count_greatest', 'rw', trim((0, 65536), count=0xFFFFFFFF),
     INVALID_PARAMETER),
    ('output_of_one_byte', 'rw', trim((0, 65536)), INVALID_PARAMETER, 1),
    ('output_of_three_bytes', 'rw', trim((0, 65536)), INVALID_PARAMETER, 3),
    ('start_wraps_when_rounded', 'rw', trim((ALL, 1)), INTEGER_OVERFLOW),
    ('end_wraps', 'rw', trim((4096, ALL)), INTEGER_OVERFLOW),
    ('end_wraps_by_one_page', 'rw', trim((8192, 2**64 - 4096)),
     INTEGER_OVERFLOW),
    ('directory', 'directory', trim((0, 65536)), INVALID_PARAMETER),
    ('read_only_share', 'readonly', trim((0, 65536)), MEDIA_WRITE_PROTECTED),
    ('open_for_reading', 'read', trim((0, 65536)), ACCESS_DENIED),
    ('open_for_appending', 'append', trim((0, 65536)), ACCESS_DENIED),
    ('open_for_attributes', 'attributes', trim((0, 65536)), ACCESS_DENIED),
    ('open_for_looking', 'look', trim((0, 65536)), ACCESS_DENIED),
    ('user_who_may_read', 'other', trim((0, 65536)), ACCESS_DENIED),
    ('key_is_looked_at_before_access', 'read', trim((0, 65536), key=1),
     INVALID_PARAMETER),
    ('input_is_looked_at_before_the_share', 'readonly', trim(),
     INVALID_PARAMETER),
    ('output_is_looked_at_before_access', 'read', trim((0, 65536)),
     INVALID_PARAMETER, 2),
    ('lock_of_another_open', 'locked', trim((0, 65536)), FILE_LOCK_CONFLICT),
    ('shared_lock_of_another_open', 'share_locked', trim((0, 65536)),
     FILE_LOCK_CONFLICT),
    ('closed_handle', 'closed', trim((0, 65536)), FILE_CLOSED),
    ('handle_of_another_session', 'stranger', trim((0, 65536)), FILE_CLOSED),
    ('handle_of_another_share', 'elsewhere', trim((0, 65536)),
     FILE_CLOSED),
]

TRIMMED = [
    # name, ranges asked for, ranges that must be freed, count answered
    ('aligned_range', [(65536, 65536)], [(65536, 131072)], 1),
    ('start_is_rounded_up', [(65537, 65535)], [(69632, 131072)], 1),
    ('end_is_rounded_down', [(65536, 65535)], [(65536, 126976)], 1),
    ('both_are_rounded', [(100, 9000)], [(4096, 8192)], 1),
    ('less_than_a_page', [(100, 3000)], [], 0),
    ('no_whole_page_within', [(4095, 4097)], [(4096, 8192)], 1),
    ('page_that_is_not_aligned', [(1, 4096)], [], 0),
    ('empty_range', [(8192, 0)], [], 0),
    ('across_the_end', [(128 * KIB, lab.TIB)], [(128 * KIB, SIZE)], 1),
    ('whole_file', [(0, ALL)], [(0, SIZE)], 1),
    ('behind_the_end', [(512 * KIB, 65536)], [], 0),
    ('far_behind_the_end', [(2**63, 65536)], [], 0),
    ('one_behind_the_other', [(0, 4096), (4096, 4096)], [(0, 8192)], 2),
    ('overlapping', [(0, 65536), (32768, 65536)], [(0, 98304)], 2),
    ('unsorted', [(131072, 65536), (0, 65536)],
     [(0, 65536), (131072, 196608)], 2),
    ('some_too_small', [(0, 100), (65536, 4096), (5, 5)],
     [(65536, 69632)], 1),
    ('same_one_twice', [(65536, 4096)] * 2, [(65536, 69632)], 2),
]


def wanted(data, freed):
    data = bytearray(data)
    for start, end in freed:
        data[start:end] = bytes(end - start)
    return bytes(data)


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(REFUSED)
@lab.rows(TRIMMED, lambda self, *row: self.trimmed(*row))
class Trim(fsctl.Case):
    code = fsctl.FILE_LEVEL_TRIM

    def trimmed(self, asked, freed, count):
        path = self.make(data=self.DATA)
        before = lab.mapped(path, 0, lab.TIB)
        file = self.open()
        out = self.expect_fsctl(OK, file, self.code, trim(*asked), 4)
        self.assertEqual(struct.pack('<I', count), out)
        self.assert_bytes(wanted(self.DATA, freed), lab.content(path))
        self.assert_bytes(wanted(self.DATA, freed), file.read(0, SIZE))
        gone = 0
        for start, end in freed:
            end = -(-end // 4096) * 4096
            self.assertEqual(0, lab.mapped(path, start, end - start))
            gone += end - start
        self.assertEqual(before - gone, lab.mapped(path, 0, lab.TIB))
        self.assertEqual(SIZE, os.stat(path).st_size)

    def test_no_room_for_the_count_is_no_error(self):
        path = self.make(data=self.DATA)
        out = self.expect_fsctl(OK, self.open(), self.code, trim((0, 65536)),
                                0)
        self.assertEqual(b'', out)
        self.assertEqual(0, lab.mapped(path, 0, 65536))

    def test_more_room_than_needed(self):
        self.make(data=self.DATA)
        out = self.expect_fsctl(OK, self.open(), self.code, trim((0, 65536)),
                                4096)
        self.assertEqual(struct.pack('<I', 1), out)

    def test_input_longer_than_its_ranges(self):
        path = self.make(data=self.DATA)
        self.expect_fsctl(OK, self.open(), self.code,
                          trim((0, 4096)) + bytes(range(1, 17)))
        self.assert_bytes(wanted(self.DATA, [(0, 4096)]), lab.content(path))

    def test_first_failure_ends_the_call(self):
        """Ranges before the bad one are trimmed, those behind are not."""
        path = self.make(data=self.DATA)
        out = self.expect_fsctl(INTEGER_OVERFLOW, self.open(), self.code,
                                trim((0, 4096), (4096, ALL), (65536, 4096)))
        self.assertEqual(b'', out)
        self.assert_bytes(wanted(self.DATA, [(0, 4096)]), lab.content(path))
        self.server.alive()

    def test_lock_ends_the_call(self):
        path = self.make(data=self.DATA)
        file = self.handle('locked')
        self.expect_fsctl(FILE_LOCK_CONFLICT, file, self.code,
                          trim((65536, 4096), (4096, 4096), (131072, 4096)))
        self.assert_bytes(wanted(self.DATA, [(65536, 69632)]),
                          lab.content(path))

    def test_lock_elsewhere_does_not_matter(self):
        path = self.make(data=self.DATA)
        file = self.handle('locked')
        self.expect_fsctl(OK, file, self.code, trim((8192, 65536)))
        self.assert_bytes(wanted(self.DATA, [(8192, 73728)]),
                          lab.content(path))

    def test_lock_of_ones_own_does_not_matter(self):
        path = self.make(data=self.DATA)
        file = self.handle('own_lock')
        self.expect_fsctl(OK, file, self.code, trim((0, 65536)))
        self.assert_bytes(bytes(65536), lab.content(path, 0, 65536))

    def test_as_many_ranges_as_a_request_takes(self):
        count = 4000
        data = lab.pattern(2 * count * 4096, 5)
        path = self.make(data=data)
        parts = [(2 * i * 4096, 4096) for i in range(count)]
        out = self.expect_fsctl(OK, self.open(), self.code, trim(*parts), 4)
        self.assertEqual(struct.pack('<I', count), out)
        freed = [(start, start + length) for start, length in parts]
        self.assert_bytes(wanted(data, freed), lab.content(path))
        self.assertEqual(count * 4096, lab.mapped(path, 0, len(data)))

    def test_input_of_a_mebibyte(self):
        count = 65000
        path = self.make(data=self.DATA)
        out = self.expect_fsctl(OK, self.open(), self.code,
                                trim(*[(65536, 4096)] * count), 4)
        self.assertEqual(struct.pack('<I', count), out)
        self.assert_bytes(wanted(self.DATA, [(65536, 69632)]),
                          lab.content(path))

    def test_largest_disk(self):
        """64 TiB; ext4 takes files up to 16 TiB less a block."""
        size = lab.LARGEST[self.share]
        data = lab.pattern(lab.MIB, 3)
        path = self.make(data=data, size=size)
        for at in (size // 2, size - lab.MIB):
            lab.put(path, at, data)
        out = self.expect_fsctl(
            OK, self.open(), self.code,
            trim((lab.MIB, size - 2 * lab.MIB)), 4)
        self.assertEqual(struct.pack('<I', 1), out)
        self.assert_bytes(data, lab.content(path, 0, lab.MIB))
        self.assert_bytes(bytes(lab.MIB),
                          lab.content(path, size // 2, lab.MIB))
        self.assert_bytes(data, lab.content(path, size - lab.MIB, lab.MIB))
        self.assertEqual(2 * lab.MIB, lab.mapped(path, 0, size))
        self.assertEqual(size, os.stat(path).st_size)

    def test_preallocated_blocks_are_freed_too(self):
        path = self.make(size=lab.MIB)
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, lab.MIB)
        self.assertEqual(lab.MIB, lab.mapped(path, 0, lab.MIB))
        self.expect_fsctl(OK, self.open(), self.code, trim((0, lab.MIB)))
        self.assertEqual(0, lab.mapped(path, 0, lab.MIB))


@lab.on_shares(*fsctl.ON_DISK)
class TrimOff(lab.Case):
    """Without the feature a share answers as a stock one."""

    shares = {name: ['vfs objects = hvrs', 'hvrs:trim = no']
              for name in fsctl.ON_DISK}

    def test_stock_answer(self):
        data = fsctl.Case.DATA
        path = self.make(data=data)
        self.expect_fsctl(INVALID_DEVICE_REQUEST, self.open(),
                          fsctl.FILE_LEVEL_TRIM, trim((0, 65536)))
        self.assert_bytes(data, lab.content(path))
        self.assertEqual(-(-SIZE // 4096) * 4096,
                         lab.mapped(path, 0, lab.MIB))


if __name__ == '__main__':
    unittest.main()
