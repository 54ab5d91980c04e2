"""On the clients' machine of "./lab cluster up": one shared virtual disk
through several nodes.  Contents, reservations, and that not one byte of who
lost them reaches the disk, whatever becomes of its node."""

import glob
import json
import os
import random
import struct
import subprocess
import threading
import time
import unittest

import rsvd
import smb2
from cluster import ADDRESS, cluster, log, on
from rsvd import (ABORT, CONFLICT, EA_RO, IGNORE, PREEMPT, RELEASE, RESERVE,
                  WE, WE_RO)

FOLDER = '/srv/shared/vm'
SECTOR = 512
MIB = 1 << 20


def connect(node, timeout=60):
    connection = smb2.Connection(445, ADDRESS[node], timeout)
    return smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'coherent')


def at_once(work):
    """work(node) for three nodes at once; what was raised."""
    errors = []

    def one(node):
        try:
            work(node)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        if worker.is_alive():
            errors.append('it does not end')
    return errors


class Case(unittest.TestCase):

    def setUp(self):
        self.name = self.id().split('.')[-1] + '.vhdx'
        self.image = os.path.join(FOLDER, self.name)
        if os.path.exists(self.image):
            os.unlink(self.image)

    def make(self, kind='dynamic', size=64 * MIB):
        rsvd.make_disk(self.image, size, kind)

    def disk(self, node, timeout=60, **how):
        tree = connect(node, timeout)
        self.addCleanup(tree.connection.close)
        return rsvd.Disk(tree, self.name, **how)

    def good(self, result):
        self.assertEqual((0, 1), (result.status, result.srb),
                         '%06x' % result.sense)
        return result

    def expect(self, wanted, status):
        self.assertEqual(hex(wanted), hex(status))

    def freeze_writing(self, node):
        """Freezes a node while a write of one of its opens is published."""
        names = '/srv/shared/.hvrs/disks/*-%x.fence.*' % os.stat(
            self.image).st_ino
        for _ in range(50):
            cluster('freeze-node', str(node))
            for name in glob.glob(names):
                with open(name, 'rb') as file:
                    oldest, = struct.unpack('<Q', file.read(8))
                if oldest != (1 << 64) - 1:
                    return
            cluster('thaw-node', str(node))
            time.sleep(0.1)
        self.fail('node %d has never a write under way' % node)

    def check(self, content):
        """The image, by others, once nobody has it open."""
        subprocess.run(['qemu-img', 'check', '-q', self.image], check=True)
        subprocess.run(['hvrs-vhd', 'check', self.image], check=True,
                       stdout=subprocess.DEVNULL)
        raw = self.image + '.raw'
        subprocess.run(['qemu-img', 'convert', '-O', 'raw', self.image, raw],
                       check=True)
        self.addCleanup(os.unlink, raw)
        with open(raw, 'rb') as file:
            found = file.read()
        self.assertEqual(len(content), len(found))
        bad = [at for at in range(0, len(found), 4096)
               if found[at:at + 4096] != content[at:at + 4096]]
        self.assertEqual([], bad[:10], '%d pages differ' % len(bad))


