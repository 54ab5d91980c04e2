"""Shared virtual disks ([MS-RSVD]) beside a plain file on a share of the same
durability, with 1, 2 and 8 clients; reservations and opens beside a bare
round trip and a plain open."""

import os
import subprocess

from figures import Figure, in_pairs, median

MIB = 1 << 20
SIZE = 128 * MIB		# more than what is read and written

CACHED = {
    'title': 'Reads and writes of a shared disk',
    'explained': 'requests a second over those of a plain file',
    'value': 'disk', 'yardstick': 'file',
}
THROUGH = {
    'title': 'Writes of a shared disk, each on disk when answered',
    'explained': 'requests a second over those of a file, each synced',
    'value': 'disk', 'yardstick': 'file',
}
OTHERS = {
    'title': 'Reservations and opens of a shared disk',
    'explained': 'a second; over bare round trips, over opens of a file',
    'value': 'disk', 'yardstick': 'file',
}

KINDS = (('fixed', ['--fixed'], 0.9), ('dynamic', [], 0.85))
# Size, under way of each client, all over the disk or one after the other.
REQUESTS = ((MIB, 4, False), (4096, 16, True))
CLIENTS = (1, 2, 8)


class Shared:
    """Figures of the part, as a list."""

    def __init__(self, bench):
        self.bench = bench
        self.rounds = bench.effort['shared']
        self.figures = []

    def make(self, share, kind, how):
        """The disk's name in the share."""
        name = 'bench-%s.vhdx' % kind
        path = os.path.join(self.bench.options.shares[share], name)
        self.remove(share, kind)
        subprocess.run(['hvrs-vhd', 'create', '--size', str(SIZE), *how,
                        path], stdout=subprocess.DEVNULL, check=True)
        owner = os.stat(os.path.dirname(path))
        os.chown(path, owner.st_uid, owner.st_gid)
        return name

    def remove(self, share, kind):
        path = os.path.join(self.bench.options.shares[share],
                            'bench-%s.vhdx' % kind)
        if os.path.exists(path):
            os.unlink(path)

    def load(self, title, shares, image, **options):
        rounds = self.bench.load(
            title, 'shared', shares, image=image, rounds=self.rounds,
            seconds=self.bench.effort['seconds'], **options)
        return [[r for r in rounds if r['share'] == side]
                for side in ('disk', 'file')]

    def figure(self, group, name, sides, target):
        rates = [[r['operations'] / r['ns'] * 1e9 for r in side]
                 for side in sides]
        cpu = [[r['server_cpu_ns'] / r['operations'] for r in side]
               for side in sides]
        self.figures.append(Figure(
            group, name, '/s', median(rates[0]), median(rates[1]),
            in_pairs([a / b for a, b in zip(*rates)]), target,
            "smbd's CPU time x%.2f" % median(
                in_pairs([a / b for a, b in zip(*cpu)]))))

    def transfers(self, group, shares, operations):
        for kind, how, target in KINDS:
            image = self.make(shares[0], kind, how)
            for operation in operations:
                for size, depth, random in REQUESTS:
                    for clients in CLIENTS:
                        name = '%s, %s of %s, %d client%s' % (
                            kind, operation,
                            '1 MiB' if size == MIB else '4 KiB', clients,
                            '' if clients == 1 else 's')
                        self.figure(group, name, self.load(
                            name, shares, image, operation=operation,
                            size=size, depth=depth, clients=clients,
                            random=random), ('>=', target))
            self.remove(shares[0], kind)

    def others(self, shares):
        image = self.make(shares[0], 'fixed', ['--fixed'])
        for name, operation in (('register and unregister', 'register'),
                                ('reserve and release', 'reserve'),
                                ('open and close', 'open')):
            self.figure(OTHERS, name, self.load(
                name, shares, image, operation=operation), None)
        self.remove(shares[0], 'fixed')

    def measure(self):
        self.transfers(CACHED, ('vmoff', 'plain'), ('read', 'write'))
        self.transfers(THROUGH, ('vm', 'plainsync'), ('write',))
        self.others(('vmoff', 'plain'))
        return self.figures
