"""VHD Sets of 64 GiB: snapshots, what comes after them, a disk of one, beside
qemu-img and cp; and writes with change tracking beside writes without."""

import os
import subprocess
import sys
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tests', 'integration'))

import rsvd  # noqa: E402
from smb2 import Connection, Session, Tree  # noqa: E402

from figures import Figure, in_pairs, median  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
SIZE = 64 * GIB
STEP = 64 * MIB         # between pieces of data, 1 MiB each
DELTA = 64              # pieces written after a snapshot
SHARE = 'vmoff'

TIMES = {
    'title': 'Snapshots of a set of 64 GiB',
    'explained': 'time over what does the same to files nobody uses; '
                 'logarithmic',
    'value': 'set', 'yardstick': 'local',
}
TRACKED = {
    'title': 'Writes of a set whose changes are tracked',
    'explained': 'requests a second over those of a set that is not tracked',
    'value': 'tracked', 'yardstick': 'not',
}

CHANGES = {
    'title': 'All changes of a disk of 16 TiB between two snapshots',
    'explained': 'a million, told in answers of 1 MiB; time over a second',
    'value': 'time', 'yardstick': 'target',
}


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def timed(what, *arguments):
    begun = time.monotonic()
    what(*arguments)
    return time.monotonic() - begun


class Sets:
    """Figures of the part, as a list."""

    def __init__(self, bench):
        self.bench = bench
        self.rounds, self.pieces = bench.effort['sets']
        self.folder = os.path.join(bench.options.shares[SHARE], 'bench-sets')
        self.figures = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def begin(self):
        run('rm', '-rf', self.folder)
        os.mkdir(self.folder)
        owner = os.stat(os.path.dirname(self.folder))
        run('hvrs-vhd', 'create', '--size', str(SIZE), self.path('a.vhds'))
        run('chown', '-R', '%d:%d' % (owner.st_uid, owner.st_gid),
            self.folder)
        connection = Connection(self.bench.options.port)
        tree = Tree(Session(connection, 'hvrs', 'hvrs'), SHARE)
        self.disk = rsvd.Disk(tree, 'bench-sets/a.vhds', version=2)
        self.write(self.pieces)
        run('qemu-img', 'create', '-q', '-f', 'qcow2', self.path('q0'),
            str(SIZE))
        self.qemu_write('q0', self.pieces)

    def end(self):
        self.disk.close()
        self.disk.tree.connection.close()
        run('rm', '-rf', self.folder)

    def write(self, pieces):
        data = os.urandom(MIB)
        for i in range(pieces):
            assert self.disk.write_status(i * STEP, data) == 0

    def qemu_write(self, name, pieces):
        words = []
        for i in range(pieces):
            words += ['-c', 'write -q -P 7 %d 1M' % (i * STEP)]
        run('qemu-io', '-f', 'qcow2', *words, '-c', 'flush', self.path(name))

    # ---- what is measured

    def good(self, status):
        assert status == 0, hex(status)

    def delete(self, ident):
        """And until its file is merged."""
        self.good(self.disk.delete(ident))
        self.good(self.disk.meta(rsvd.OPTIMIZE, bytes(4)))

    def overlay(self, name, parent):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
            self.path(parent), '-F', 'qcow2', self.path(name))

    def one(self):
        """{row: (set, local)} in seconds."""
        found, ident, later = {}, uuid.uuid4(), uuid.uuid4()
        base, = [n for n in os.listdir(self.folder) if n.endswith('.avhdx')]
        create = timed(self.disk.snapshot, 0, ident)
        found['create, over qemu-img create of an overlay'] = (
            create, timed(self.overlay, 'q1', 'q0'))
        self.write(DELTA)
        self.qemu_write('q1', DELTA)
        extract = timed(lambda: self.good(self.disk.extract('x.vhdx',
                                                            ident)))
        found['extract, over cp --reflink of the file'] = (
            extract, timed(run, 'cp', '--reflink=always',
                           self.path(base), self.path('copy')))
        found['extract, over qemu-img convert'] = (
            extract, timed(run, 'qemu-img', 'convert', '-f', 'vhdx',
                           '-O', 'vhdx', self.path(base),
                           self.path('convert')))
        for name in ('x.vhdx', 'copy', 'convert'):
            os.unlink(self.path(name))
        self.disk.snapshot(0, later)
        self.write(DELTA)
        found['go back, over qemu-img create of an overlay'] = (
            timed(lambda: self.good(self.disk.apply(later))),
            timed(self.overlay, 'q2', 'q1'))
        found['delete and merge, over qemu-img commit'] = (
            timed(self.delete, ident),
            timed(run, 'qemu-img', 'commit', '-q', '-f', 'qcow2',
                  self.path('q1')))
        return found

    def times(self):
        rows = {}
        for _ in range(self.rounds):
            self.bench.say('snapshots of a set of 64 GiB')
            self.begin()
            for name, pair in self.one().items():
                rows.setdefault(name, []).append(pair)
            self.end()
        for name, pairs in rows.items():
            self.figures.append(Figure(
                TIMES, name, 'ms', 1000 * median([p[0] for p in pairs]),
                1000 * median([p[1] for p in pairs]),
                [a / b for a, b in pairs], None))

    def rate(self, size, depth, random):
        rounds = self.bench.load(
            'writes of a set', 'shared', (SHARE, 'plain'), operation='write',
            image='bench-sets/a.vhds', rounds=2, size=size, depth=depth,
            clients=1, random=random,
            seconds=self.bench.effort['seconds'] * 4)
        return median([r['operations'] / r['ns'] * 1e9 for r in rounds
                       if r['share'] == 'disk'])

    def tracked(self):
        """One set, tracking turned on and off in turn."""
        for name, size, depth, random in (
                ('write of 4 KiB, 16 under way', 4096, 16, True),
                ('write of 1 MiB, 4 under way', MIB, 4, False)):
            pairs = []
            for _ in range(2 * self.rounds):
                self.pieces = 0
                self.begin()
                rates = {False: [], True: []}
                for on in (False, True, True, False):
                    if on != (self.disk.tracking()[0] == 0):
                        self.good(self.disk.tracking_start() if on else
                                  self.disk.tracking_stop()[0])
                    rates[on].append(self.rate(size, depth, random))
                self.end()
                pairs.append((median(rates[True]), median(rates[False])))
            self.figures.append(Figure(
                TRACKED, name, '/s', median([p[0] for p in pairs]),
                median([p[1] for p in pairs]),
                in_pairs([a / b for a, b in pairs]), ('>=', 0.97)))

    def changes(self):
        """By the engine alone: a client takes longer to read the answers."""
        program = os.path.join(os.path.dirname(self.bench.options.load),
                               'bench-changes')
        path = os.path.join(self.bench.options.shares[SHARE], 'bench-map')
        times = []
        for _ in range(self.rounds):
            self.bench.say('changes of a disk of 16 TiB')
            times.append(int(subprocess.run(
                [program, path], stdout=subprocess.PIPE, check=True,
                text=True).stdout.split()[0]) / 1e9)
            os.unlink(path)
        self.figures.append(Figure(CHANGES, 'a million changes', 's',
                                   median(times), 1, times, ('<=', 1)))

    def measure(self):
        self.times()
        self.tracked()
        self.changes()
        return self.figures