class Contents(Case):

    def test_one_dynamic_disk_through_two_nodes(self):
        self.make()
        draw = random.Random(1)
        content = bytearray(64 * MIB)
        disks = [self.disk(0), self.disk(1)]
        for step in range(400):
            one = disks[step & 1]
            other = disks[1 - (step & 1)]
            at = draw.randrange(0, 64 * MIB - 300000) // 4096 * 4096
            length = draw.choice((4096, 65536, 262144))
            data = draw.randbytes(length)
            # What one node has answered the other one reads.
            self.expect(0, one.write_status(at, data))
            content[at:at + length] = data
            near = max(0, at - 65536)
            status, got = other.read_status(near, length + 65536)
            self.expect(0, status)
            self.assertEqual(bytes(content[near:near + len(got)]), got,
                             'step %d at %d' % (step, at))
            if step % 20 == 19:
                start = draw.randrange(63) * MIB
                self.good(other.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24],
                                     struct.pack('>HHIQII', 22, 16, 0,
                                                 start // SECTOR,
                                                 MIB // SECTOR, 0)))
                content[start:start + MIB] = bytes(MIB)
                self.assertEqual(bytes(MIB),
                                 one.read_status(start, MIB)[1])
        for disk in disks:
            disk.close()
        self.check(content)

    def test_three_nodes_at_once(self):
        self.make()
        content = bytearray(64 * MIB)

        def work(node):
            disk = self.disk(node)
            draw = random.Random(node)
            for _ in range(100):
                # Blocks are of all, and each has every third piece.
                piece = draw.randrange(64 * 16 // 3) * 3 + node
                data = draw.randbytes(65536)
                self.expect(0, disk.write_status(piece * 65536, data))
                content[piece * 65536:(piece + 1) * 65536] = data
                self.assertEqual(data, disk.read_status(piece * 65536,
                                                        65536)[1])
            disk.close()

        self.assertEqual([], at_once(work))
        self.check(content)

    def test_compare_and_write_counts_on_all_nodes(self):
        self.make()
        done = []

        def work(node):
            disk = self.disk(node)
            for _ in range(40):
                while True:
                    old = disk.read_status(0, SECTOR)[1]
                    new = struct.pack('<Q', struct.unpack_from(
                        '<Q', old)[0] + 1).ljust(SECTOR, b'\0')
                    result = disk.scsi([0x89] + [0] * 12 + [1], old + new)
                    if result.status == 0:
                        break
                    self.assertEqual(0x0E1D00, result.sense)
                done.append(node)
            disk.close()

        self.assertEqual([], at_once(work))
        self.assertEqual(120, len(done))
        disk = self.disk(1)
        self.assertEqual(120, struct.unpack_from(
            '<Q', disk.read_status(0, SECTOR)[1])[0])

    def test_compare_and_write_beside_a_plain_write(self):
        """The plain one comes before, and the comparison fails, or behind:
        never in the middle, so it is what is there in the end."""
        self.make()
        disks = [self.disk(0), self.disk(1)]
        self.expect(0, disks[1].write_status(0, bytes(MIB)))
        old, same, draw = bytes(SECTOR), 0, random.Random(2)
        for turn in range(1, 451):
            new = struct.pack('<Q', turn).ljust(SECTOR, b'n')
            plain = struct.pack('<Q', turn).ljust(MIB, b'p')
            ahead = draw.uniform(-0.004, 0.008)
            errors = []

            def write():
                time.sleep(max(0, -ahead))
                status = disks[1].write_status(0, plain)
                if status != 0:
                    errors.append(status)

            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(max(0, ahead))
            result = disks[0].scsi([0x89] + [0] * 12 + [1], old + new)
            writer.join()
            self.assertEqual([], errors)
            if result.status == 0:
                same += 1
            else:
                self.assertEqual(0x0E1D00, result.sense)
            old = disks[0].read_status(0, SECTOR)[1]
            self.assertEqual(plain[:SECTOR], old, 'turn %d' % turn)
        # Both were seen to come first.
        self.assertTrue(0 < same < 450, same)

    def store(self, node, folder):
        """smbd of a node anew, with another store."""
        on(node, 'sh', '-c', 'mkdir -m 700 -p %s; sed -i "s#hvrs:handle store '
           '= .*#hvrs:handle store = %s#" /etc/samba/smb.conf; smbcontrol '
           'smbd shutdown; while smbcontrol smbd ping >/dev/null 2>&1; do '
           'sleep 0.1; done; smbd --daemon' % (folder, folder))
        for _ in range(100):
            try:
                return connect(node).connection.close()
            except OSError:
                time.sleep(0.1)
        self.fail('smbd of node %d does not answer' % node)

    def test_a_node_with_another_folder_is_refused(self):
        self.make()
        disk = self.disk(0)
        self.store(2, '/var/other')
        try:
            with self.assertRaises(smb2.StatusError):
                self.disk(2)
            self.assertIn('is not known to be the same folder', log(2))
        finally:
            self.store(2, '/srv/shared/.hvrs')
        self.good(self.disk(2).pr_out(IGNORE, 0, 0, 0xC))
        self.assertEqual([0xC], disk.keys()[1])


class Reservations(Case):

    def test_they_are_everywhere(self):
        self.make('fixed', 8 * MIB)
        a, b, c = self.disk(0), self.disk(1), self.disk(2)
        self.good(a.pr_out(IGNORE, 0, 0, 0xA))
        self.good(b.pr_out(IGNORE, 0, 0, 0xB))
        self.assertEqual((2, [0xA, 0xB]), c.keys())
        self.good(a.pr_out(RESERVE, WE, 0xA))
        self.assertEqual((0xA, WE), c.reservation())
        (told,) = [one for one in json.loads(
            on(2, 'hvrsctl', 'disks', '--json'))
            if one['path'].endswith(self.name)]
        self.assertEqual([0, 1, 2], sorted(
            one['node'] for one in told['opens'] if one['state'] == 'open'))
        self.assertEqual(2, len(told['registrations']))
        self.expect(CONFLICT, b.write_status(0, bytes(SECTOR)))
        self.expect(CONFLICT, c.write_status(0, bytes(SECTOR)))
        self.expect(0, c.read_status(0, SECTOR)[0])
        self.expect(0, a.write_status(0, b'a' * SECTOR))
        self.good(a.pr_out(RELEASE, WE, 0xA))
        self.expect(0, c.write_status(0, b'c' * SECTOR))
        self.assertEqual(b'c' * SECTOR, a.read_status(0, SECTOR)[1])
        self.good(b.pr_out(RESERVE, EA_RO, 0xB))
        self.expect(rsvd.CONFLICT, c.read_status(0, SECTOR)[0])
        self.good(b.pr_out(PREEMPT, EA_RO, 0xB, 0xA))
        # The attention is told once, on the node of who lost.
        self.expect(rsvd.REG_PREEMPTED, a.read_status(0, SECTOR)[0])
        self.expect(CONFLICT, a.read_status(0, SECTOR)[0])

    def test_aptpl_goes_from_node_to_node(self):
        self.make('fixed', 8 * MIB)
        a = self.disk(0)
        self.good(a.pr_out(IGNORE, 0, 0, 0xA, aptpl=1))
        self.good(a.pr_out(RESERVE, WE, 0xA))
        initiator = a.initiator
        a.close()
        b = self.disk(1)
        self.assertEqual((0xA, WE), b.reservation())
        self.expect(CONFLICT, b.write_status(0, bytes(SECTOR)))
        a = self.disk(2, initiator=initiator)
        self.expect(0, a.write_status(0, bytes(SECTOR)))
        # Without it the last close is the end of them.
        self.good(a.pr_out(IGNORE, 0, 0, 0xA))
        a.close()
        b.close()
        self.assertIsNone(self.disk(0).reservation())


class Writes(threading.Thread):
    """A client that has many writes under way, one value after the other."""

    def __init__(self, disk, offset, length, depth=16, size=65536):
        super().__init__(daemon=True)
        self.disk, self.offset, self.length = disk, offset, length
        self.depth, self.size = depth, size
        self.stop = False
        self.refused = 0
        self.acknowledged = {}
        self.broken = None
        self.count = 0

    def run(self):
        connection = self.disk.tree.connection
        under_way = []
        try:
            while not self.stop or under_way:
                while not self.stop and len(under_way) < self.depth:
                    self.count += 1
                    at = self.offset + (self.count - 1) * self.size % \
                        self.length
                    data = struct.pack('<Q', self.count) * (self.size // 8)
                    under_way.append((self.disk.write_send(at, data), at,
                                      self.count))
                mid, at, value = under_way.pop(0)
                status = connection.wait(mid).status
                if status == 0:
                    self.acknowledged[at] = value
                else:
                    self.refused += 1
        except (OSError, smb2.StatusError) as error:
            self.broken = error


class Fence(Case):

    def content(self, disk, offset, length):
        out = b''
        while len(out) < length:
            status, data = disk.read_status(offset + len(out),
                                            min(MIB, length - len(out)))
            self.expect(0, status)
            out += data
        return out

    def begin(self, loser, winner, kind=WE_RO):
        self.good(loser.pr_out(IGNORE, 0, 0, 0xA))
        self.good(winner.pr_out(IGNORE, 0, 0, 0xB))
        self.good(loser.pr_out(RESERVE, kind, 0xA))

    def nothing_comes(self, disk, length=4 * MIB):
        before = self.content(disk, 0, length)
        with open(self.image, 'rb') as file:
            raw = file.read()
        time.sleep(1)
        self.assertEqual(before, self.content(disk, 0, length))
        with open(self.image, 'rb') as file:
            self.assertEqual(raw, file.read())

    def test_preempt_and_abort_with_writes_under_way(self):
        self.make('fixed', 8 * MIB)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            loser, winner = self.disk(a), self.disk(b)
            self.begin(loser, winner)
            writes = Writes(loser, 0, 4 * MIB)
            writes.start()
            time.sleep(0.3)
            self.good(winner.pr_out(ABORT, WE_RO, 0xB, 0xA))
            self.nothing_comes(winner)
            self.assertGreater(writes.refused, 0)
            self.assertGreater(len(writes.acknowledged), 0)
            writes.stop = True
            writes.join(20)
            self.assertIsNone(writes.broken)
            self.assertEqual((0xB, WE_RO), loser.reservation())
            loser.close()
            winner.close()

    def test_a_frozen_loser_is_waited_for(self):
        """Its node stands still with writes under way, and goes on."""
        self.make('fixed', 8 * MIB)
        for _ in range(2):
            loser, winner = self.disk(1), self.disk(0)
            self.begin(loser, winner)
            writes = Writes(loser, 0, 4 * MIB)
            writes.start()
            time.sleep(0.3)
            self.freeze_writing(1)
            try:
                sent = winner.pr_out_send(ABORT, WE_RO, 0xB, 0xA)
                winner.tree.connection.socket.settimeout(1.5)
                with self.assertRaises(TimeoutError):
                    winner.scsi_end(sent)
            finally:
                cluster('thaw-node', '1')
            winner.tree.connection.socket.settimeout(60)
            self.good(winner.scsi_end(sent))
            self.nothing_comes(winner)
            writes.stop = True
            writes.join(20)
            self.assertGreater(writes.refused, 0)
            loser.tree.connection.close()
            winner.close()


class Deaths(Case):

    def fencing(self, on):
        for name in ('/lab/fencing', '/lab/fenced'):
            if os.path.exists(name):
                os.unlink(name)
        if on:
            open('/lab/fencing', 'w').close()

    def test_a_node_dies_at_allocating_writes(self):
        """Frozen in the middle of them, preempted, and only then fenced, by
        the command that is there for it."""
        self.make('dynamic', 256 * MIB)
        content = bytearray(256 * MIB)
        doomed, winner, third = self.disk(2), self.disk(0), self.disk(1)
        self.good(doomed.pr_out(IGNORE, 0, 0, 0xA))
        self.good(winner.pr_out(IGNORE, 0, 0, 0xB))
        self.good(third.pr_out(IGNORE, 0, 0, 0xC))
        self.good(doomed.pr_out(RESERVE, WE_RO, 0xA))
        writes = Writes(doomed, 0, 128 * MIB)
        writes.start()
        time.sleep(1)
        self.fencing(True)
        try:
            self.freeze_writing(2)
            time.sleep(0.2)
            acknowledged = dict(writes.acknowledged)
            sent = winner.pr_out_send(ABORT, WE_RO, 0xB, 0xA)
            winner.tree.connection.socket.settimeout(2)
            with self.assertRaises(TimeoutError):
                winner.scsi_end(sent)
            winner.tree.connection.socket.settimeout(60)
            self.good(winner.scsi_end(sent))
            with open('/lab/fenced') as file:
                self.assertRegex(file.read(), r'^2 \d+\n$')
            begun = time.monotonic()
            for at, value in acknowledged.items():
                status, data = third.read_status(at, 65536)
                self.expect(0, status)
                # Or one of a later round, which was not told.
                now, = struct.unpack_from('<Q', data)
                self.assertEqual(struct.pack('<Q', now) * 8192, data)
                self.assertEqual(0, (now - value) % 2048, at)
                self.assertTrue(value <= now <= writes.count, at)
                content[at:at + 65536] = data
            # The others go on.
            for i, disk in enumerate((winner, third) * 20):
                at = 128 * MIB + i * MIB
                data = os.urandom(65536)
                self.expect(0, disk.write_status(at, data))
                content[at:at + 65536] = data
                self.assertEqual(data, (third, winner)[i & 1].read_status(
                    at, 65536)[1])
            # What was not acknowledged is there or not, but for good.
            for at in range(0, 128 * MIB, 65536):
                if at not in acknowledged:
                    data = winner.read_status(at, 65536)[1]
                    content[at:at + 65536] = data
            print('\n%d pieces acknowledged, others went on in %.1f s' %
                  (len(acknowledged), time.monotonic() - begun))
            self.assertGreater(len(acknowledged), 20)
            self.assertEqual([0xB, 0xC], third.keys()[1])
            winner.close()
            third.close()
            self.check(content)
        finally:
            writes.stop = True
            self.fencing(False)
            cluster('start-node', '2')
        again = self.disk(2)
        self.assertEqual(bytes(content[:MIB]), again.read_status(0, MIB)[1])
        again.close()

