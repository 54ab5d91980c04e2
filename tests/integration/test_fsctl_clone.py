"""FSCTL_DUPLICATE_EXTENTS_TO_FILE and _EX: [MS-FSCC] 2.3.7 and 2.3.9,
[MS-FSA] 2.1.5.10.4."""

import os
import struct
import unittest

import fsctl
import lab
import smb2
from fsctl import TOP, clone, clone_ex
from smb2 import (ACCESS_DENIED, FILE_CLOSED, INVALID_DEVICE_REQUEST,
                  INVALID_HANDLE, INVALID_PARAMETER, MEDIA_WRITE_PROTECTED,
                  NOT_SUPPORTED, OK)

KIB, MIB = lab.KIB, lab.MIB
SOURCE = lab.pattern(MIB, 7)
TARGET = fsctl.Case.DATA
SIZE = len(TARGET)

# What is wrong with a request, in the order of the checks.  Each row is
# (name, target, source, from, to, length, status).
REFUSED = [
    ('source_closed', 'rw', 'closed', 0, 0, 4096, INVALID_HANDLE),
    ('source_never_opened', 'rw', 'invented', 0, 0, 4096, INVALID_HANDLE),
    ('source_of_another_session', 'rw', 'stranger', 0, 0, 4096,
     INVALID_HANDLE),
    ('source_is_looked_at_before_the_share', 'readonly', 'closed', 0, 0,
     4096, INVALID_HANDLE),
    ('read_only_share', 'readonly', 'reader_there', 0, 0, 4096,
     MEDIA_WRITE_PROTECTED),
    ('source_offset_not_aligned', 'rw', 'reader', 512, 0, 4096,
     INVALID_PARAMETER),
    ('target_offset_not_aligned', 'rw', 'reader', 0, 512, 4096,
     INVALID_PARAMETER),
    ('length_not_aligned', 'rw', 'reader', 0, 0, 4097, INVALID_PARAMETER),
    ('source_offset_negative', 'rw', 'reader', -4096, 0, 4096,
     INVALID_PARAMETER),
    ('target_offset_negative', 'rw', 'reader', 0, -4096, 4096,
     INVALID_PARAMETER),
    ('length_negative', 'rw', 'reader', 0, 0, -4096, INVALID_PARAMETER),
    ('source_end_overflows', 'rw', 'reader', TOP - 4095, 0, 8192,
     INVALID_PARAMETER),
    ('target_end_overflows', 'rw', 'reader', 0, TOP - 4095, 8192,
     INVALID_PARAMETER),
    ('target_directory', 'directory', 'reader', 0, 0, 4096, NOT_SUPPORTED),
    ('target_open_for_reading', 'read', 'reader', 0, 0, 4096,
     ACCESS_DENIED),
    ('target_open_for_attributes', 'attributes', 'reader', 0, 0, 4096,
     ACCESS_DENIED),
    ('source_open_for_writing', 'rw', 'writer', 0, 0, 4096,
     INVALID_PARAMETER),
    ('source_open_for_looking', 'rw', 'looker', 0, 0, 4096,
     INVALID_PARAMETER),
    ('source_directory', 'rw', 'folder', 0, 0, 4096, INVALID_PARAMETER),
    ('beyond_the_source', 'rw', 'reader', MIB - 4096, 0, 8192,
     NOT_SUPPORTED),
    ('behind_the_source', 'rw', 'reader', MIB, 0, 4096, NOT_SUPPORTED),
    ('far_behind_the_source', 'rw', 'reader', 1 << 50, 0, 4096,
     NOT_SUPPORTED),
    ('source_sparse_target_not', 'rw', 'sparse', 0, 0, 4096, NOT_SUPPORTED),
    ('target_offset_behind_the_end', 'rw', 'reader', 0, MIB, 4096,
     INVALID_PARAMETER),
    ('nothing_to_do', 'rw', 'reader', 0, 0, 0, OK),
    ('nothing_to_do_at_the_end', 'rw', 'reader', MIB, 0, 0, OK),
    ('target_closed', 'closed', 'reader', 0, 0, 4096, FILE_CLOSED),
    ('target_of_another_share', 'elsewhere', 'reader', 0, 0, 4096,
     FILE_CLOSED),
    ('target_of_another_session', 'stranger', 'reader', 0, 0, 4096,
     FILE_CLOSED),
]

