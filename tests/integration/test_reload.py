"""A reload of smb.conf takes nothing away from a live connection."""

import struct
import unittest

import fsctl
import lab
import smb2
from smb2 import OK


class Reload(unittest.TestCase):
    def setUp(self):
        self.server = lab.Server({'vm': ['vfs objects = hvrs']})
        self.addCleanup(self.server.stop)
        self.tree = self.server.connect('vm')
        self.root = self.tree.create('', access=smb2.READ_ATTRIBUTES,
                                     disposition=smb2.OPEN,
                                     options=smb2.DIRECTORY)

    def told(self):
        sectors = struct.unpack('<7I', self.root.info(11, 2)[1])
        sizes = [struct.unpack_from('<II', self.root.info(level, 2)[1], at)
                 for level, at in ((3, 16), (7, 24))]
        (flags,) = struct.unpack_from('<I', self.root.info(5, 2)[1])
        return sectors, sizes, flags

    def system_name(self):
        status, data = self.root.info(5, 2)
        (length,) = struct.unpack_from('<I', data, 8)
        return data[12:12 + length].decode('utf-16-le')

    def reload(self, option, name):
        """Reloads until this connection shows that it has."""
        self.server.shares['vm'] = ['vfs objects = hvrs', option]
        for _ in range(200):
            self.server.reload()
            if self.system_name() == name:
                return
            lab.time.sleep(0.05)
        self.fail('smbd did not reload its configuration')

    def test_sizes_and_flags_stay(self):
        before = self.told()
        self.assertEqual(((512, 4096, 4096, 4096, 11, 0, 0),
                          [(8, 512), (8, 512)]), before[:2])
        for round in range(3):
            self.reload('fstype = ROUND%d' % round, 'ROUND%d' % round)
            self.assertEqual(before, self.told())

    def test_features_stay(self):
        file = self.tree.create('hvrs-reload.vhdx', access=smb2.READ_WRITE |
                                smb2.DELETE, options=smb2.DELETE_ON_CLOSE)
        data = lab.pattern(65536)
        file.write(0, data)
        self.reload('fstype = AGAIN', 'AGAIN')
        self.assertEqual(OK, file.fsctl(fsctl.FILE_LEVEL_TRIM,
                                        fsctl.trim((0, 4096)))[0])
        self.assertEqual(bytes(4096) + data[4096:], file.read(0, 65536))
        file.close()

    def test_first_question_after_a_reload(self):
        """Asked for one size only, the one that was just lost."""
        self.reload('fstype = FIRST', 'FIRST')
        self.server.reload()
        self.assertEqual((8, 512), struct.unpack_from(
            '<II', self.root.info(3, 2)[1], 16))


if __name__ == '__main__':
    unittest.main()
