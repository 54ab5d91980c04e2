"""Random operations of version 2 by two clients against a model of what the
disk and each of its snapshots must hold, with smbd killed in the middle of any
of them.  HVRS_LONG=N: N times 100,000 operations; else a few.  HVRS_SEED."""

import os
import random
import struct
import time
import unittest
import uuid

import lab
import rsvd
from rsvd import BLOCK, FINAL, INIT, SWITCH, UNBLOCK, VM
from test_rsvd_merge import NAME, UNIT, Merging

MIB = lab.MIB
OPERATIONS = int(float(os.environ.get('HVRS_LONG') or 0) * 100000) or 1500
SNAPSHOTS_MAX = 7
CHECK_EVERY = 2500 if OPERATIONS > 10000 else 500


class Model(Merging):

    def setUp(self):
        super().setUp()
        seed = os.environ.get('HVRS_SEED') or str(random.randrange(1 << 30))
        self.rng = random.Random(int(seed))
        self.seed = 'HVRS_SEED=' + seed
        self.other = self.opened(self.connect())
        self.counts, self.kills = {}, 0

    def any(self):
        return self.rng.choice((self.main, self.other))

    # ---- operations

    def spot(self, length, step):
        return self.rng.randrange((self.now.size - length) // step + 1) * step

    def do_write(self):
        length = self.rng.choice((512, 1024, 4096, 4096, 16384, 65536,
                                  200 * 512, MIB))
        offset = self.spot(length, 512)
        data = lab.pattern(length, self.rng.randrange(1 << 30))
        self.expect(0, self.any().write_status(offset, data))
        self.now.put(offset, data)

    def do_read(self):
        length = UNIT * self.rng.choice((1, 4, 16, 256))
        offset = self.spot(length, UNIT)
        status, data = self.any().read_status(offset, length)
        self.expect(0, status)
        self.assert_bytes(self.now.get(offset, length), data, 'a read')

    def do_unmap(self):
        length = UNIT * self.rng.choice((1, 16, 512, 1024, 2048))
        self.unmap(self.spot(length, UNIT), length)

    def do_snapshot(self):
        if len(self.then) >= SNAPSHOTS_MAX:
            return self.do_delete()
        ident = self.any().snapshot(self.rng.randrange(2))
        self.then[ident] = self.now.copy()

    def do_delete(self):
        if self.then:
            ident = self.rng.choice(list(self.then))
            self.expect(0, self.any().delete(ident))
            del self.then[ident]

    def settle_size(self, size):
        """Whoever has it open is told once that it is another."""
        if size != self.now.size:
            for disk in (self.main, self.other):
                self.assertIn(disk.read_status(0, 512)[0],
                              (0, rsvd.CAPACITY))

    def do_apply(self):
        if self.then:
            ident = self.rng.choice(list(self.then))
            old = self.now.size
            self.expect(0, self.any().apply(ident))
            self.now = self.then[ident].copy()
            self.settle_size(old)

    def do_resize(self):
        size = self.rng.randrange(8, 33) * 4 * MIB
        old = self.now.size
        self.expect(0, self.any().resize(size, unsafe=1))
        self.now.resize(size)
        self.settle_size(old)

    def do_optimize(self):
        self.expect(0, self.any().meta(rsvd.OPTIMIZE, bytes(4)))
        # One for each snapshot, one for each branch, the leaf and below it.
        self.assertLessEqual(len(self.parts()), 2 * len(self.then) + 2)

    def do_extract(self):
        if self.then:
            ident = self.rng.choice(list(self.then))
            name = 'x%d.vhdx' % self.rng.randrange(1 << 30)
            self.expect(0, self.any().extract(name, ident))
            made = self.disk('t/' + name, version=2)
            self.whole(made, self.then[ident], 'what was extracted')
            made.close()
            os.remove(self.path(name))

    def do_look(self):
        if self.then:
            ident = self.rng.choice(list(self.then))
            old = self.at(NAME, ident)
            length = UNIT * 256
            offset = self.rng.randrange(self.then[ident].size //
                                        length) * length
            status, data = old.read_status(offset, length)
            self.expect(0, status)
            self.assert_bytes(self.then[ident].get(offset, length), data,
                              'a snapshot')
            old.close()

    def do_reopen(self):
        self.main.close()
        self.main = self.opened()

    # ---- the end of smbd in the middle of one

    def do_kill(self):
        self.kills += 1
        what = self.rng.choice((self.kill_write, self.kill_snapshot,
                                self.kill_delete, self.kill_apply,
                                self.kill_extract, self.kill_optimize,
                                self.kill_resize))
        after = what()
        time.sleep(self.rng.random() ** 2 / 30)
        self.server.kill()
        self.server.start()
        for connection in self.connections:
            connection.close()
        del self.connections[:]
        self.tree = self.connect()
        self.main = self.opened()
        self.other = self.opened(self.connect())
        # A resize that was cut off is told to who opens the disk next.
        self.settle_size(None)
        after()
        self.assertEqual(sorted(self.then), sorted(self.main.snapshots()))

    def kill_write(self):
        length = self.rng.choice((4096, 65536, MIB))
        offset = self.spot(length, UNIT)
        data = lab.pattern(length, self.rng.randrange(1 << 30))
        self.main.write_send(offset, data)

        def after():
            # Not acknowledged: each sector is the old or the new.
            status, got = self.main.read_status(offset, length)
            self.expect(0, status)
            old = self.now.get(offset, length)
            for at in range(0, length, 512):
                self.assertIn(got[at:at + 512], (old[at:at + 512],
                                                 data[at:at + 512]))
            self.now.put(offset, got)
        return after

    def kill_snapshot(self):
        ident = uuid.uuid4()
        self.main.meta_send(rsvd.SNAPSHOT, rsvd.snapshot_data(
            ident, (INIT, BLOCK, SWITCH, UNBLOCK, FINAL),
            self.rng.randrange(2)))

        def after():
            if ident in self.main.snapshots():
                self.then[ident] = self.now.copy()
        return after

    def kill_delete(self):
        if not self.then:
            return self.kill_write()
        ident = self.rng.choice(list(self.then))
        self.main.tunnel_send(rsvd.DELETE, ident.bytes_le + struct.pack(
            '<II', 0, VM))

        def after():
            if ident not in self.main.snapshots():
                del self.then[ident]
        return after

    def either(self, new):
        """The disk is as it was, or new, wholly."""
        def after():
            size = struct.unpack_from(
                '<Q', self.main.tunnel(rsvd.INITIAL_INFO)[2], 16)[0]
            for content in (self.now, new):
                if content.size == size and self.is_like(content):
                    self.now = content.copy()
                    return
            self.fail('the disk is neither the old nor the new')
        return after

    def is_like(self, content):
        for at in range(0, content.size, MIB):
            status, data = self.main.read_status(at, MIB)
            self.expect(0, status)
            if data != content.get(at, MIB):
                return False
        return True

    def kill_apply(self):
        if not self.then:
            return self.kill_write()
        ident = self.rng.choice(list(self.then))
        self.main.meta_send(rsvd.APPLY, struct.pack('<I', VM) +
                            ident.bytes_le)
        return self.either(self.then[ident])

    def kill_resize(self):
        size = self.rng.randrange(8, 33) * 4 * MIB
        new = self.now.copy()
        new.resize(size)
        self.main.meta_send(rsvd.RESIZE, struct.pack('<QBBBB', size, 0, 1, 0,
                                                     0) + bytes(4))
        return self.either(new)

    def kill_extract(self):
        if not self.then:
            return self.kill_write()
        ident = self.rng.choice(list(self.then))
        name = 'k%d.vhdx' % self.rng.randrange(1 << 30)
        self.main.meta_send(rsvd.EXTRACT, struct.pack(
            '<III', VM, 0, 0) + ident.bytes_le + bytes(16) +
            rsvd.name_data(name))

        def after():
            # Its name is there when it is whole.
            if os.path.exists(self.path(name)):
                made = self.disk('t/' + name, version=2)
                self.whole(made, self.then[ident], 'what was extracted')
                made.close()
                os.remove(self.path(name))
        return after

    def kill_optimize(self):
        self.main.meta_send(rsvd.OPTIMIZE, bytes(4))
        return lambda: None

    # ---- all of it

    WEIGHTS = {'write': 560, 'read': 180, 'unmap': 50, 'snapshot': 60,
               'delete': 45, 'apply': 15, 'resize': 6, 'optimize': 15,
               'extract': 6, 'look': 40, 'reopen': 8,
               'kill': 4 if OPERATIONS < 10000 else 1}

    def test_random_operations(self):
        names, weights = zip(*self.WEIGHTS.items())
        done = 0
        try:
            for done in range(OPERATIONS):
                name = self.rng.choices(names, weights)[0]
                self.counts[name] = self.counts.get(name, 0) + 1
                getattr(self, 'do_' + name)()
                if done % CHECK_EVERY == CHECK_EVERY - 1:
                    self.check(self.any())
            self.check()
            self.do_optimize()
            self.check()
        except BaseException:
            print('at operation %d: %s' % (done, self.seed), flush=True)
            raise
        self.main.close()
        self.other.close()
        for name in self.parts():
            lab.run('hvrs-vhd', 'check', self.path(name))
        if OPERATIONS > 10000:
            print(self.seed, self.counts, flush=True)


if __name__ == '__main__':
    unittest.main()
