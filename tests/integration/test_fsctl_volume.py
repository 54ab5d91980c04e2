"""What the volume tells: FileFsAttributeInformation, FileFsSectorSize-
Information, FileFsSizeInformation ([MS-FSCC] 2.5.1, 2.5.7, 2.5.8), and what
a share with every feature off answers."""

import os
import struct
import unittest

import fsctl
import lab
import smb2
from smb2 import INFO_LENGTH_MISMATCH, INVALID_DEVICE_REQUEST, OK

REFCOUNTING, SPARSE_VDL, COMPRESSION = 0x08000000, 0x10000000, 0x10
SPARSE_FILES, ENCRYPTION, INTEGRITY = 0x40, 0x20000, 0x04000000
TRIM_ENABLED = 8
VOLUME = 2


class Volume(lab.Case):
    shares = {
        'vm': ['vfs objects = hvrs'],
        'vmbtrfs': ['vfs objects = hvrs'],
        'vmext4': ['vfs objects = hvrs'],
        'vmoff': ['vfs objects = hvrs'] + lab.options_off(),
        'plain': [],
        'no-vdl': ('/srv/xfs/vm', ['vfs objects = hvrs',
                                   'hvrs:sparse vdl = no']),
        'no-trim': ('/srv/xfs/vm', ['vfs objects = hvrs', 'hvrs:trim = no']),
        'no-clone': ('/srv/xfs/vm', ['vfs objects = hvrs',
                                     'hvrs:block cloning = no']),
        'tmpfs': ('/tmp', ['vfs objects = hvrs']),
        'own-sizes': ('/srv/xfs/vm', [
            'vfs objects = hvrs', 'block size = 65536',
            'fs:logical bytes per sector = 4096']),
    }

    def volume(self, share, level, max_out=65536):
        root = self.connect(share).create(
            '', access=smb2.READ_ATTRIBUTES, disposition=smb2.OPEN,
            options=smb2.DIRECTORY)
        return root.info(level, VOLUME, max_out)

    def attributes(self, share):
        status, data = self.volume(share, 5)
        self.expect(OK, status)
        return struct.unpack_from('<I', data)[0]

    def sectors(self, share):
        status, data = self.volume(share, 11)
        self.expect(OK, status)
        return struct.unpack('<7I', data)

    def test_cloning_is_announced_where_blocks_can_be_shared(self):
        for share, can in (('vm', True), ('vmbtrfs', True),
                           ('vmext4', False), ('tmpfs', False),
                           ('vmoff', False), ('plain', False),
                           ('no-clone', False)):
            with self.subTest(share):
                self.assertEqual(can, bool(self.attributes(share) &
                                           REFCOUNTING))

    def test_sparse_vdl_is_announced_where_it_is_on(self):
        for share, on in (('vm', True), ('vmbtrfs', True), ('vmext4', True),
                          ('vmoff', False), ('plain', False),
                          ('no-vdl', False)):
            with self.subTest(share):
                self.assertEqual(on, bool(self.attributes(share) &
                                          SPARSE_VDL))

    def test_what_hyper_v_must_not_see(self):
        for share in ('vm', 'vmbtrfs', 'vmext4'):
            with self.subTest(share):
                seen = self.attributes(share)
                self.assertEqual(SPARSE_FILES, seen & (
                    SPARSE_FILES | COMPRESSION | ENCRYPTION | INTEGRITY))

    def test_every_other_bit_is_the_stock_one(self):
        ours = self.attributes('vm') & ~(REFCOUNTING | SPARSE_VDL)
        self.assertEqual(self.attributes('plain'), ours)
        self.assertEqual(self.attributes('plain'), self.attributes('vmoff'))

    def test_sectors(self):
        for share in ('vm', 'vmbtrfs', 'vmext4'):
            with self.subTest(share):
                self.assertEqual((512, 4096, 4096, 4096, 3 | TRIM_ENABLED,
                                  0, 0), self.sectors(share))

    def test_no_trim_flag_without_trim(self):
        for share in ('no-trim', 'vmoff', 'plain'):
            with self.subTest(share):
                self.assertEqual(0, self.sectors(share)[4] & TRIM_ENABLED)

    def test_stock_sectors_where_all_is_off(self):
        self.assertEqual((512, 512, 512, 512, 3, 0, 0),
                         self.sectors('plain'))
        self.assertEqual(self.sectors('plain'), self.sectors('vmoff'))

    def test_what_the_administrator_set_stays(self):
        self.assertEqual((4096, 4096, 4096, 4096, 3 | TRIM_ENABLED, 0, 0),
                         self.sectors('own-sizes'))
        status, data = self.volume('own-sizes', 3)
        self.assertEqual((128, 512), struct.unpack_from('<II', data, 16))

    def test_sector_buffer_too_short(self):
        for room in (0, 27):
            status, data = self.volume('vm', 11, room)
            self.expect(INFO_LENGTH_MISMATCH, status)

    def test_attribute_buffer_too_short(self):
        status, data = self.volume('vm', 5, 15)
        self.expect(INFO_LENGTH_MISMATCH, status)

    def test_cluster_is_that_of_the_file_system(self):
        for share in ('vm', 'vmbtrfs', 'vmext4'):
            directory = lab.DIRECTORIES[share]
            size = os.statvfs(directory).f_bsize
            for level, at in ((3, 16), (7, 24)):
                with self.subTest(share=share, level=level):
                    status, data = self.volume(share, level)
                    self.expect(OK, status)
                    self.assertEqual((size // 512, 512),
                                     struct.unpack_from('<II', data, at))

    def test_totals_are_those_of_the_file_system(self):
        stat = os.statvfs('/srv/xfs/vm')
        status, data = self.volume('vm', 7)
        total, = struct.unpack_from('<Q', data)
        units, size = struct.unpack_from('<II', data, 24)
        self.assertEqual(stat.f_blocks * stat.f_frsize, total * units * size)

    def test_all_off_is_a_stock_server(self):
        """Each FSCTL on vmoff and on plain: same status, output, content."""
        data = fsctl.Case.DATA
        requests = [
            (fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, 65536))),
            (fsctl.QUERY_FILE_REGIONS, b''),
            (fsctl.GET_INTEGRITY, b''),
            (fsctl.SET_INTEGRITY, bytes(8)),
            (fsctl.SET_INTEGRITY_EX, bytes(16)),
            (fsctl.DUPLICATE_EXTENTS, bytes(40)),
            (fsctl.DUPLICATE_EXTENTS_EX, bytes(56)),
            (fsctl.QUERY_ALLOCATED_RANGES, fsctl.query(0, 1 << 20)),
            (fsctl.SET_ZERO_DATA, fsctl.zero(65536, 131072)),
            (fsctl.SET_ZERO_DATA, fsctl.zero(2, 1)),
            (fsctl.SET_SPARSE, b''),
            (fsctl.QUERY_ALLOCATED_RANGES, fsctl.query(0, 1 << 20)),
        ]
        answers = {}
        for share in ('plain', 'vmoff'):
            path = lab.DIRECTORIES[share] + '/hvrs-off.vhdx'
            file = self.connect(share).create('hvrs-off.vhdx')
            self.addCleanup(os.unlink, path)
            file.write(0, data)
            lab.settle(path)
            answers[share] = [file.fsctl(*request) for request in requests]
            answers[share].append(lab.content(path))
            answers[share].append(lab.mapped(path, 0, lab.MIB))
        self.assertEqual(answers['plain'], answers['vmoff'])
        self.assertEqual(INVALID_DEVICE_REQUEST, answers['vmoff'][0][0])
        self.assertEqual(OK, answers['vmoff'][8][0])


if __name__ == '__main__':
    unittest.main()
