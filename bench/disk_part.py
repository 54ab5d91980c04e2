"""The VHDX engine beside the bare file and beside QEMU: the same requests on
the same images, which qemu-img made, in turns."""

import json
import os
import re
import shutil
import subprocess

from figures import Figure, in_pairs, median

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = GIB
FOLDER = '/srv/xfs/bench-disk'

WORDS = {'cold': 'reads of the device', 'through': 'writes, each on disk',
         'read': 'reads of the cache', 'write': 'writes to the cache'}

BARE = {
    'title': 'Reads and writes of a VHDX beside the bare file',
    'explained': 'requests a second over those of the file itself',
    'value': 'hvrs', 'yardstick': 'file',
}
QEMU = {
    'title': 'Reads and writes of a VHDX beside QEMU',
    'explained': 'requests a second over those of qemu-img bench',
    'value': 'hvrs', 'yardstick': 'QEMU',
}
OPEN = {
    'title': 'Open of a VHDX of 64 TiB',
    'explained': 'time over the target',
    'value': 'time', 'yardstick': 'target',
}


def run(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, check=True,
                          text=True).stdout


class Disks:
    """Figures of the part, as a list; say(words) tells the progress."""

    def __init__(self, say, program, rounds, part):
        self.say, self.program, self.rounds = say, program, rounds
        self.part = part  # of the requests: one in so many
        self.figures = []
        self.base = {}  # where the data of a file begins

    def path(self, name):
        return os.path.join(FOLDER, name)

    def make(self):
        os.makedirs(FOLDER, exist_ok=True)
        run('qemu-img', 'create', '-q', '-f', 'raw', self.path('raw'),
            str(SIZE))
        run('qemu-img', 'bench', '-f', 'raw', '-w', '--pattern=90', '-s',
            str(MIB), '-c', str(SIZE // MIB), '-d', '4', '-t', 'writeback',
            self.path('raw'))
        for kind in ('fixed', 'dynamic'):
            path = self.path(kind + '.vhdx')
            run('qemu-img', 'convert', '-f', 'raw', '-O', 'vhdx', '-o',
                'subformat=' + kind, self.path('raw'), path)
            data = json.loads(run('hvrs-vhd', 'map', '--json', path))
            if len(data) != 1 or data[0]['length'] != SIZE:
                raise RuntimeError('%s is in pieces: %r' % (path, data))
            self.base[kind] = data[0]['file offset']
        # A disk that is written to is nobody's parent any more.
        shutil.copyfile(self.path('dynamic.vhdx'), self.path('base.vhdx'))
        self.base['base'] = self.base['dynamic']
        below = 'base'
        for depth in (1, 2, 3, 4):
            name = 'child%d' % depth
            run('hvrs-vhd', 'create', '--parent',
                self.path(below + '.vhdx'), self.path(name + '.vhdx'))
            below = name
        os.unlink(self.path('raw'))
        for name in ('fixed.vhdx', 'dynamic.vhdx', 'base.vhdx'):
            with open(self.path(name), 'rb') as file:
                while file.read(MIB):
                    pass

    def ours(self, kind, *what):
        """By the engine."""
        return self.requests_of('vhdx', kind, *what)

    def bare(self, kind, *what):
        """The same places of the file itself: how the page cache holds
        another file like it is worth more than what is measured."""
        return self.requests_of('raw', kind, *what, self.base[kind])

    def requests_of(self, engine, kind, operation, size, depth, count, step,
                    *base):
        self.quiet(operation)
        if operation == 'cold':
            self.forget()
            operation = 'read'
        return int(run(self.program, engine, self.path(kind + '.vhdx'),
                       operation, *map(str, (size, depth, count, step, SIZE,
                                             *base))))

    def qemu(self, kind, operation, size, depth, count, step):
        self.quiet(operation)
        out = run('qemu-img', 'bench', '-f', 'vhdx', '-t', 'writeback',
                  '-i', 'io_uring', '-c', str(count), '-d', str(depth),
                  '-s', str(size), '-S', str(step),
                  *(['-w'] if operation == 'write' else []),
                  self.path(kind + '.vhdx'))
        return int(float(re.search(r'completed in ([\d.]+) s', out)[1]) *
                   1e9)

    @staticmethod
    def quiet(operation):
        """What was written before is not what is measured."""
        if operation != 'read':
            run('sync', '-f', FOLDER)

    def forget(self):
        """The page cache holds nothing of the files."""
        for name in os.listdir(FOLDER):
            with open(self.path(name), 'rb') as file:
                os.posix_fadvise(file.fileno(), 0, 0,
                                 os.POSIX_FADV_DONTNEED)

    def figure(self, group, name, count, pairs, target):
        ratios = in_pairs([theirs / ours for ours, theirs in pairs])
        self.figures.append(Figure(
            group, name, '/s', count / median([p[0] for p in pairs]) * 1e9,
            count / median([p[1] for p in pairs]) * 1e9, ratios, target))

    def in_turns(self, one, other, times=1):
        pairs = []
        for i in range(self.rounds * times):
            if i % 2:
                theirs = other()
                pairs.append((one(), theirs))
            else:
                ours = one()
                pairs.append((ours, other()))
        return pairs

    def requests(self):
        for operation in ('cold', 'through', 'read', 'write'):
            for pattern, size in (('sequential', MIB), ('random', 4 * KIB)):
                for depth in (1, 32):
                    count = 1024 if size == MIB else 20000
                    if operation in ('cold', 'through'):
                        count = 512 if size == MIB else 2000
                    if operation == 'through' and depth == 1:
                        count //= 4
                    count //= self.part
                    # A prime number of requests on: everywhere once.
                    step = size if size == MIB else 100003 * size
                    yield operation, pattern, size, depth, count, step

    def allocated(self):
        for kind, target in (('fixed', 0.95), ('dynamic', 0.95),
                             ('child1', None), ('child4', None)):
            for request in self.requests():
                operation, pattern, size, depth, count, step = request
                if kind.startswith('child') and operation in ('write',
                                                              'through'):
                    continue
                name = '%s, %s %s, %s KiB, %d under way' % (
                    kind, pattern, WORDS[operation], size // KIB, depth)
                self.say(name)
                what = (operation, size, depth, count, step)
                bare = 'base' if kind.startswith('child') else kind
                # What takes milliseconds is as good as what is beside it.
                times = 2 if operation in ('read', 'write') else 1
                if target and (size < MIB or operation in ('cold', 'through')):
                    times *= 8 if operation == 'write' else 4
                self.figure(BARE, name, count, self.in_turns(
                    lambda: self.ours(kind, *what),
                    lambda: self.bare(bare, *what), times),
                    ('>=', target) if target else None)
                if operation in ('read', 'write') and \
                        not kind.startswith('child'):
                    self.figure(QEMU, name, count, self.in_turns(
                        lambda: self.ours(kind, *what),
                        lambda: self.qemu(kind, *what)), None)

    def fresh(self, made):
        shutil.copyfile(self.path('empty.vhdx'), self.path(made + '.vhdx'))
        return made

    def allocating(self):
        run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o',
            'subformat=dynamic,block_size=%d' % MIB,
            self.path('empty.vhdx'), str(SIZE))
        for size, count in ((MIB, 256), (4 * KIB, 256)):
            for depth in (1, 32):
                name = 'allocating, %d KiB, %d under way' % (
                    size // KIB, depth)
                self.say(name)
                # Each request in a block that has no space yet.
                step = MIB if size == MIB else 101 * MIB
                what = (size, depth, count, step)
                self.figure(QEMU, name, count, self.in_turns(
                    lambda: self.ours(self.fresh('a'), 'make', *what),
                    lambda: self.qemu(self.fresh('b'), 'write', *what)),
                    ('>=', 2))

    def opening(self):
        self.say('open of 64 TiB')
        run('hvrs-vhd', 'create', '--size', '64T', self.path('large.vhdx'))
        times = [int(run(self.program, 'open', self.path('large.vhdx'))) /
                 1e9 for _ in range(5)]
        self.figures.append(Figure(OPEN, 'open', 's', median(times), 0.1,
                                   [time / 0.1 for time in times],
                                   ('<=', 1)))

    def measure(self):
        shutil.rmtree(FOLDER, ignore_errors=True)
        try:
            self.make()
            self.allocated()
            self.allocating()
            self.opening()
        finally:
            shutil.rmtree(FOLDER, ignore_errors=True)
        groups = [figure.group for figure in self.figures]
        return sorted(self.figures, key=lambda f: groups.index(f.group))
