"""A snapshot of a disk that two clients write to as fast as they can: it is of
one moment for both, they hardly stand still, and nothing is lost.
HVRS_LONG=MINUTES makes it longer."""

import os
import random
import struct
import threading
import time
import unittest

import lab
from test_rsvd_merge import NAME, Merging

MIB = lab.MIB
SECONDS = 60 * float(os.environ.get('HVRS_LONG') or 0) or 6
DEPTH = 8
STALL_MAX, STALL_BUSY = 0.2, 1.0


class Writer(threading.Thread):
    """Writes numbers to a place of its own, each with the last number of the
    other's that was acknowledged before, and all over its half of the disk
    beside that."""

    def __init__(self, case, disk, which):
        super().__init__(daemon=True)
        self.case, self.disk, self.which = case, disk, which
        self.rng = random.Random(which)
        self.number, self.other, self.stop = 0, None, False
        self.wrote, self.waits, self.error = {}, [], None

    def mark(self):
        number = self.number + 1
        seen = self.other.number
        data = struct.pack('<QQ', number, seen) * 256
        return number, self.disk.write_send(self.which * 32 * MIB, data)

    def fill(self):
        unit = self.rng.randrange(1, 8191)
        data = struct.pack('<IQ', unit, self.number) * 341 + bytes(4)
        return unit, data, self.disk.write_send(
            self.which * 32 * MIB + unit * 4096, data)

    def wait(self, mid):
        reply = self.disk.tree.connection.wait(mid)
        assert reply.status == 0, hex(reply.status)

    def run(self):
        try:
            self.go()
        except Exception as error:	# told by the main thread
            self.error = error

    def go(self):
        fills = []
        while not self.stop:
            begin = time.monotonic()
            number, mid = self.mark()
            while len(fills) < DEPTH:
                fills.append(self.fill())
            self.wait(mid)
            self.number = number
            unit, data, mid = fills.pop(0)
            self.wait(mid)
            # Of two under way to one place any may be the last.
            if any(f[0] == unit for f in fills):
                self.wrote.pop(unit, None)
            else:
                self.wrote[unit] = data
            self.waits.append((begin, time.monotonic() - begin))
        for unit, data, mid in fills:
            self.wait(mid)
            self.wrote.pop(unit, None)


class Load(Merging):

    def marks(self, disk):
        found = []
        for which in range(2):
            status, data = disk.read_status(which * 32 * MIB, 4096)
            self.expect(0, status)
            self.assertEqual(data, data[:16] * 256, 'torn')
            found.append(struct.unpack_from('<QQ', data))
        return found

    def take(self, writers):
        """A snapshot, in between; how long each stood still for it."""
        before = [w.number for w in writers]
        begin = time.monotonic()
        ident = self.main.snapshot(0)
        end = time.monotonic()
        after = [w.number for w in writers]
        old = self.at(NAME, ident)
        (one, one_saw), (two, two_saw) = self.marks(old)
        # What each had seen of the other was acknowledged before.
        self.assertGreaterEqual(one, two_saw)
        self.assertGreaterEqual(two, one_saw)
        for number, first, last in zip((one, two), before, after):
            self.assertLessEqual(first, number)
            self.assertLessEqual(number, last + 1)
        old.close()
        time.sleep(0.3)
        return ident, max(wait for w in writers for at, wait in list(w.waits)
                          if at + wait >= begin and at <= end + 0.01)

    def test_full_load_of_two_clients(self):
        writers = [Writer(self, self.opened(self.connect()), i)
                   for i in range(2)]
        for i, w in enumerate(writers):
            w.other = writers[1 - i]
        for w in writers:
            w.start()
        time.sleep(0.5)
        stalls, idents, end = [], [], time.monotonic() + SECONDS
        while time.monotonic() < end:
            ident, stall = self.take(writers)
            stalls.append(stall)
            idents.append(ident)
            if len(idents) > 3:
                self.expect(0, self.main.delete(idents.pop(0)))
            for w in writers:
                if w.error is not None:
                    raise w.error
        for w in writers:
            w.stop = True
        for w in writers:
            w.join(30)
            self.assertIsNone(w.error)
            for unit, data in w.wrote.items():
                at = w.which * 32 * MIB + unit * 4096
                self.assertEqual((0, data), self.main.read_status(at, 4096))
            self.assertGreater(len(w.wrote), 100)
        stalls.sort()
        print('stalls: median %.0f ms, longest %.0f ms, of %d' % (
            1000 * stalls[len(stalls) // 2], 1000 * stalls[-1], len(stalls)),
            end=' ', flush=True)
        # A machine that does something else may hold up some of them.
        busy = os.getloadavg()[0] > os.cpu_count() + 1
        self.assertLess(stalls[len(stalls) * 9 // 10 - 1],
                        STALL_BUSY if busy else STALL_MAX)


if __name__ == '__main__':
    unittest.main()