CLONED = [
    # name, from, to, length
    ('one_cluster', 0, 0, 4096),
    ('elsewhere', 64 * KIB, 128 * KIB, 64 * KIB),
    ('up_to_the_target_end', 0, 128 * KIB, 132 * KIB),
    ('all_whole_clusters', 0, 0, 256 * KIB),
    ('target_end_caps_it', 0, 128 * KIB, 512 * KIB),
    ('source_end_reached', MIB - 64 * KIB, 0, 64 * KIB),
]


class Case(fsctl.Case):
    ex = False
    shares = dict(fsctl.SHARES, **{
        'vm-again': (lab.DIRECTORIES['vm'], ['vfs objects = hvrs']),
        'vmbtrfs-again': (lab.DIRECTORIES['vmbtrfs'],
                          ['vfs objects = hvrs'])})

    @property
    def code(self):
        return fsctl.DUPLICATE_EXTENTS_EX if self.ex else \
            fsctl.DUPLICATE_EXTENTS

    def request(self, *arguments):
        return (clone_ex if self.ex else clone)(*arguments)

    def setUp(self):
        super().setUp()
        self.source_path = self.make('source.vhdx', SOURCE)

    def open_source(self, tree=None, **how):
        how.setdefault('access', smb2.READ_ONLY)
        return self.open('source.vhdx', tree=tree, disposition=smb2.OPEN,
                         **how)

    def source_reader(self, target):
        return self.open_source()

    def source_reader_there(self, target):
        return self.open_source(tree=target.tree)

    def source_closed(self, target):
        file = self.open_source()
        file.close()
        return file

    def source_invented(self, target):
        return struct.pack('<QQ', 0x1234567890, 0x9876543210)

    def source_stranger(self, target):
        session = smb2.Session(self.tree.connection, 'hvrsadmin', 'hvrsadmin')
        return self.open_source(tree=smb2.Tree(session, self.share))

    def source_writer(self, target):
        return self.open_source(access=smb2.WRITE_DATA)

    def source_looker(self, target):
        return self.open_source(access=smb2.READ_ATTRIBUTES)

    def source_folder(self, target):
        return self.handle('directory')

    def source_sparse(self, target):
        file = self.open_source(access=smb2.READ_WRITE)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        return file

    def refused(self, kind, source, from_offset, to_offset, length, status):
        path = self.make(data=TARGET)
        before = self.shape()
        target = self.handle(kind)
        file = getattr(self, 'source_' + source)(target)
        self.expect_fsctl(status, target, self.code,
                          self.request(file, from_offset, to_offset, length),
                          0)
        self.assert_bytes(TARGET, lab.content(path), 'target')
        self.assertEqual(before, self.shape())
        self.assert_bytes(SOURCE, lab.content(self.source_path), 'source')
        self.server.alive()

    def cloned(self, from_offset, to_offset, length):
        path = self.make(data=TARGET)
        lab.settle(self.source_path)
        target = self.open()
        self.expect_fsctl(OK, target, self.code,
                          self.request(self.open_source(), from_offset,
                                       to_offset, length), 0)
        taken = min(length, SIZE - to_offset)
        wanted = TARGET[:to_offset] + \
            SOURCE[from_offset:from_offset + taken] + \
            TARGET[to_offset + taken:]
        self.assert_bytes(wanted, lab.content(path), 'target')
        self.assert_bytes(wanted, target.read(0, 2 * SIZE), 'over SMB')
        self.assert_bytes(SOURCE, lab.content(self.source_path), 'source')
        whole = taken // 4096 * 4096
        self.assertGreaterEqual(lab.shared(path, to_offset, whole), whole)
        for at in (0, whole - 4096):
            self.assertEqual(lab.place(self.source_path, from_offset + at),
                             lab.place(path, to_offset + at))


