"""VHD Sets whose files somebody has changed: each request gets a clear status,
smbd lives, and no file that is not the set's is touched."""

import os
import random
import shutil
import struct
import uuid

import lab
import rsvd
import smb2

SIZE = 16 * lab.MIB
ROUNDS = int(os.environ.get('HVRS_LONG') or 0) or 120
# Where a VHDX keeps what is read first: headers, region table, log, block
# table, metadata.
PLACES = (0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 1 << 20, 2 << 20,
          3 << 20)


class Hostile(rsvd.Case):
    shares = {'vm': ['vfs objects = hvrs', 'hvrs:shared disks = yes']}

    def setUp(self):
        super().setUp()
        self.seed = random.randrange(1 << 30)
        self.rng = random.Random(self.seed)
        rsvd.make_set(self.path('a.vhds'), SIZE, lab.MIB)
        disk = self.disk('t/a.vhds', version=2)
        self.assertEqual(0, disk.tracking_start('changes'))
        self.idents = []
        for i in range(3):
            self.assertEqual(0, disk.write_status(i * lab.MIB,
                                                  lab.pattern(65536, i)))
            self.idents.append(disk.snapshot())
        self.assertEqual(0, disk.write_status(0, lab.pattern(65536, 9)))
        disk.close()
        self.good_set = '%s-good' % self.directory
        shutil.rmtree(self.good_set, ignore_errors=True)
        self.addCleanup(shutil.rmtree, self.good_set, True)
        lab.run('cp', '-a', '--reflink=auto', self.directory, self.good_set)
        self.outside = self.directory + '/../outside.vhdx'
        with open(self.outside, 'wb') as file:
            file.write(lab.pattern(lab.MIB, 20))
        self.addCleanup(os.unlink, self.outside)

    def restore(self):
        for name in os.listdir(self.directory):
            os.unlink(self.path(name))
        lab.run('sh', '-c', 'cp -a --reflink=auto %s/* %s' % (
            self.good_set, self.directory))

    def spoil(self, path):
        """One change of a file; what it was, for a message."""
        rng, size = self.rng, os.path.getsize(path)
        at = rng.choice([p for p in PLACES if p < size]) + \
            rng.randrange(4096)
        at = min(at, size - 1)
        with open(path, 'r+b') as file:
            how = rng.randrange(6)
            if how == 0:
                file.truncate(rng.randrange(size))
            elif how == 1:
                for _ in range(rng.randrange(1, 40)):
                    file.seek(min(at + rng.randrange(600), size - 1))
                    file.write(bytes([rng.randrange(256)]))
            elif how == 2:
                file.seek(at // 4096 * 4096)
                file.write(bytes(4096))
            elif how == 3:
                file.seek(at // 4096 * 4096)
                page = file.read(4096)
                file.seek(rng.choice(PLACES) % size)
                file.write(page)
            elif how == 4:
                # A field of a size or an offset, at its most.
                file.seek(at // 8 * 8)
                file.write(struct.pack('<Q', rng.choice(
                    (2 ** 64 - 1, 2 ** 63, 2 ** 32 - 1, 1 << 40, 0))))
            else:
                # The names of files, in UTF-16, lead elsewhere.
                data = file.read(4 * lab.MIB)
                text = '.avhdx'.encode('utf-16-le')
                found = data.find(text)
                if found > 40:
                    file.seek(found - 40)
                    file.write('..\\outside.vhdx\0'.encode('utf-16-le'))
        return '%s, way %d at %d, seed %d' % (os.path.basename(path), how, at,
                                              self.seed)

    def use(self, disk):
        disk.read_status(0, 65536)
        disk.read_status(SIZE - 512, 512)
        disk.write_status(5 * lab.MIB, bytes(4096))
        for kind in (1, 2, 3):
            for ident in [None] + self.idents:
                disk.query(kind, rsvd.VM, ident)
        disk.tunnel(rsvd.TRACKING_PARAMETERS)
        disk.changes_page(self.idents[0], uuid.UUID(int=0), 0, SIZE)
        disk.delete(self.rng.choice(self.idents))
        disk.meta(rsvd.SNAPSHOT, rsvd.snapshot_data(
            uuid.uuid4(), (rsvd.INIT, rsvd.BLOCK, rsvd.SWITCH, rsvd.UNBLOCK,
                           rsvd.FINAL)))
        disk.extract('x%d.vhdx' % self.rng.randrange(1 << 30),
                     self.idents[1])
        disk.apply(self.idents[2])
        disk.resize(SIZE + lab.MIB)
        disk.meta(rsvd.OPTIMIZE, bytes(4))
        disk.close()

    def test_changed_files(self):
        opened = 0
        for turn in range(ROUNDS):
            self.restore()
            name = self.rng.choice(sorted(os.listdir(self.directory)))
            words = self.spoil(self.path(name))
            with self.subTest(words):
                try:
                    if turn % 4 == 0:
                        self.at('t/a.vhds', self.idents[turn // 4 % 3]).close()
                    self.use(self.disk('t/a.vhds', version=2))
                    opened += 1
                except smb2.StatusError:
                    pass
                with open(self.outside, 'rb') as file:
                    self.assert_bytes(lab.pattern(lab.MIB, 20), file.read())
        self.server.alive()
        # Both ways were gone.
        self.assertGreater(opened, ROUNDS // 10)
        self.assertGreater(ROUNDS, opened)
