"""FSCTL_GET_INTEGRITY_INFORMATION, _SET and _SET_EX, and
FSCTL_QUERY_FILE_REGIONS: [MS-FSCC] 2.3.19, 2.3.63, 2.3.65 and 2.3.55."""

import struct
import unittest

import fsctl
import lab
import smb2
from fsctl import TOP, regions
from smb2 import (ACCESS_DENIED, BUFFER_TOO_SMALL, FILE_CLOSED,
                  INVALID_DEVICE_REQUEST, INVALID_PARAMETER,
                  MEDIA_WRITE_PROTECTED, OK)

SIZE = len(fsctl.Case.DATA)
ON_CLONING = ('vm', 'vmbtrfs')


def integrity(algorithm, flags=0):
    return struct.pack('<HHI', algorithm, 0, flags)


def integrity_ex(enable, keep, flags=0, version=1):
    return struct.pack('<BBHIB7x', enable, keep, 0, flags, version)


GET_REFUSED = [
    ('no_room', 'rw', b'', INVALID_PARAMETER, 0),
    ('room_one_byte_short', 'rw', b'', INVALID_PARAMETER, 15),
    ('closed_handle', 'closed', b'', FILE_CLOSED),
    ('handle_of_another_session', 'stranger', b'', FILE_CLOSED),
    ('handle_of_another_share', 'elsewhere', b'',
     FILE_CLOSED),
]


@lab.on_shares(*ON_CLONING)
@fsctl.refused(GET_REFUSED)
@lab.rows([('open_for_writing', 'rw', 16), ('more_room', 'rw', 4096),
           ('open_for_looking', 'look', 16), ('read_only_share', 'readonly',
                                              16),
           ('user_who_may_read', 'other', 16)],
          lambda self, *row: self.got(*row))
class IntegrityGet(fsctl.Case):
    code = fsctl.GET_INTEGRITY

    def got(self, kind, room):
        """No checksums, and the cluster size a clone must be aligned to."""
        self.make(data=self.DATA)
        out = self.expect_fsctl(OK, self.handle(kind), self.code, b'', room)
        self.assertEqual(struct.pack('<HHIII', 0, 0, 0, 0, 4096), out)


SET_ROWS = [
    # name, handle, input, status
    ('none', 'rw', integrity(0), OK),
    ('unchanged', 'rw', integrity(0xFFFF), OK),
    ('input_longer_than_needed', 'rw', integrity(0) + b'\xFF' * 8, OK),
    ('nothing_sent', 'rw', b'', INVALID_PARAMETER),
    ('one_byte_short', 'rw', integrity(0)[:7], INVALID_PARAMETER),
    ('crc32', 'rw', integrity(1), INVALID_DEVICE_REQUEST),
    ('crc64', 'rw', integrity(2), INVALID_DEVICE_REQUEST),
    ('unknown_algorithm', 'rw', integrity(3), INVALID_PARAMETER),
    ('unknown_algorithm_fffe', 'rw', integrity(0xFFFE), INVALID_PARAMETER),
    ('unknown_flag', 'rw', integrity(0, 2), INVALID_PARAMETER),
    ('enforcement_off_without_integrity', 'rw', integrity(0, 1),
     INVALID_PARAMETER),
    ('enforcement_off_and_unchanged', 'rw', integrity(0xFFFF, 1),
     INVALID_PARAMETER),
    ('read_only_share', 'readonly', integrity(0), MEDIA_WRITE_PROTECTED),
    ('input_is_looked_at_before_the_share', 'readonly', integrity(3),
     INVALID_PARAMETER),
    ('open_for_reading', 'read', integrity(0), ACCESS_DENIED),
    ('closed_handle', 'closed', integrity(0), FILE_CLOSED),
]


@lab.on_shares(*ON_CLONING)
@fsctl.refused(SET_ROWS)
class IntegritySet(fsctl.Case):
    code = fsctl.SET_INTEGRITY


SET_EX_ROWS = [
    ('off', 'rw', integrity_ex(0, 0), OK),
    ('kept', 'rw', integrity_ex(0, 1), OK),
    ('kept_whatever_else', 'rw', integrity_ex(1, 1), OK),
    ('on', 'rw', integrity_ex(1, 0), INVALID_DEVICE_REQUEST),
    ('nothing_sent', 'rw', b'', INVALID_PARAMETER),
    ('one_byte_short', 'rw', integrity_ex(0, 0)[:15], INVALID_PARAMETER),
    ('version_0', 'rw', integrity_ex(0, 0, version=0), INVALID_PARAMETER),
    ('version_2', 'rw', integrity_ex(0, 0, version=2), INVALID_PARAMETER),
    ('unknown_flag', 'rw', integrity_ex(0, 0, 2), INVALID_PARAMETER),
    ('enforcement_off_without_integrity', 'rw', integrity_ex(0, 0, 1),
     INVALID_PARAMETER),
    ('read_only_share', 'readonly', integrity_ex(0, 0),
     MEDIA_WRITE_PROTECTED),
    ('input_is_looked_at_before_the_share', 'readonly',
     integrity_ex(0, 0, version=0), INVALID_PARAMETER),
    ('closed_handle', 'closed', integrity_ex(0, 0), FILE_CLOSED),
]


