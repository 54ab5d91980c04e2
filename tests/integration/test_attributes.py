"""Attributes of virtual disk files (MS-HVRS): never COMPRESSED or ENCRYPTED,
SPARSE_FILE only on a volume with sparse VDL; in every place a client sees
attributes."""

import os
import struct
import unittest

import fsctl
import lab
import smb2
from smb2 import (COMPRESSED, ENCRYPTED, INVALID_DEVICE_REQUEST,
                  INVALID_PARAMETER, NOT_SUPPORTED, OK, SPARSE)

GET_COMPRESSION, SET_COMPRESSION = 0x0009003C, 0x0009C040
FORBIDDEN = SPARSE | COMPRESSED | ENCRYPTED
XATTR = 'user.DOSATTRIB'

SHARES = {}
for name in fsctl.ON_DISK:
    directory = lab.DIRECTORIES[name]
    SHARES[name] = ['vfs objects = hvrs', 'hvrs:sparse vdl = no']
    SHARES[name + '-vdl'] = (directory, ['vfs objects = hvrs'])
    SHARES[name + '-raw'] = (directory, [])
    SHARES[name + '-loose'] = (directory, [
        'vfs objects = hvrs', 'hvrs:sparse vdl = no',
        'hvrs:virtual disk attributes = no'])
    SHARES[name + '-own'] = (directory, [
        'vfs objects = hvrs', 'hvrs:sparse vdl = no',
        'hvrs:virtual disk files = *.img'])


def attributes_everywhere(tree, name, folder='t'):
    """{place: attributes} of a file, from all that shows them."""
    file = tree.create('%s/%s' % (folder, name), disposition=smb2.OPEN,
                       access=smb2.READ_ONLY)
    seen = {'create': file.attributes}
    for place, level, offset in (('basic', 4, 32), ('network open', 34, 48),
                                 ('all', 18, 32), ('tag', 35, 0)):
        status, data = file.info(level)
        assert status == OK, (place, smb2.status_name(status))
        (seen[place],) = struct.unpack_from('<I', data, offset)
    body = struct.pack('<HHI16s', 24, 1, 0, file.id)
    reply = tree.call(smb2.CLOSE, body)
    (seen['close'],) = struct.unpack_from('<I', reply.body, 56)
    folder = tree.create(folder, access=smb2.READ_ONLY,
                         disposition=smb2.OPEN, options=smb2.DIRECTORY)
    for level in (1, 2, 3, 37, 38):
        seen['listing %d' % level] = folder.list(level=level)[name]
        folder.close()
        folder = tree.create('t', access=smb2.READ_ONLY,
                             disposition=smb2.OPEN, options=smb2.DIRECTORY)
    return seen


