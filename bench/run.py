#!/usr/bin/env python3
"""Measures the lab's server: plain reads and writes, trim, zero and clone of
ranges, readers beside a long zero, copies by offload data transfer, limits of
storage QoS, handles that outlive smbd, and virtual disks, alone and shared,
each next to its yardstick.  Runs inside the lab ("make bench"); README.md
beside tells the method."""

import argparse
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from figures import Figure, in_pairs, median, table  # noqa: E402
from disk_part import Disks  # noqa: E402
from handles_part import Handles  # noqa: E402
from snapshots_part import Snapshots  # noqa: E402
from plot import picture  # noqa: E402
from sets_part import Sets  # noqa: E402
from shared_part import Shared  # noqa: E402

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

BESIDE_EXTENTS = 30000       # close to a second to free
# Rounds of: reads and writes, small ranges, many extents, beside; seconds of
# one share in a round of reads and writes; extents of the fragmented file.
# Ranges go to both places of a connection equally often: a tenth of "ranges"
# is a multiple of 16, "many" of 2.
EFFORTS = {
    'quick': {'io': 16, 'seconds': 0.08, 'ranges': 160, 'many': 4,
              'beside': 2, 'extents': 10000, 'qos': 5, 'latency': 6,
              'whole': 30, 'copies': 1, 'ways': 1,
              'handle rounds': 3, 'handle seconds': 0.4, 'kills': 3,
              'handles': 2000, 'held': 500, 'disk': (4, 4),
              'snapshots': (100, 3), 'shared': 4, 'sets': (3, 256)},
    'full': {'io': 60, 'seconds': 0.12, 'ranges': 480, 'many': 16,
             'beside': 6, 'extents': 100000, 'qos': 30, 'latency': 20,
             'whole': 60, 'copies': 3, 'ways': 1,
             'handle rounds': 6, 'handle seconds': 0.8, 'kills': 10,
             'handles': 10000, 'held': 1000, 'disk': (8, 2),
             'snapshots': (1000, 5), 'shared': 8, 'sets': (5, 1024)},
}

PARTS = ('io', 'ranges', 'beside', 'offload', 'qos', 'handles', 'snapshots',
         'disk', 'shared', 'sets', 'cluster')

IO = {
    'title': 'Reads and writes',
    'explained': 'operations a second on vm over those on the yardstick',
    'value': 'vm', 'yardstick': 'plain',
}
SYNC = dict(IO, title='Writes against a share that syncs each of them',
            explained='told, not judged: vm does not write through here',
            yardstick='plainsync')
RANGES = {
    'title': 'Trim, zero and clone',
    'explained': 'time of the request over local call + one bare round trip',
    'value': 'over SMB', 'yardstick': 'local + trip',
}
BESIDE = {
    'title': 'The longest 4 KiB read while a range is zeroed',
    'explained': 'on the same connection, vm over plain; logarithmic',
    'value': 'vm', 'yardstick': 'plain',
}


OFFLOAD = {
    'title': 'A copy of an image by ODX',
    'explained': 'all of it, pins released included, over cp on the server',
    'value': 'ODX', 'yardstick': 'cp',
}
OFFLOAD_READER = {
    'title': '4 KiB reads while an image is copied by ODX',
    'explained': '99 % of them, on the same connection, over alone + 20 ms',
    'value': 'beside', 'yardstick': 'alone+20ms',
}
OFFLOAD_WAYS = {
    'title': 'Other ways to copy 1 GiB of the image',
    'explained': 'told, not judged: what ODX spares; logarithmic',
    'value': 'this way', 'yardstick': 'ODX',
}
OFFLOAD_SLACK = 20_000_000

QOS = {
    'title': 'Limits of storage QoS',
    'explained': 'normalised requests (8 KiB) a second over the limit',
    'value': 'reached', 'yardstick': 'limit',
}
QOS_LEAST = {
    'title': 'A minimum of storage QoS beside three that saturate',
    'explained': '4 KiB writes a second, each on disk, over the minimum',
    'value': 'reached', 'yardstick': 'minimum',
}
QOS_LATENCY = {
    'title': 'Latency of a flow below its limit',
    'explained': '4 KiB read, 99 % of them; enforced over not enforced',
    'value': 'enforced', 'yardstick': 'not',
}
QOS_CONTROL = {
    'title': 'A control request of storage QoS, with 10,000 flows',
    'explained': "smbd's CPU time over 50 us",
    'value': 'request', 'yardstick': 'target',
}
QOS_LIMIT, QOS_FLOWS = 8000, 10000


