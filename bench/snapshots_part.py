"""Remote VSS, measured: a snapshot of a share full of images while clients
write to them, and how long a writer waits for it."""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tests', 'integration'))

import fsrvp  # noqa: E402
import lab  # noqa: E402
from smb2 import OPEN, Connection, Session, Tree  # noqa: E402

from figures import Figure, median  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
AUTO_RECOVERY = 0x00400000
ROOM = '/lab/disks/bench-fsrvp'
FSGETXATTR = 0x801C581F
WRITERS = 2
OPENED = 16         # images that each of them writes to

TIME = {
    'title': 'A snapshot by remote VSS under write load',
    'explained': 'Prepare and Commit, over the local command; logarithmic',
    'value': 'FSRVP', 'yardstick': 'local',
}
STALL = {
    'title': 'The longest 4 KiB write while it is taken',
    'explained': 'over 100 ms',
    'value': 'longest', 'yardstick': 'target',
}


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


class Writer(threading.Thread):
    """Writes 4 KiB to images at random and keeps the longest time."""

    def __init__(self, port, share, names):
        super().__init__()
        self.tree = Tree(Session(Connection(port), 'hvrs', 'hvrs'), share)
        self.files = [self.tree.create(name, disposition=OPEN)
                      for name in names]
        self.longest, self.count, self.stop = 0.0, 0, False

    def run(self):
        data = os.urandom(4096)
        while not self.stop:
            begun = time.monotonic()
            random.choice(self.files).write(
                random.randrange(GIB // 4096) * 4096, data)
            self.longest = max(self.longest, time.monotonic() - begun)
            self.count += 1
        self.tree.connection.close()


class Snapshots:
    def __init__(self, bench):
        self.bench = bench
        self.images, self.rounds = bench.effort['snapshots']
        self.figures = []
        self.folders = {}
        self.remove()
        for name, system in (('clone, xfs', 'xfs'), ('btrfs', 'btrfs')):
            self.folders[name] = self.make_disk(system)
        self.server = lab.Server(
            {name.split(',')[0]: (folder, ['vfs objects = hvrs'])
             for name, folder in self.folders.items()},
            ['registry shares = yes', 'hvrs:rpc integrity = no'],
            steps=False)
        self.client = fsrvp.PipeClient(self.server)

    def make_disk(self, system):
        """A file system with room for all images, of which little is ever
        written: what is allocated in them stays a hole in its own image."""
        image = '%s/%s.img' % (ROOM, system)
        mount = '%s/%s' % (ROOM, system)
        os.makedirs(mount, exist_ok=True)
        run('truncate', '-s', '%dG' % (self.images * 5 // 4 + 64), image)
        run('mkfs.' + system, '-q', image)
        run('mount', '-o', 'loop,noatime', image, mount)
        if system == 'btrfs':
            run('btrfs', '-q', 'subvolume', 'create', mount + '/share')
        else:
            os.mkdir(mount + '/share')
        shutil.chown(mount + '/share', 'hvrs', 'hvrs')
        return mount + '/share'

    def remove(self):
        for system in ('xfs', 'btrfs'):
            subprocess.run(['umount', '-l', '%s/%s' % (ROOM, system)],
                           stderr=subprocess.DEVNULL)
        shutil.rmtree(ROOM, ignore_errors=True)

    def fill(self, folder):
        for number in range(self.images):
            with open('%s/image%d.vhdx' % (folder, number), 'wb') as file:
                os.posix_fallocate(file.fileno(), 0, GIB)
        run('chown', '-R', 'hvrs:hvrs', folder)
        run('sync', '-f', folder)

    def take(self, share):
        """Seconds of a snapshot, which is dropped again."""
        client = self.client
        results = [client.set_context(AUTO_RECOVERY)]
        result, set_id = client.start()
        results += [result, client.add(set_id, fsrvp.unc(share))[0]]
        begun = time.monotonic()
        results += [client.prepare(set_id), client.commit(set_id)]
        took = time.monotonic() - begun
        results.append(client.abort(set_id))
        if any(results):
            sys.exit('bench: remote VSS: %s\n%s' % (
                results, self.server.text()[-2000:]))
        return took

    def local(self, name, folder):
        target = os.path.dirname(folder) + '/local'
        if name == 'btrfs':
            command = ['btrfs', '-q', 'subvolume', 'snapshot', folder, target]
            remove = ['btrfs', '-q', 'subvolume', 'delete', target]
        else:
            command = ['cp', '-a', '--reflink=always', folder, target]
            remove = ['rm', '-r', target]
        begun = time.monotonic()
        run(*command)
        took = time.monotonic() - begun
        run(*remove)
        return took

    def writers(self, share):
        numbers = random.sample(range(self.images), WRITERS * OPENED)
        writers = [Writer(self.server.port, share,
                          ['image%d.vhdx' % number
                           for number in numbers[i::WRITERS]])
                   for i in range(WRITERS)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        return writers

    def extents(self, folder):
        """Of all images: what XFS counts of each, elsewhere none."""
        count = 0
        for number in range(self.images):
            with open('%s/image%d.vhdx' % (folder, number), 'rb') as file:
                count += struct.unpack('<IIIII', fcntl.ioctl(
                    file, FSGETXATTR, bytes(28))[:20])[2]
        return count

    def measure_one(self, name, folder):
        self.bench.say('snapshot of %d images, %s' % (self.images, name))
        share = name.split(',')[0]
        self.fill(folder)
        times, locals_, stalls, usual = [], [], [], []
        writers = self.writers(share)
        try:
            for _ in range(self.rounds):
                locals_.append(self.local(name, folder))
                for writer in writers:
                    writer.longest = 0
                time.sleep(0.5)
                usual.append(max(writer.longest for writer in writers))
                for writer in writers:
                    writer.longest = 0
                times.append(self.take(share))
                stalls.append(max(writer.longest for writer in writers))
        finally:
            for writer in writers:
                writer.stop = True
            for writer in writers:
                writer.join()
        extents = self.extents(folder)
        title = '%s images of 1 GiB, %s' % (format(self.images, ','), name)
        self.figures += [
            Figure(TIME, title, 's', median(times), median(locals_),
                   [a / b for a, b in zip(times, locals_)], None,
                   '%d writes' % sum(writer.count for writer in writers)),
            Figure(STALL, title, 's', median(stalls), 0.1,
                   [stall / 0.1 for stall in stalls], ('<=', 1),
                   'without a snapshot %.0f ms%s' % (
                       median(usual) * 1e3, ', at the end %s extents' %
                       format(extents, ',') if extents else '')),
        ]

    def measure(self):
        try:
            for name, folder in self.folders.items():
                self.measure_one(name, folder)
            for group in (TIME, STALL):
                self.bench.figures += [figure for figure in self.figures
                                       if figure.group is group]
        finally:
            self.client.close()
            self.server.stop()
            self.remove()
