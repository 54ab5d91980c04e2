"""Remote VSS of a share whose shared disks are in use: the disks of a snapshot
hold a beginning of what was written, on all of them together."""

import glob
import os
import random
import struct
import tempfile
import threading
import time

import lab
import rsvd
import test_fsrvp
from fsrvp import OK

SIZE = 48 * lab.MIB
BLOCK = lab.MIB
BLOCKS = 45
FILLERS = 1500


class Writer(threading.Thread):
    """Stamps all disks in turn, each stamp after the answer to the one
    before, and most of them into a block that is not there yet."""

    def __init__(self, disks):
        super().__init__()
        self.disks = disks
        self.done = 0
        self.stop = False
        self.failed = None

    def run(self):
        try:
            while not self.stop:
                disk = self.disks[self.done % len(self.disks)]
                status = disk.write_status(place(self.done, len(self.disks)),
                                           stamp(self.done))
                if status != 0:
                    raise OSError('status 0x%08x' % status)
                self.done += 1
        except (OSError, ConnectionError) as error:
            self.failed = error


def stamp(number):
    return struct.pack('<Q', number + 1) * 512


def place(number, disks):
    turn = number // disks
    return turn % BLOCKS * BLOCK + turn // BLOCKS * 4096


class SharedDisks(test_fsrvp.FsrvpCase):
    options = ['vfs objects = hvrs', 'hvrs:shared disks = yes']
    shares = ('vm', 'vmbtrfs')
    names = ('a/dynamic.vhdx', 'b/fixed.vhdx', 'c/set.vhds')

    def make_disks(self, share):
        path = self.directories[share] + '/'
        for folder in 'abc':
            os.mkdir(path + folder)
            # Much to clone between one disk and the next.
            for number in range(FILLERS):
                with open('%s%s/filler%d' % (path, folder, number),
                          'wb') as file:
                    file.write(bytes([number % 256]) * 8192)
        rsvd.make_disk(path + self.names[0], SIZE, block=BLOCK)
        rsvd.make_disk(path + self.names[1], SIZE, 'fixed')
        rsvd.make_set(path + self.names[2], SIZE, BLOCK)
        return [rsvd.Disk(self.connect(share), name) for name in self.names]

    def content(self, folder, name):
        """What a reader of the snapshot's disk finds, its log replayed."""
        with tempfile.TemporaryDirectory(dir=folder[:folder.index(
                '/', 5)]) as room:
            for path in glob.glob('%s/%s/*.*' % (folder, name[0])):
                lab.run('cp', '--reflink=auto', path, room)
            image = room + name[1:]
            if name.endswith('.vhds'):
                (image,) = glob.glob(room + '/set*.avhdx')
            lab.run('hvrs-vhd', 'convert', image, room + '/raw')
            with open(room + '/raw', 'rb') as file:
                mine = file.read()
            if name == self.names[0]:
                # And so does another's program, which replays it for good.
                lab.run('qemu-img', 'check', '-q', '-r', 'all', '-f', 'vhdx',
                        image)
                lab.run('qemu-img', 'compare', '-q', '-f', 'vhdx', '-F',
                        'raw', image, room + '/raw')
            return mine

    def judge(self, folder, before, after):
        # What did not change is there as well.
        for name in 'abc':
            lab.run('diff', '-rq', '--exclude=*.vhd*', '--exclude=*.avhdx*',
                    '%s/../../%s' % (folder, name),
                    '%s/%s' % (folder, name))
        contents = [self.content(folder, name) for name in self.names]
        there = []
        number = 0
        while number < after + 2:
            data = contents[number % 3][place(number, 3):][:4096]
            if data == stamp(number):
                there.append(number)
            else:
                self.assertEqual(bytes(4096), data, number)
            number += 1
        self.assertEqual(list(range(len(there))), there)
        self.assertGreaterEqual(len(there), before)
        self.assertLessEqual(len(there), after + 1)

    def check(self, share):
        writer = Writer(self.make_disks(share))
        writer.start()
        try:
            for _ in range(2):
                wanted = writer.done + 60
                while writer.done < wanted and writer.is_alive():
                    time.sleep(0.01)
                time.sleep(random.random() / 10)
                before = writer.done
                set_id, _, _ = self.take(share)
                after = writer.done
                self.assertIsNone(writer.failed)
                (name,) = test_fsrvp.snapshots(self.directories[share])
                self.judge('%s/.snapshots/%s' % (self.directories[share],
                                                 name), before, after)
                self.expect(OK, self.client.abort(set_id))
        finally:
            writer.stop = True
            writer.join()
        self.assertIsNone(writer.failed)
        self.assert_nothing_left()

    def test_clones(self):
        self.check('vm')

    def test_btrfs(self):
        self.check('vmbtrfs')