@lab.on_shares(*fsctl.ON_DISK)
class Attributes(lab.Case):
    shares = SHARES

    def sparse_file(self, name):
        """A file that a share without hvrs made sparse."""
        tree = self.connect(self.share + '-raw')
        file = self.open(name, data=lab.pattern(8192), tree=tree)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        file.close()
        seen = attributes_everywhere(tree, name)
        self.assertTrue(all(bits & SPARSE for bits in seen.values()), seen)
        return self.path(name)

    def test_sparse_is_hidden_everywhere(self):
        for name in ('disk.vhdx', 'disk.VHD', 'a.avhdx', 'set.vhds',
                     'state.vmrs', 'tracking.rct'):
            self.sparse_file(name)
            seen = attributes_everywhere(self.connect(), name)
            self.assertEqual(11, len(seen))
            self.assertEqual({}, {place: bits for place, bits in seen.items()
                                  if bits & FORBIDDEN})

    def test_other_files_are_shown_as_they_are(self):
        for name in ('disk.txt', 'vhdx', 'disk.vhdx.txt'):
            self.sparse_file(name)
            seen = attributes_everywhere(self.connect(), name)
            self.assertTrue(all(bits & SPARSE for bits in seen.values()),
                            seen)

    def test_sparse_is_honest_with_sparse_vdl(self):
        self.sparse_file('disk.vhdx')
        self.make('thick.vhdx', lab.pattern(8192))
        tree = self.connect(self.share + '-vdl')
        seen = attributes_everywhere(tree, 'disk.vhdx')
        self.assertTrue(all(bits & SPARSE for bits in seen.values()), seen)
        seen = attributes_everywhere(tree, 'thick.vhdx')
        self.assertFalse(any(bits & SPARSE for bits in seen.values()), seen)

    def test_feature_off_shows_it(self):
        self.sparse_file('disk.vhdx')
        seen = attributes_everywhere(self.connect(self.share + '-loose'),
                                     'disk.vhdx')
        self.assertTrue(all(bits & SPARSE for bits in seen.values()), seen)

    def test_own_list_of_names(self):
        tree = self.connect(self.share + '-own')
        self.sparse_file('disk.img')
        seen = attributes_everywhere(tree, 'disk.img')
        self.assertFalse(any(bits & FORBIDDEN for bits in seen.values()),
                         seen)
        self.sparse_file('disk.vhdx')
        seen = attributes_everywhere(tree, 'disk.vhdx')
        self.assertTrue(all(bits & SPARSE for bits in seen.values()), seen)

    def test_set_sparse_succeeds_and_sets_nothing(self):
        file = self.open(data=lab.pattern(8192))
        stored = os.getxattr(self.path('disk.vhdx'), XATTR)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        file.close()
        for share in (None, self.share + '-raw'):
            seen = attributes_everywhere(self.connect(share), 'disk.vhdx')
            self.assertFalse(any(bits & SPARSE for bits in seen.values()),
                             seen)
        self.assertEqual(stored, os.getxattr(self.path('disk.vhdx'), XATTR))

    def test_set_sparse_with_attribute_access_sets_nothing(self):
        self.open(data=lab.pattern(8192)).close()
        file = self.open(access=smb2.WRITE_ATTRIBUTES)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE)
        seen = attributes_everywhere(self.connect(self.share + '-raw'),
                                     'disk.vhdx')
        self.assertFalse(any(bits & SPARSE for bits in seen.values()), seen)

    def test_hidden_sparse_file_is_all_allocated(self):
        path = self.sparse_file('disk.vhdx')
        with open(path, 'r+b') as file:
            file.truncate(1 << 20)
        out = self.expect_fsctl(OK, self.open(),
                                fsctl.QUERY_ALLOCATED_RANGES,
                                fsctl.query(0, 1 << 20))
        self.assertEqual([(0, 1 << 20)], fsctl.ranges(out))

    def test_create_with_forbidden_attributes(self):
        for share in (None, self.share + '-vdl'):
            tree = self.connect(share)
            self.open(tree=tree, attributes=FORBIDDEN | 0x80,
                      data=b'x').close()
            seen = attributes_everywhere(tree, 'disk.vhdx')
            self.assertFalse(any(bits & FORBIDDEN for bits in seen.values()),
                             seen)
            os.unlink(self.path('disk.vhdx'))

    def test_set_forbidden_attributes(self):
        for share in (None, self.share + '-vdl'):
            tree = self.connect(share)
            file = self.open(tree=tree, data=b'x')
            file.set_info(4, struct.pack('<QQQQII', 0, 0, 0, 0,
                                         FORBIDDEN | 0x20, 0))
            file.close()
            seen = attributes_everywhere(tree, 'disk.vhdx')
            self.assertFalse(any(bits & FORBIDDEN for bits in seen.values()),
                             seen)

    def test_stored_bits_are_not_shown(self):
        """Whatever another program has stored."""
        self.open(data=b'x').close()
        path = self.path('disk.vhdx')
        stored = bytearray(os.getxattr(path, XATTR))
        # Version 5: the attributes are the last but one field.
        (bits,) = struct.unpack_from('<I', stored, 12)
        self.assertEqual(0x20, bits)
        struct.pack_into('<I', stored, 12, bits | FORBIDDEN)
        os.setxattr(path, XATTR, bytes(stored))
        seen = attributes_everywhere(self.connect(), 'disk.vhdx')
        self.assertFalse(any(bits & FORBIDDEN for bits in seen.values()),
                         seen)
        seen = attributes_everywhere(self.connect(self.share + '-vdl'),
                                     'disk.vhdx')
        self.assertEqual({SPARSE}, {bits & FORBIDDEN
                                    for bits in seen.values()})

    def test_compression_stays_off(self):
        for share in (None, self.share + '-vdl'):
            file = self.open(tree=self.connect(share),
                             data=lab.pattern(65536))
            status, out = file.fsctl(GET_COMPRESSION)
            self.assertEqual((OK, b'\0\0'), (status, out))
            status, out = file.fsctl(SET_COMPRESSION, b'\1\0')
            self.assertIn(status, (INVALID_DEVICE_REQUEST, NOT_SUPPORTED,
                                   INVALID_PARAMETER))
            status, data = file.info(28)
            self.expect(OK, status)
            self.assertEqual(0, struct.unpack_from('<H', data, 8)[0])
            file.close()
        self.assert_bytes(lab.pattern(65536),
                          lab.content(self.path('disk.vhdx')))

    def test_directory_of_that_name_is_no_disk(self):
        """Nothing is hidden or refused for a folder called x.vhdx."""
        self.tree.create('t/x.vhdx', options=smb2.DIRECTORY).close()
        folder = self.tree.create('t', access=smb2.READ_ONLY,
                                  disposition=smb2.OPEN,
                                  options=smb2.DIRECTORY)
        self.assertEqual(0x10, folder.list()['x.vhdx'])


if __name__ == '__main__':
    unittest.main()