@lab.on_shares(*ON_CLONING)
@fsctl.refused(SET_EX_ROWS)
class IntegritySetEx(fsctl.Case):
    code = fsctl.SET_INTEGRITY_EX


class IntegrityNowhere(fsctl.Case):
    """Without block cloning nobody needs to ask: the stock answer."""

    share = 'vmext4'

    def test_all_three(self):
        self.make(data=self.DATA)
        file = self.open()
        for code, data in ((fsctl.GET_INTEGRITY, b''),
                           (fsctl.SET_INTEGRITY, integrity(0)),
                           (fsctl.SET_INTEGRITY_EX, integrity_ex(0, 0))):
            self.expect_fsctl(INVALID_DEVICE_REQUEST, file, code, data)


REGIONS_REFUSED = [
    ('one_byte', 'rw', b'\0', BUFFER_TOO_SMALL),
    ('one_byte_short', 'rw', regions(0, SIZE)[:23], BUFFER_TOO_SMALL),
    ('length_0', 'rw', regions(0, 0), INVALID_PARAMETER),
    ('length_negative', 'rw', regions(0, -1), INVALID_PARAMETER),
    ('offset_negative', 'rw', regions(-1, 1), INVALID_PARAMETER),
    ('sum_beyond_63_bits', 'rw', regions(4096, TOP - 4095),
     INVALID_PARAMETER),
    ('no_usage', 'rw', regions(0, SIZE, 0), INVALID_PARAMETER),
    ('usage_of_a_volume_with_one_valid_length', 'rw', regions(0, SIZE, 1),
     INVALID_PARAMETER),
    ('range_is_looked_at_before_the_room', 'rw', regions(0, 0),
     INVALID_PARAMETER, 0),
    ('room_one_byte_short', 'rw', regions(0, SIZE), BUFFER_TOO_SMALL, 39),
    ('no_room', 'rw', b'', BUFFER_TOO_SMALL, 0),
    ('directory', 'directory', regions(0, SIZE), INVALID_PARAMETER),
    ('behind_the_end', 'rw', regions(SIZE + 1, 4096), OK),
    ('at_the_end', 'rw', regions(SIZE, 4096), OK),
    ('closed_handle', 'closed', regions(0, SIZE), FILE_CLOSED),
]

REGIONS = [
    # name, handle, input, room, offset and length answered
    ('nothing_asked', 'rw', b'', 4096, 0, SIZE),
    ('whole_file', 'rw', regions(0, SIZE), 40, 0, SIZE),
    ('greatest_range', 'rw', regions(0, TOP), 40, 0, SIZE),
    ('part', 'rw', regions(4096, 4096), 40, 4096, 4096),
    ('across_the_end', 'rw', regions(4096, 1 << 40), 40, 4096, SIZE - 4096),
    ('both_usages', 'rw', regions(0, 4096, 3), 40, 0, 4096),
    ('open_for_looking', 'look', regions(0, 4096), 40, 0, 4096),
    ('read_only_share', 'readonly', regions(0, 4096), 40, 0, 4096),
]


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(REGIONS_REFUSED)
@lab.rows(REGIONS, lambda self, *row: self.valid(*row))
class FileRegions(fsctl.Case):
    code = fsctl.QUERY_FILE_REGIONS

    def valid(self, kind, data, room, offset, length):
        self.make(data=self.DATA)
        out = self.expect_fsctl(OK, self.handle(kind), self.code, data, room)
        self.assertEqual((0, 1, 1, 0, offset, length, 2, 0),
                         struct.unpack('<IIIIQQII', out))

    def test_empty_file(self):
        self.make()
        out = self.expect_fsctl(OK, self.open(), self.code, b'', 40)
        self.assertEqual((0, 1, 1, 0, 0, 0, 0, 0),
                         struct.unpack('<IIIIQQII', out))

    def test_zeroed_and_never_written_bytes_are_valid(self):
        self.make(size=lab.LARGEST[self.share])
        out = self.expect_fsctl(OK, self.open(), self.code, b'', 40)
        self.assertEqual((0, 1, 1, 0, 0, lab.LARGEST[self.share], 2, 0),
                         struct.unpack('<IIIIQQII', out))


@lab.on_shares(*fsctl.ON_DISK)
class FileRegionsOneValidLength(lab.Case):
    """Without sparse VDL the volume speaks as NTFS: usage 1."""

    shares = {name: ['vfs objects = hvrs', 'hvrs:sparse vdl = no']
              for name in fsctl.ON_DISK}

    def test_usage(self):
        self.make(data=fsctl.Case.DATA)
        file = self.open()
        for data in (b'', regions(0, SIZE, 1), regions(0, SIZE, 3)):
            out = self.expect_fsctl(OK, file, fsctl.QUERY_FILE_REGIONS, data,
                                    40)
            self.assertEqual((0, 1, 1, 0, 0, SIZE, 1, 0),
                             struct.unpack('<IIIIQQII', out))
        self.expect_fsctl(INVALID_PARAMETER, file, fsctl.QUERY_FILE_REGIONS,
                          regions(0, SIZE, 2), 40)


if __name__ == '__main__':
    unittest.main()
