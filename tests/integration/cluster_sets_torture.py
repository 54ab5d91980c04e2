"""On the clients' machine of "./lab cluster up", for as long as somebody wants
(HVRS_ROUNDS, HVRS_SEED): one VHD Set, a writer through each node, snapshots,
deletions, merges and going back, while processes and whole nodes are killed.
Each snapshot is what the writers had done at one moment, and what is told
between two covers all that differs."""

import itertools
import os
import random
import struct
import threading
import time
import unittest
import uuid

import rsvd
import smb2
from cluster_sets import KIB64, MIB, Case
from nodes import cluster, on

PIECE = 4096
# What a client meets whose server goes.
GONE = (OSError, smb2.StatusError, struct.error, AssertionError)


class Writer(threading.Thread):
    """Writes to a third of the disk; a write that was not answered ends it."""

    values = itertools.count(1)

    def __init__(self, disk, which, size, seed):
        super().__init__(daemon=True)
        self.disk, self.which = disk, which
        self.places = [p for p in range(size // PIECE) if p % 3 == which]
        self.draw = random.Random(seed)
        # (place, value), and how many of them were answered.
        self.history, self.answered = [], 0
        self.stop = False

    def run(self):
        try:
            while not self.stop:
                place = self.draw.choice(self.places)
                value = next(self.values)
                self.history.append((place, value))
                if self.disk.write_status(place * PIECE, struct.pack(
                        '<Q', value) * (PIECE // 8)) != 0:
                    return
                self.answered = len(self.history)
        except (OSError, smb2.StatusError, struct.error):
            pass


class Torture(Case):
    size = 16 * MIB

    def again(self, what, seconds=90):
        """As a client does: through whatever node answers."""
        end = time.monotonic() + seconds
        while True:
            node = self.draw.randrange(3)
            try:
                disk = self.on(node, 20)
                result = what(disk)
                return result
            except GONE:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)
            finally:
                while len(self.connections) > 12:
                    self.connections.pop(0).close()

    def perhaps(self, what):
        try:
            self.again(what, 1)
        except GONE:
            pass

    def values(self, disk):
        """Of each place; all of it is of one write."""
        data = self.content(disk)
        found = {}
        for place in range(self.size // PIECE):
            piece = data[place * PIECE:(place + 1) * PIECE]
            self.assertEqual(piece[:8] * (PIECE // 8), piece)
            found[place] = struct.unpack_from('<Q', piece)[0]
        return found

    def old_values(self, ident):
        def read(_):
            old = self.old(self.draw.randrange(3), ident)
            try:
                return self.values(old)
            finally:
                old.close()
        return self.again(read)

    def moment(self, base, writer, first, found):
        """How many of a writer's writes a state holds; fails where none."""
        state = {p: base[p] for p in writer.places}
        wanted = {p: found[p] for p in writer.places}
        if first == 0 and state == wanted:
            return 0
        for count, (place, value) in enumerate(writer.history, 1):
            state[place] = value
            if count >= first and state == wanted:
                return count
        self.fail('writer %d: no moment was like that' % writer.which)

    def kill(self):
        """A process that serves the set, or all of a node; and its start."""
        node = self.draw.choice([n for n in range(3) if n != self.down])
        if self.down is not None or self.draw.random() < 0.7:
            on(node, 'sh', '-c', 'p=$(pgrep -f "^smbd: client" | shuf -n 1); '
               '[ -z "$p" ] || kill -9 $p')
            self.killed['process'] += 1
            return
        cluster('kill-node', str(node))
        self.killed['node'] += 1
        self.down = node

    def start(self):
        if self.down is not None:
            cluster('start-node', str(self.down))
            self.down = None

    def change(self, then, now):
        """Something else, during which something is killed as well."""
        ident = self.draw.choice(list(then))
        what = self.draw.choice(('apply', 'delete', 'optimize'))
        killer = threading.Timer(self.draw.random() * 0.3, self.kill)
        killer.start()
        if what == 'apply':
            self.perhaps(lambda disk: disk.apply(ident))
        elif what == 'delete' and len(then) > 1:
            self.perhaps(lambda disk: disk.delete(ident))
        killer.join()
        if what == 'optimize':
            self.assertEqual(0, self.again(lambda disk: disk.meta(
                rsvd.OPTIMIZE, bytes(4))))
        there = self.again(lambda disk: disk.snapshots())
        if what == 'delete' and ident not in there:
            del then[ident]
        found = self.again(self.values)
        if what == 'apply' and found == then[ident]:
            return found
        self.assertEqual(now, found)
        return now

    def test_rounds(self):
        self.draw = random.Random(int(os.environ.get('HVRS_SEED', '1')))
        rounds = int(os.environ.get('HVRS_ROUNDS', '4'))
        self.down = None
        self.killed = {'process': 0, 'node': 0}
        self.addCleanup(self.start)
        now = {place: 0 for place in range(self.size // PIECE)}
        first = self.again(lambda disk: disk.snapshot())
        then, previous = {first: now}, first
        for number in range(rounds):
            base = now
            writers = [Writer(self.again(lambda disk: disk), which, self.size,
                              self.draw.random()) for which in range(3)]
            for writer in writers:
                writer.start()
            time.sleep(0.5 * self.draw.random())
            killer = threading.Timer(self.draw.random(), self.kill)
            killer.start()
            floor = [writer.answered for writer in writers]
            ident = uuid.uuid4()
            self.perhaps(lambda disk: disk.snapshot(ident=ident))
            time.sleep(0.5 * self.draw.random())
            killer.join()
            for writer in writers:
                writer.stop = True
            for writer in writers:
                writer.join(60)
                self.assertFalse(writer.is_alive())
            now = self.again(self.values)
            for writer in writers:
                self.moment(base, writer, writer.answered, now)
            if ident not in self.again(lambda disk: disk.snapshots()):
                ident = self.again(lambda disk: disk.snapshot())
                floor = [writer.answered for writer in writers]
            then[ident] = self.old_values(ident)
            for i, writer in enumerate(writers):
                self.moment(base, writer, floor[i], then[ident])
            told = self.again(lambda disk: disk.changes(ident, previous,
                                                        self.size))
            said = {n for at, length in told for n in range(
                at // KIB64, (at + length - 1) // KIB64 + 1)}
            true = {p * PIECE // KIB64 for p in base
                    if then[ident][p] != then[previous][p]}
            self.assertLessEqual(true, said)
            previous = ident
            now = self.change(then, now)
            if previous not in then:
                previous = self.again(lambda disk: disk.snapshot())
                then[previous] = now
            for ident in self.draw.sample(list(then), min(3, len(then))):
                self.assertEqual(then[ident], self.old_values(ident))
            self.start()
            print('round %d: %s writes, %d snapshots, killed %s' % (
                number, [len(w.history) for w in writers], len(then),
                self.killed), flush=True)


if __name__ == '__main__':
    unittest.main()