WRONG_SIZE = [
    ('nothing_sent', 0), ('one_byte', 1), ('no_file_id', 8),
    ('one_byte_short', 39),
]
WRONG_SIZE_EX = [
    ('nothing_sent', 0), ('structure_size_only', 8), ('plain_form', 40),
    ('one_byte_short', 47),
]


def cut(self, length):
    path = self.make(data=TARGET)
    before = self.shape()
    request = self.request(self.open_source(), 0, 0, 4096)[:length]
    self.expect_fsctl(INVALID_PARAMETER, self.open(), self.code, request)
    self.assert_bytes(TARGET, lab.content(path))
    self.assertEqual(before, self.shape())
    self.server.alive()


@lab.on_shares('vm', 'vmbtrfs')
@lab.rows(REFUSED, lambda self, *row: self.refused(*row))
@lab.rows(CLONED, lambda self, *row: self.cloned(*row))
@lab.rows(WRONG_SIZE, cut)
class Clone(Case):
    def test_input_longer_than_needed(self):
        path = self.make(data=TARGET)
        request = clone(self.open_source(), 0, 0, 4096) + b'\xFF' * 64
        self.expect_fsctl(OK, self.open(), self.code, request)
        self.assert_bytes(SOURCE[:4096] + TARGET[4096:], lab.content(path))

    def test_whole_file_of_any_length(self):
        """Both files end in the same incomplete cluster."""
        data = SOURCE[:300 * KIB + 777]
        self.make('source.vhdx', data)
        path = self.make(size=len(data))
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, len(data)))
        self.assert_bytes(data, lab.content(path))

    def test_incomplete_last_cluster_into_the_middle(self):
        """The bytes behind the source's end are zeros, the rest stays."""
        data = SOURCE[:64 * KIB + 777]
        self.make('source.vhdx', data)
        path = self.make(data=TARGET)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, 68 * KIB))
        self.assert_bytes(data + bytes(68 * KIB - len(data)) +
                          TARGET[68 * KIB:], lab.content(path))

    def test_within_one_file(self):
        path = self.make(data=TARGET)
        file = self.open()
        self.expect_fsctl(OK, file, self.code,
                          self.request(file, 0, 64 * KIB, 64 * KIB))
        self.assert_bytes(TARGET[:64 * KIB] * 2 + TARGET[128 * KIB:],
                          lab.content(path))
        self.assertEqual(lab.place(path, 0), lab.place(path, 64 * KIB))

    def test_within_one_file_by_two_handles(self):
        path = self.make(data=TARGET)
        source = self.open(access=smb2.READ_ONLY)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(source, 64 * KIB, 0, 64 * KIB))
        self.assert_bytes(TARGET[64 * KIB:128 * KIB] + TARGET[64 * KIB:],
                          lab.content(path))

    def test_overlap_within_one_file(self):
        path = self.make(data=TARGET)
        before = self.shape()
        file = self.open()
        other = self.open(access=smb2.READ_ONLY)
        for source in (file, other):
            for from_offset, to_offset in ((0, 4096), (4096, 0), (0, 0)):
                self.expect_fsctl(NOT_SUPPORTED, file, self.code,
                                  self.request(source, from_offset,
                                               to_offset, 64 * KIB))
        self.assert_bytes(TARGET, lab.content(path))
        self.assertEqual(before, self.shape())

    def test_side_by_side_is_no_overlap(self):
        path = self.make(data=TARGET)
        file = self.open()
        self.expect_fsctl(OK, file, self.code,
                          self.request(file, 0, 4096, 4096))
        self.assert_bytes(TARGET[:4096] * 2 + TARGET[8192:],
                          lab.content(path))

    def sparse_pair(self, source_sparse, target_sparse):
        self.make('source.vhdx', SOURCE[:64 * KIB], 256 * KIB)
        path = self.make(data=TARGET)
        source = self.open_source(access=smb2.READ_WRITE)
        target = self.open()
        if source_sparse:
            self.expect_fsctl(OK, source, fsctl.SET_SPARSE)
        if target_sparse:
            self.expect_fsctl(OK, target, fsctl.SET_SPARSE)
        self.expect_fsctl(OK, target, self.code,
                          self.request(source, 0, 0, 256 * KIB))
        self.assert_bytes(SOURCE[:64 * KIB] + bytes(192 * KIB) +
                          TARGET[256 * KIB:], lab.content(path))
        return path

    def test_both_sparse_holes_become_holes(self):
        path = self.sparse_pair(True, True)
        self.assertEqual(0, lab.mapped(path, 64 * KIB, 192 * KIB))

    def test_only_the_target_sparse(self):
        self.sparse_pair(False, True)

    def test_locks_are_ignored(self):
        path = self.make(data=TARGET)
        keeper = self.connect()
        for name in ('disk.vhdx', 'source.vhdx'):
            self.expect(OK, self.open(name, tree=keeper).lock(0, MIB))
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, 4096))
        self.assert_bytes(SOURCE[:4096] + TARGET[4096:], lab.content(path))

    def test_from_another_share_of_the_same_disk(self):
        path = self.make(data=TARGET)
        tree = smb2.Tree(self.tree.session, self.share + '-again')
        source = self.open_source(tree=tree)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(source, 0, 0, 64 * KIB))
        self.assert_bytes(SOURCE[:64 * KIB] + TARGET[64 * KIB:],
                          lab.content(path))
        self.assertEqual(lab.place(self.source_path, 0), lab.place(path, 0))

    def test_from_another_disk(self):
        path = self.make(data=TARGET)
        before = self.shape()
        tree = smb2.Tree(self.tree.session, 'vmext4')
        file = tree.create('hvrs-clone-source', options=smb2.DELETE_ON_CLOSE,
                           access=smb2.READ_WRITE | smb2.DELETE)
        file.write(0, SOURCE[:64 * KIB])
        self.expect_fsctl(INVALID_HANDLE, self.open(), self.code,
                          self.request(file, 0, 0, 64 * KIB))
        self.assert_bytes(TARGET, lab.content(path))
        self.assertEqual(before, self.shape())

    def test_later_writes_part_the_two(self):
        path = self.make(data=TARGET)
        target = self.open()
        source = self.open_source(access=smb2.READ_WRITE)
        self.expect_fsctl(OK, target, self.code,
                          self.request(source, 0, 0, 128 * KIB))
        target.write(4096, b't' * 4096)
        source.write(8192, b's' * 4096)
        self.assert_bytes(SOURCE[:4096] + b't' * 4096 +
                          SOURCE[8192:128 * KIB] + TARGET[128 * KIB:],
                          lab.content(path))
        self.assert_bytes(SOURCE[:8192] + b's' * 4096 + SOURCE[12288:],
                          lab.content(self.source_path))

    def test_what_is_not_on_disk_yet(self):
        """The source was written a moment ago and never flushed."""
        path = self.make(data=TARGET)
        source = self.open_source(access=smb2.READ_WRITE)
        source.write(0, lab.pattern(MIB, 99))
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(source, 0, 0, 64 * KIB))
        self.assert_bytes(lab.pattern(MIB, 99)[:64 * KIB] +
                          TARGET[64 * KIB:], lab.content(path))

    def test_write_time_moves(self):
        path = self.make(data=TARGET)
        os.utime(path, (1e9, 1e9))
        target = self.open()
        self.expect_fsctl(OK, target, self.code,
                          self.request(self.open_source(), 0, 0, 4096))
        target.close()
        self.assertGreater(os.stat(path).st_mtime, 1e9 + 1)

    def test_largest_disk(self):
        """64 TiB, the whole of it in one request."""
        size = lab.LARGEST[self.share]
        source_path = self.make('source.vhdx', size=size)
        path = self.make(size=size)
        places = (0, lab.TIB, size // 2, size - MIB)
        for at in places:
            lab.put(source_path, at, SOURCE)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, size))
        for at in places:
            self.assert_bytes(SOURCE, lab.content(path, at, MIB))
        self.assertEqual(4 * MIB, lab.mapped(path, 0, size))
        self.assertEqual(size, os.stat(path).st_size)


