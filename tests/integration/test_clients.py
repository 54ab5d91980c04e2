"""Two clients at once on one file: caches are told, content is right."""

import struct
import threading
import unittest

import fsctl
import lab
import smb2
from smb2 import OK

SIZE = 4 * lab.MIB
LEVEL_II = 1


@lab.on_shares('vm', 'vmbtrfs')
class Clients(lab.Case):
    shares = fsctl.SHARES

    def cached(self):
        """Another client that caches what it reads (oplock level II)."""
        tree = self.connect()
        file = self.open(tree=tree, access=smb2.READ_ONLY,
                         disposition=smb2.OPEN, oplock=LEVEL_II)
        self.assertEqual(LEVEL_II, file.oplock)
        return tree

    def told(self, tree):
        """The reader is told that its cache is worth nothing any more."""
        reply = tree.connection.receive()
        self.assertEqual((2**64 - 1, smb2.OPLOCK_BREAK),
                         (reply.mid, reply.command))
        self.assertEqual(0, reply.body[2])

    def test_each_change_tells_readers(self):
        self.make(data=lab.pattern(SIZE))
        self.make('source.vhdx', lab.pattern(SIZE, 2))
        source = self.open('source.vhdx', access=smb2.READ_ONLY)
        file = self.open()
        for code, data in (
                (fsctl.SET_ZERO_DATA, fsctl.zero(0, 65536)),
                (fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, 65536))),
                (fsctl.DUPLICATE_EXTENTS, fsctl.clone(source, 0, 0, 65536)),
                (fsctl.DUPLICATE_EXTENTS_EX,
                 fsctl.clone_ex(source, 0, 0, 65536)),
                (fsctl.SET_ZERO_DATA, fsctl.zero(0, SIZE))):
            reader = self.cached()
            self.expect_fsctl(OK, file, code, data)
            self.told(reader)

    def test_no_change_tells_nobody(self):
        self.make(data=lab.pattern(SIZE))
        reader = self.cached()
        file = self.open()
        self.expect_fsctl(OK, file, fsctl.QUERY_FILE_REGIONS)
        self.expect_fsctl(OK, file, fsctl.QUERY_ALLOCATED_RANGES,
                          fsctl.query(0, SIZE))
        self.expect_fsctl(smb2.INVALID_PARAMETER, file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(2, 1))
        # Nothing came before the reply to this.
        echo = reader.connection.echo()
        self.assertEqual(echo, reader.connection.receive().mid)

    def rounds(self, work):
        """Runs work(number) for two clients beside each other."""
        errors = []

        def body(number):
            try:
                work(number)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=body, args=(number,))
                   for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual([], errors)

    def test_each_its_own_half(self):
        path = self.make(data=lab.pattern(2 * SIZE))
        files = [self.open(tree=self.connect()) for _ in (0, 1)]

        def work(number):
            file, start = files[number], number * SIZE
            for i in range(50):
                at = start + i * 65536
                self.expect_fsctl(OK, file, fsctl.SET_ZERO_DATA,
                                  fsctl.zero(at, at + 65536))
                self.expect_fsctl(OK, file, fsctl.FILE_LEVEL_TRIM,
                                  fsctl.trim((at, 65536)))
                file.write(at, bytes([i + 1]) * 4096)

        self.rounds(work)
        wanted = bytearray(lab.pattern(2 * SIZE))
        for start in (0, SIZE):
            for i in range(50):
                at = start + i * 65536
                wanted[at:at + 65536] = bytes([i + 1]) * 4096 + bytes(61440)
        self.assert_bytes(bytes(wanted), lab.content(path))
        self.server.alive()

    def test_clone_against_each_other(self):
        """Two files cloned into each other's halves at the same time."""
        paths = [self.make(name, lab.pattern(2 * SIZE, seed))
                 for seed, name in ((1, 'one.vhdx'), (2, 'two.vhdx'))]
        trees = [self.connect() for _ in (0, 1)]
        ends = []
        for number, tree in enumerate(trees):
            names = ['one.vhdx', 'two.vhdx']
            ends.append((self.open(names[number], tree=tree),
                         self.open(names[1 - number], tree=tree)))

        def work(number):
            target, source = ends[number]
            for i in range(50):
                self.expect_fsctl(OK, target, fsctl.DUPLICATE_EXTENTS,
                                  fsctl.clone(source, 0, SIZE, SIZE))

        self.rounds(work)
        halves = [lab.pattern(2 * SIZE, seed)[:SIZE] for seed in (1, 2)]
        self.assert_bytes(halves[0] + halves[1], lab.content(paths[0]))
        self.assert_bytes(halves[1] + halves[0], lab.content(paths[1]))
        self.server.alive()

    def test_trim_against_writes(self):
        """What was written after the last trim is there."""
        path = self.make(size=SIZE)
        files = [self.open(tree=self.connect()) for _ in (0, 1)]

        def work(number):
            for i in range(100):
                at = (i % 16) * 65536
                if number == 0:
                    self.expect_fsctl(OK, files[0], fsctl.FILE_LEVEL_TRIM,
                                      fsctl.trim((at, 4096)))
                else:
                    files[1].write(at + 4096, bytes([i + 1]) * 4096)

        self.rounds(work)
        found = lab.content(path)
        for slot in range(16):
            last = max(i for i in range(100) if i % 16 == slot)
            self.assert_bytes(bytes(4096) + bytes([last + 1]) * 4096,
                              found[slot * 65536:slot * 65536 + 8192])
        self.server.alive()


if __name__ == '__main__':
    unittest.main()