def hvrsctl(*words):
    done = subprocess.run(['hvrsctl', 'qos', 'policy', *words],
                          stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()[-1] if done.stdout else ''


class Bench:
    def __init__(self, options):
        self.options = options
        self.effort = EFFORTS[options.effort]
        self.figures = []
        self.raw = []
        self.graphs = []

    def say(self, words):
        if sys.stderr.isatty():
            print('\r\033[K%4d s  %s' % (time.monotonic() - BEGUN, words),
                  end='', file=sys.stderr, flush=True)
        else:
            print('%4d s  %s' % (time.monotonic() - BEGUN, words),
                  file=sys.stderr, flush=True)

    def load(self, title, command, shares, **options):
        """One run of bench-load; its rounds as a list."""
        self.say(title)
        words = [self.options.load, command, '--port',
                 str(self.options.port)]
        for key, value in options.items():
            if value is True:
                words.append('--' + key)
            elif value is not False:
                words += ['--' + key, str(value)]
        words += ['%s=%s' % (share, self.options.shares[share])
                  for share in shares]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True,
                              timeout=600)
        if done.returncode != 0:
            sys.exit('bench: "%s" failed' % ' '.join(words))
        rounds = [json.loads(line) for line in done.stdout.splitlines()]
        self.raw.append({'title': title, 'options': options,
                         'rounds': rounds})
        return rounds

    # ---- reads and writes ---------------------------------------------------

    def io(self):
        told = []
        for operation in ('read', 'write'):
            for pattern, size in (('sequential', MIB), ('random', 4096)):
                for depth in (1, 8):
                    told += self.io_figure(operation, pattern, size, depth)
        self.figures += told

    def io_figure(self, operation, pattern, size, depth):
        name = '%s %s of %s, depth %d' % (
            pattern, operation, '1 MiB' if size == MIB else '4 KiB', depth)
        options = {'operation': operation, 'size': size, 'depth': depth,
                   'random': pattern == 'random'}
        # A connection that is unlucky with its memory copies at half speed.
        often = 2 if size == MIB and depth > 1 else 1
        rounds = self.load(name, 'io', ('vm', 'plain'),
                           rounds=often * self.effort['io'],
                           seconds=self.effort['seconds'], **options)
        self.figures.append(self.io_judge(name, IO, rounds, size,
                                          ('>=', 0.98)))
        if operation != 'write':
            return []
        rounds = self.load(name + ', synced', 'io', ('vm', 'plainsync'),
                           rounds=4, seconds=self.effort['seconds'],
                           **options)
        return [self.io_judge(name, SYNC, rounds, size, None)]

    def io_judge(self, name, group, rounds, size, target):
        scale, unit = (size / MIB, 'MiB/s') if size >= MIB else (1, '/s')

        def column(share, top, bottom, factor=1.0):
            return [r[top] / r[bottom] * factor for r in rounds
                    if r['share'] == share]

        vm = column('vm', 'operations', 'ns', 1e9 * scale)
        yard = column(group['yardstick'], 'operations', 'ns', 1e9 * scale)
        vm_cpu = column('vm', 'server_cpu_ns', 'operations')
        yard_cpu = column(group['yardstick'], 'server_cpu_ns', 'operations')
        cpu = median(in_pairs([a / b for a, b in zip(vm_cpu, yard_cpu)]))
        return Figure(group, name, unit, median(vm), median(yard),
                      in_pairs([a / b for a, b in zip(vm, yard)]), target,
                      "smbd's CPU time x%.2f" % cpu)

    # ---- ranges -------------------------------------------------------------

    def ranges(self):
        few, many = 16, self.effort['extents']
        sizes = ((MIB, '1 MiB', 1),
                 (MIB, '1 MiB', few), (GIB, '1 GiB', few),
                 (64 * GIB, '64 GiB', few), (TIB, '1 TiB', few),
                 (64 * GIB, '64 GiB', many))
        for operation in ('trim', 'zero', 'clone'):
            for length, words, extents in sizes:
                self.range_figure(operation, length, extents,
                                  '%s %s, %s extent%s'
                                  % (operation, words, format(extents, ','),
                                     '' if extents == 1 else 's'))

    def range_figure(self, operation, length, extents, name):
        # Where the files lie, and in what memory, is made anew each time.
        runs, count = (1, self.effort['many']) if extents > 1000 else (
            10, self.effort['ranges'] // 10)
        rounds = [one for _ in range(runs) for one in self.load(
            name, 'ranges', ('vm',), operation=operation, length=length,
            extents=extents, rounds=count)]
        pairs = list(self.same_processor(rounds))
        smb, local = zip(*pairs)
        self.figures.append(Figure(
            RANGES, name, 's', median(smb), median(local),
            [a / b for a, b in pairs], ('<=', 1.2),
            'round trip %.0f us' % (median([r['trip_ns'] for r in rounds])
                                    / 1e3)))

    @staticmethod
    def same_processor(rounds):
        """Pairs of seconds, over SMB and of the local call with a round trip,
        of one processor.  The local call is made on the client's; at the
        other place of a connection that is the server's."""
        sides = [[r for r in rounds if r['place'] == place]
                 for place in (0, 1)]
        for a, b in zip(*sides):
            for over, here in ((a, b), (b, a)):
                yield (over['smb_ns'] / 1e9,
                       (here['local_ns'] + over['trip_ns']) / 1e9)

    # ---- beside -------------------------------------------------------------

    def beside(self):
        rounds = self.load('reads beside a zero of 64 GiB', 'beside',
                           ('vm', 'plain'), length=64 * GIB,
                           extents=BESIDE_EXTENTS,
                           rounds=self.effort['beside'])
        for which in ('another file', 'the same file'):
            def column(share, key):
                return [r[key] / 1e9 for r in rounds
                        if r['share'] == share and r['reads'] == which]

            vm = column('vm', 'beside_max_ns')
            plain = column('plain', 'beside_max_ns')
            self.figures.append(Figure(
                BESIDE, 'of ' + which, 's', max(vm), max(plain),
                [a / b for a, b in zip(vm, plain)], ('<=', 0.1),
                'half in %.0f us, 99 %% in %.0f us; alone %.0f and %.0f'
                % tuple(
                    median(column('vm', key)) * 1e6 for key in (
                        'beside_p50_ns', 'beside_p99_ns', 'alone_p50_ns',
                        'alone_p99_ns'))))

    # ---- offload data transfer ------------------------------------------------

    def offload(self):
        many = self.effort['extents']
        clones = (('64 GiB, whole, xfs', 1, self.effort['whole']),
                  ('64 GiB, %s extents, xfs' % format(many, ','), many,
                   self.effort['copies']))
        told = []
        for name, extents, rounds in clones:
            self.offload_figure(name, ('<=', 1.2), 'vm', 'clone', rounds,
                                length=64 * GIB, extents=extents)
        self.offload_figure('64 GiB, 10,000 extents, being written', None,
                            'vm', 'clone-open', self.effort['copies'],
                            length=64 * GIB, extents=10000)
        self.offload_figure('1 GiB, half of it holes, ext4', ('<=', 1.1),
                            'vmext4', 'copy', self.effort['copies'],
                            length=GIB)
        for name, share, operation, length, extents in (
                ('xfs, %s extents' % format(many, ','), 'vm', 'clone',
                 64 * GIB, many),
                ('ext4', 'vmext4', 'copy', GIB, 1)):
            rounds = self.load('reads beside: ' + name, 'offload', (share,),
                               operation='reader-' + operation,
                               length=length, extents=extents,
                               rounds=self.effort['ways'])
            alone = [r['alone_p99_ns'] + OFFLOAD_SLACK for r in rounds]
            beside = [r['beside_p99_ns'] for r in rounds]
            self.figures.append(Figure(
                OFFLOAD_READER, name, 's', median(beside) / 1e9,
                median(alone) / 1e9,
                [a / b for a, b in zip(beside, alone)], ('<=', 1),
                'alone %.2f ms, longest beside %.0f ms' % (
                    (median(alone) - OFFLOAD_SLACK) / 1e6,
                    max(r['beside_max_ns'] for r in rounds) / 1e6)))
        rounds = self.load('other ways to copy', 'offload', ('vm',),
                           operation='ways', length=GIB, extents=1,
                           rounds=self.effort['ways'])
        odx = [r['offload_ns'] for r in rounds]
        for name, key in (('COPYCHUNK', 'chunk_ns'),
                          ('through the client', 'client_ns')):
            values = [r[key] for r in rounds]
            told.append(Figure(
                OFFLOAD_WAYS, name, 's', median(values) / 1e9,
                median(odx) / 1e9, [a / b for a, b in zip(values, odx)],
                None))
        self.figures += told

    def offload_figure(self, name, target, share, operation, rounds,
                       **options):
        rounds = self.load('ODX: ' + name, 'offload', (share,),
                           operation=operation, rounds=rounds, **options)
        local = [r['local_ns'] / 1e9 for r in rounds]
        smb = [r['smb_ns'] / 1e9 for r in rounds]
        self.figures.append(Figure(
            OFFLOAD, name, 's', median(smb), median(local),
            in_pairs([a / b for a, b in zip(smb, local)]), target,
            'released in %.1f ms' % (
                median([r['release_ns'] for r in rounds]) / 1e6)))

    # ---- storage QoS --------------------------------------------------------

    def qos(self):
        curves = {}
        for clients in (1, 4, 16):
            policy = hvrsctl('add', '--name', 'bench', '--max',
                             str(QOS_LIMIT), '--aggregated')
            name = '%d client%s' % (clients, '' if clients == 1 else 's')
            try:
                rounds = self.load(
                    'limit of ' + name, 'qos', ('vmalias',),
                    operation='limit', policy=policy, clients=clients,
                    depth=8, seconds=self.effort['qos'])
            finally:
                hvrsctl('remove', policy)
            curves[name] = [r['first'] + r['others'] for r in rounds]
        for name, values in curves.items():
            mean = sum(values) / len(values)
            self.figures.append(Figure(
                QOS, name + ', all the time', '/s', mean, QOS_LIMIT,
                [mean / QOS_LIMIT], ('in', (0.98, 1.01))))
        for which in (min, max):
            for name, values in curves.items():
                value = which(values)
                self.figures.append(Figure(
                    QOS, '%s, the %s second' % (
                        name, {min: 'least', max: 'most'}[which]),
                    '/s', value, QOS_LIMIT, [value / QOS_LIMIT],
                    ('in', (0.95, 1.05))))
        self.graphs.append((
            'Limits of storage QoS, over time',
            'normalised requests a second', curves, QOS_LIMIT))
        self.qos_minimum()
        self.qos_latency()
        self.qos_control()

    def qos_minimum(self):
        # Half as much again as it gets by itself.
        limit = 0
        for name in ('without', 'with'):
            rounds = self.load('minimum, ' + name, 'qos', ('vmalias',),
                               operation='minimum', clients=4, depth=8,
                               limit=limit, seconds=self.effort['qos'])
            first = [r['first'] for r in rounds]
            mean = sum(first) / len(first)
            wanted = limit or mean * 1.5
            self.figures.append(Figure(
                QOS_LEAST, name + ' the minimum', '/s', mean, wanted,
                [mean / wanted], ('>=', 0.95) if limit else None,
                'the others %.0f/s' % (sum(r['others'] for r in rounds) /
                                       len(rounds))))
            limit = int(wanted)

    def qos_latency(self):
        rounds = self.load('latency below the limit', 'qos',
                           ('vmalias', 'vm'), operation='latency',
                           limit=1000000, seconds=0.3,
                           rounds=self.effort['latency'])
        for key, name in (('p50_ns', 'half'), ('p99_ns', '99 %')):
            held, free = ([r[key] / 1e9 for r in rounds
                           if r['share'] == share]
                          for share in ('held', 'free'))
            self.figures.append(Figure(
                QOS_LATENCY, name, 's', median(held), median(free),
                in_pairs([a / b for a, b in zip(held, free)]),
                ('<=', 1.1)))

    def qos_control(self):
        rounds = self.load('control requests', 'qos', ('vmalias',),
                           operation='control', extents=QOS_FLOWS,
                           rounds=5)
        for name, chosen in (('a flow is made', rounds[:1]),
                             ('a flow is asked', rounds[1:])):
            each = [r['server_cpu_ns'] / r['requests'] / 1e9 for r in chosen]
            trip = [r['trip_cpu_ns'] / r['requests'] / 1e3
                    for r in chosen]
            self.figures.append(Figure(
                QOS_CONTROL, name, 's', median(each), 50e-6,
                [value / 50e-6 for value in each], ('<=', 1),
                'a bare round trip takes %.0f us' % median(trip)))

    # ---- handles ------------------------------------------------------------

    def handles(self):
        Handles(self).measure()

    # ---- remote VSS ---------------------------------------------------------

    def snapshots(self):
        Snapshots(self).measure()

    # ---- virtual disks ------------------------------------------------------

    def disk(self):
        self.figures += Disks(
            self.say, os.path.join(os.path.dirname(self.options.load),
                                   'bench-vhdx'),
            *self.effort['disk']).measure()

    # ---- shared virtual disks -----------------------------------------------

    def shared(self):
        self.figures += Shared(self).measure()

    def sets(self):
        self.figures += Sets(self).measure()

    # ---- a cluster ----------------------------------------------------------

    def cluster(self):
        # Only there is what it needs.
        from cluster_part import Cluster
        self.figures += Cluster(self).measure()

    # ---- the whole ----------------------------------------------------------

    def report(self):
        if sys.stderr.isatty():
            print('\r\033[K', end='', file=sys.stderr)
        print('\n'.join(table(self.figures)))
        verdicts = [f.verdict() for f in self.figures]
        print('\n%d targets: %d met, %d missed by less than the spread, '
              '%d missed; %d s' % (
                  len([v for v in verdicts if v]), verdicts.count('met'),
                  verdicts.count('unsure'), verdicts.count('missed'),
                  time.monotonic() - BEGUN))
        os.makedirs(self.options.out, exist_ok=True)
        with open(os.path.join(self.options.out, 'bench.json'), 'w') as file:
            json.dump({'effort': self.options.effort, 'about': about(),
                       'figures': [f.as_json() for f in self.figures],
                       'raw': self.raw}, file, indent=1)
        with open(os.path.join(self.options.out, 'bench.svg'), 'w') as file:
            file.write(picture(self.figures, 'hvrs beside stock Samba',
                               about(), self.graphs))
        return verdicts.count('missed')


def about():
    smbd = subprocess.run(['smbd', '--version'], stdout=subprocess.PIPE,
                          text=True).stdout.split()[-1]
    return '%s, Samba %s, Linux %s, %d CPUs' % (
        time.strftime('%Y-%m-%d'), smbd, os.uname().release.split('-')[0],
        os.cpu_count())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--effort', choices=sorted(EFFORTS), default='full')
    parser.add_argument('--only', action='append', default=[],
                        choices=PARTS)
    parser.add_argument('--strict', action='store_true',
                        help='exit with 1 if a target is missed for sure')
    parser.add_argument('--port', default=os.environ.get('PORT', '1445'))
    parser.add_argument('--other', type=int,
                        help='port of a Samba 4.25 to compare with')
    parser.add_argument('--load', default='build/waf/trixie/bin/bench-load')
    parser.add_argument('--out', default='build/bench')
    options = parser.parse_args()
    options.shares = {'vm': '/srv/xfs/vm', 'vmalias': '/srv/xfs/vm',
                      'vmoff': '/srv/xfs/vmoff', 'plain': '/srv/xfs/plain',
                      'plainsync': '/srv/xfs/plainsync',
                      'vmext4': '/srv/ext4/vmext4'}
    bench = Bench(options)
    for part in PARTS:
        # A cluster has a machine of its own.
        if part in options.only or (not options.only and part != 'cluster'):
            getattr(bench, part)()
    missed = bench.report()
    return 1 if missed and options.strict else 0


BEGUN = time.monotonic()

if __name__ == '__main__':
    sys.exit(main())