@lab.on_shares('vm', 'vmbtrfs')
@lab.rows(REFUSED, lambda self, *row: self.refused(*row))
@lab.rows(CLONED, lambda self, *row: self.cloned(*row))
@lab.rows(WRONG_SIZE_EX, cut)
class CloneEx(Case):
    ex = True

    def test_wrong_structure_size(self):
        path = self.make(data=TARGET)
        source = self.open_source()
        for size in (0, 0x28, 0x2F, 0x31, 0x38, 2**64 - 1):
            self.expect_fsctl(NOT_SUPPORTED, self.open(), self.code,
                              clone_ex(source, 0, 0, 4096, size=size))
        self.assert_bytes(TARGET, lab.content(path))

    def test_source_is_looked_at_before_the_structure_size(self):
        self.make(data=TARGET)
        self.expect_fsctl(INVALID_HANDLE, self.open(), self.code,
                          clone_ex(bytes(16), 0, 0, 4096, size=0))

    def test_input_of_the_size_it_tells(self):
        """48 bytes, without flags, from clients that trust StructureSize."""
        path = self.make(data=TARGET)
        request = clone_ex(self.open_source(), 0, 0, 4096)[:48]
        self.expect_fsctl(OK, self.open(), self.code, request)
        self.assert_bytes(SOURCE[:4096] + TARGET[4096:], lab.content(path))

    def test_reserved_field_is_ignored(self):
        path = self.make(data=TARGET)
        request = clone_ex(self.open_source(), 0, 0, 4096)[:52] + b'\xFF' * 8
        self.expect_fsctl(OK, self.open(), self.code, request)
        self.assert_bytes(SOURCE[:4096] + TARGET[4096:], lab.content(path))


@lab.on_shares('vm', 'vmbtrfs')
@lab.rows(REFUSED, lambda self, *row: self.refused(*row))
@lab.rows(CLONED, lambda self, *row: self.cloned(*row))
class CloneAtomic(Case):
    ex = True

    def request(self, *arguments):
        return clone_ex(*arguments, flags=1)

    def test_nothing_is_left_beside_the_target(self):
        self.make(data=TARGET)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, 128 * KIB))
        self.assertEqual(['disk.vhdx', 'source.vhdx'],
                         sorted(os.listdir(self.directory)))

    def test_incomplete_last_cluster(self):
        data = SOURCE[:64 * KIB + 777]
        self.make('source.vhdx', data)
        path = self.make(data=TARGET)
        self.expect_fsctl(OK, self.open(), self.code,
                          self.request(self.open_source(), 0, 0, 68 * KIB))
        self.assert_bytes(data + bytes(68 * KIB - len(data)) +
                          TARGET[68 * KIB:], lab.content(path))


class CloneNowhere(fsctl.Case):
    """ext4 shares no blocks: not announced, not done."""

    share = 'vmext4'

    def test_both_forms_are_refused(self):
        path = self.make(data=TARGET)
        source = self.make('source.vhdx', SOURCE)
        file = self.open('source.vhdx')
        target = self.open()
        self.expect_fsctl(INVALID_DEVICE_REQUEST, target,
                          fsctl.DUPLICATE_EXTENTS, clone(file, 0, 0, 4096))
        self.expect_fsctl(INVALID_DEVICE_REQUEST, target,
                          fsctl.DUPLICATE_EXTENTS_EX,
                          clone_ex(file, 0, 0, 4096))
        self.assert_bytes(TARGET, lab.content(path))
        self.assert_bytes(SOURCE, lab.content(source))


if __name__ == '__main__':
    unittest.main()
