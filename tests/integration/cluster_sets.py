"""On the clients' machine of "./lab cluster up": one VHD Set through several
nodes.  A snapshot is of one moment for all of them; whoever goes in the middle
of an operation, and however much of his node with him, the set is as it was or
as it shall be, and others go on with it; what was changed is told."""

import fcntl
import glob
import os
import struct
import threading
import time
import unittest
import uuid

import lab
import rsvd
import smb2
import test_rsvd_steps
from nodes import ADDRESS, cluster, on

FOLDER = '/srv/shared/vm'
DIE = '/lab/die/'
MIB = 1 << 20
KIB64 = 1 << 16


class Nodes:
    """As lab.Server, of a share that all nodes have."""

    def __init__(self):
        self.turns = [0, 1]

    def directory_of(self, _):
        return FOLDER

    def connect(self, *_):
        """Through the first, the second, and then one but the second."""
        node = self.turns.pop(0)
        self.turns = self.turns or [2, 0]
        return self.through(node)

    @staticmethod
    def through(node, timeout=60):
        connection = smb2.Connection(445, ADDRESS[node], timeout)
        return smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'coherent')

    @staticmethod
    def die_at(step):
        open(DIE + step, 'w').close()

    @staticmethod
    def has_died(step):
        return not os.path.exists(DIE + step)


class OnNodes:
    """What a test of a single machine needs to run on several."""

    @classmethod
    def setUpClass(cls):
        pass

    def setUp(self):
        self.server = Nodes()
        for name in os.listdir(DIE):
            os.unlink(DIE + name)
        super().setUp()


class Steps(OnNodes, test_rsvd_steps.Steps):
    """The process of one node ends at each step; the others go on."""
    test_apply_to_another_size = None

    def whole(self, disk, content, what):
        """Where anything ever was, and the end."""
        for at in sorted({unit * 4096 // MIB for unit in content.units} | {
                content.size // MIB - 1}):
            status, data = disk.read_status(at * MIB, MIB)
            self.expect(0, status)
            self.assert_bytes(content.get(at * MIB, MIB), data,
                              '%s at %d MiB' % (what, at))

    def each(self, steps):
        # The others are as those before them, for who is on another node.
        some = [step for step in steps if step not in (
            'merge-noted', 'merge-built', 'merge-tidied')]
        for step, everything in super().each(some):
            if not everything:
                yield step, False


class Case(OnNodes, rsvd.Case):
    size = 64 * MIB
    name = 't/set.vhds'

    def setUp(self):
        super().setUp()
        rsvd.make_set(self.path('set.vhds'), self.size)

    def on(self, node, timeout=60, **how):
        tree = self.server.through(node, timeout)
        self.connections.append(tree.connection)
        return self.disk(self.name, tree=tree, version=2, **how)

    def old(self, node, ident):
        tree = self.server.through(node)
        self.connections.append(tree.connection)
        return self.at(self.name, ident, tree=tree)

    def content(self, disk, length=None):
        out = b''
        while len(out) < (length or self.size):
            status, data = disk.read_status(len(out), MIB)
            self.expect(0, status)
            out += data
        return out


class Chain(threading.Thread):
    """A number that goes from node to node: what the second has is what the
    first had before, or has."""

    def __init__(self, first, second, offset):
        super().__init__(daemon=True)
        self.disks, self.offset = (first, second), offset
        self.stop, self.error = False, None
        self.count, self.longest = 0, 0.0

    def run(self):
        try:
            while not self.stop:
                self.count += 1
                data = struct.pack('<Q', self.count) * 512
                for i, disk in enumerate(self.disks):
                    begun = time.monotonic()
                    status = disk.write_status(self.offset + i * KIB64, data)
                    self.longest = max(self.longest, time.monotonic() - begun)
                    assert status == 0, hex(status)
        except Exception as error:
            self.error = error


class Moment(Case):

    def test_a_snapshot_under_writes_through_two_nodes(self):
        chains = [Chain(self.on(i), self.on((i + 1) % 3), i * MIB)
                  for i in range(3)]
        makers = [self.on(node) for node in range(3)]
        for chain in chains:
            chain.start()
        idents = []
        for i in range(6):
            time.sleep(0.2)
            idents.append(makers[i % 3].snapshot())
        for chain in chains:
            chain.stop = True
        for chain in chains:
            chain.join(30)
            self.assertIsNone(chain.error)
        last = [0] * 3
        for i, ident in enumerate(idents):
            old = self.old((i + 1) % 3, ident)
            for n, chain in enumerate(chains):
                data = old.read_status(chain.offset, MIB)[1]
                first, second = (struct.unpack_from('<Q', data, at)[0]
                                 for at in (0, KIB64))
                self.assertIn(first - second, (0, 1))
                self.assertGreater(second, last[n])
                last[n] = second
            old.close()
        print('\n%d writes, the longest took %.0f ms' % (
            sum(2 * c.count for c in chains),
            1000 * max(c.longest for c in chains)))


class Opens(Case):

    def test_who_stood_still_at_his_open_gets_the_files_of_now(self):
        """Also where nobody has the set open any more."""
        found = []
        self.server.die_at('stop-rsvd-opened')
        opening = threading.Thread(target=lambda: found.append(self.on(0)))
        opening.start()
        while not self.server.has_died('stop-rsvd-opened'):
            time.sleep(0.01)
        other = self.on(1)
        self.expect(0, other.write_status(0, lab.pattern(4096, 1)))
        ident = other.snapshot()
        self.expect(0, other.write_status(0, lab.pattern(4096, 2)))
        other.close()
        cluster('thaw-node', '0')
        opening.join(30)
        self.assertEqual((0, lab.pattern(4096, 2)),
                         found[0].read_status(0, 4096))
        self.expect(0, found[0].write_status(0, lab.pattern(4096, 3)))
        self.assertEqual((0, lab.pattern(4096, 1)),
                         self.old(2, ident).read_status(0, 4096))
        self.assertEqual((0, lab.pattern(4096, 3)),
                         self.on(2).read_status(0, 4096))


class Strangers(Case):

    def forget(self, name):
        """What CTDB's database says of the opens of a file."""
        st = os.stat(self.path(name))
        on(2, 'ctdb', 'deletekey', 'locking.tdb', '0x' + struct.pack(
            '<QQQ', st.st_dev, st.st_ino, 0).hex())

    def test_a_plain_writer_is_kept_out_whatever_ctdb_has_lost(self):
        disk = self.on(0)
        self.expect(0, disk.write_status(0, lab.pattern(4096, 1)))
        (leaf,) = [name for name in os.listdir(self.path(''))
                   if name.endswith('.avhdx')]
        tree = self.server.through(1)
        self.connections.append(tree.connection)
        for name in ('set.vhds', leaf):
            self.forget(name)
            with self.assertRaises(smb2.StatusError) as caught:
                tree.create('t/' + name)
            self.expect(rsvd.SHARING_VIOLATION, caught.exception.status)
            tree.create('t/' + name, smb2.READ).close()
        disk.close()
        for name in ('set.vhds', leaf):
            tree.create('t/' + name).close()


class Locked(Case):
    """Somebody who stands still has one of the locks in the nodes' folder."""

    def hold(self, kind):
        (name,) = glob.glob('/srv/shared/.hvrs/disks/*-%x.%s' % (
            os.stat(self.path('set.vhds')).st_ino, kind))
        file = open(name, 'r+b')
        self.addCleanup(file.close)
        fcntl.lockf(file, fcntl.LOCK_EX)
        return file

    def nothing_comes(self, disk, mid, seconds):
        disk.tree.connection.socket.settimeout(seconds)
        with self.assertRaises(TimeoutError):
            disk.tree.connection.wait(mid)
        disk.tree.connection.socket.settimeout(60)

    def test_a_write_that_is_not_noted_waits_in_the_loop(self):
        one, other = self.on(0), self.on(1)
        first = one.snapshot()
        held = self.hold('changes')
        mid = other.write_send(MIB, lab.pattern(4096, 1))
        self.nothing_comes(other, mid, 1)
        self.assertEqual((0, bytes(4096)), other.read_status(MIB, 4096))
        held.close()
        self.expect(0, other.tree.connection.wait(mid).status)
        second = one.snapshot()
        self.assertEqual([(MIB, KIB64)], one.changes(second, first,
                                                     self.size))

    def test_a_block_ends_when_the_record_can_be_had_again(self):
        one, other = self.on(0), self.on(1)
        self.server.die_at('stop-resize-resized')
        sent = one.meta_send(rsvd.RESIZE, struct.pack(
            '<QBBBB', 2 * self.size, 0, 0, 0, 0) + bytes(4))
        while not self.server.has_died('stop-resize-resized'):
            time.sleep(0.01)
        held = self.hold('record')
        cluster('thaw-node', '0')
        self.assertEqual((0, 0xC00000B5), one.tunnel_end(sent)[:2])
        mid = other.read_send(0, 512)
        self.nothing_comes(other, mid, 1)
        held.close()
        begun = time.monotonic()
        self.expect(rsvd.CAPACITY, other.tree.connection.wait(mid).status)
        self.assertLess(time.monotonic() - begun, 5)
        self.expect(0, other.write_status(2 * self.size - 512, bytes(512)))
        self.expect(rsvd.CAPACITY, one.read_status(0, 512)[0])


class Size(Case):

    def test_others_are_told_of_a_resize_once(self):
        one, other, third = (self.on(node) for node in range(3))
        self.expect(0, other.write_status(0, lab.pattern(4096, 1)))
        self.expect(0, one.resize(2 * self.size))
        for disk in (one, other, third):
            self.expect(rsvd.CAPACITY, disk.read_status(0, 512)[0])
            self.assertEqual((0, lab.pattern(4096, 1)),
                             disk.read_status(0, 4096))
            size = struct.unpack_from('<Q', disk.tunnel(
                rsvd.INITIAL_INFO)[2], 16)[0]
            self.assertEqual(2 * self.size, size)
        last = 2 * self.size - 4096
        self.expect(0, other.write_status(last, lab.pattern(4096, 2)))
        self.assertEqual((0, lab.pattern(4096, 2)),
                         third.read_status(last, 4096))


class Writer(threading.Thread):
    """One write after the other of 4 KiB, each to a place of its own."""

    def __init__(self, disk, offset, length, seed):
        super().__init__(daemon=True)
        self.disk, self.offset, self.length = disk, offset, length
        self.seed, self.stop, self.done = seed, False, []

    def run(self):
        places = self.length // 4096
        try:
            for i in range(places):
                if self.stop:
                    break
                # Now here, now there.
                at = self.offset + i * 61 % places * 4096
                if self.disk.write_status(at, lab.pattern(
                        4096, self.seed + i)) == 0:
                    self.done.append(at)
        except (OSError, smb2.StatusError, struct.error):
            pass


class Deaths(Case):
    size = 16 * MIB

    def covered(self, told, before, after):
        """All that differs is told of."""
        true = {at // KIB64 for at in range(0, self.size, 4096)
                if before[at:at + 4096] != after[at:at + 4096]}
        said = {n for at, length in told
                for n in range(at // KIB64, (at + length - 1) // KIB64 + 1)}
        self.assertLessEqual(true, said)
        return len(said), len(true)

    def test_a_node_dies_at_a_snapshot_with_writes_under_way(self):
        """Frozen at it, so that all stand still, until it is fenced."""
        doomed, other, third = (self.on(node) for node in range(3))
        first = other.snapshot()
        writers = [Writer(self.on(0), 0, self.size // 2, 1),
                   Writer(other, self.size // 2, self.size // 2, 1 << 20)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        ident, transaction = uuid.uuid4(), uuid.uuid4()
        self.expect(0, doomed.meta(rsvd.SNAPSHOT, rsvd.snapshot_data(
            ident, (rsvd.INIT,), 1), transaction))
        for name in ('/lab/fencing', '/lab/fenced'):
            if os.path.exists(name):
                os.unlink(name)
        open('/lab/fencing', 'w').close()
        self.addCleanup(os.unlink, '/lab/fencing')
        self.server.die_at('stop-switch-added')
        doomed.meta_send(rsvd.SNAPSHOT, rsvd.snapshot_data(
            ident, (rsvd.BLOCK, rsvd.SWITCH, rsvd.UNBLOCK, rsvd.FINAL), 0),
            transaction)
        for _ in range(500):
            if self.server.has_died('stop-switch-added'):
                break
            time.sleep(0.01)
        cluster('freeze-node', '0')
        try:
            counts = [len(writer.done) for writer in writers]
            time.sleep(2)
            # Nobody goes on while it might wake up and finish.
            self.assertLessEqual(len(writers[1].done), counts[1] + 1)
            begun = time.monotonic()
            while len(writers[1].done) <= counts[1] + 1:
                self.assertLess(time.monotonic() - begun, 60)
                time.sleep(0.1)
            print('\nothers went on after %.1f s' %
                  (2 + time.monotonic() - begun))
            with open('/lab/fenced') as file:
                self.assertRegex(file.read(), r'^0 \d+\n')
            writers[1].stop = True
            writers[1].join(20)
            self.assertGreater(counts[0], 10)
            # It was added before its node stood still.
            self.assertEqual({first, ident}, set(third.snapshots()))
            last = third.snapshot()
            start, middle, end = (self.content(self.old(2, one))
                                  for one in (first, ident, last))
            for at in writers[0].done:
                self.assertNotEqual(bytes(4096), end[at:at + 4096])
            for limit, target, a, b in ((first, ident, start, middle),
                                        (ident, last, middle, end),
                                        (first, last, start, end)):
                print('told %d regions, changed %d' % self.covered(
                    third.changes(target, limit, self.size), a, b))
        finally:
            cluster('start-node', '0')
        again = self.on(0)
        self.assertEqual({first, ident, last}, set(again.snapshots()))
        self.assertEqual(end, self.content(again))

    def test_a_node_dies_at_a_merge_and_at_apply(self):
        doomed, other = self.on(2), self.on(1)
        idents, then = [], []
        for i in range(3):
            self.expect(0, doomed.write_status(i * MIB, lab.pattern(
                MIB // 2, i)))
            idents.append(doomed.snapshot())
            then.append(self.content(other))
        self.expect(0, other.write_status(5 * MIB, lab.pattern(4096, 9)))
        now = self.content(other)
        try:
            self.server.die_at('stop-merge-renamed')
            self.expect(0, doomed.delete(idents[1]))
            for _ in range(1000):
                if self.server.has_died('stop-merge-renamed'):
                    break
                time.sleep(0.01)
            cluster('kill-node', '2')
            self.assertEqual([idents[0], idents[2]], other.snapshots())
            self.expect(0, other.write_status(6 * MIB, lab.pattern(4096, 8)))
            now = now[:6 * MIB] + lab.pattern(4096, 8) + \
                now[6 * MIB + 4096:]
            # Whoever opens it takes up what is left to do.
            third = self.on(0)
            self.expect(0, third.meta(rsvd.OPTIMIZE, bytes(4)))
            self.assertEqual(3, len([n for n in os.listdir(self.path(''))
                                     if n.endswith('.avhdx')]))
            for node in (0, 1):
                for i in (0, 2):
                    self.assertEqual(then[i], self.content(
                        self.old(node, idents[i])))
            self.assertEqual(now, self.content(third))
            self.assertEqual(now, self.content(other))
            self.expect(0, third.apply(idents[0]))
            self.assertEqual(then[0], self.content(other))
        finally:
            cluster('start-node', '2')
        self.assertEqual(then[0], self.content(self.on(2)))


class Erase(Case):

    def test_a_set_that_is_deleted_goes_with_the_last_of_all_nodes(self):
        first = self.on(0, access=rsvd.ACCESS | smb2.DELETE)
        second = self.on(1)
        data = lab.pattern(MIB, 1)
        self.expect(0, first.write_status(0, data))
        ident = first.snapshot(0)
        self.expect(0, first.extract('x.vhdx', ident, flags=1))
        first.close()
        self.assertEqual((0, data), second.read_status(0, MIB))
        with self.assertRaises(smb2.StatusError) as caught:
            self.on(2)
        self.assertEqual(hex(0xC0000056), hex(caught.exception.status))
        newer = lab.pattern(4096, 2)
        self.expect(0, second.write_status(0, newer))
        self.assertEqual((0, newer), second.read_status(0, 4096))
        second.close()
        self.assertEqual(['disk.vhdx', 'x.vhdx'],
                         sorted(os.listdir(self.path(''))))
        raw = self.path('raw')
        lab.run('hvrs-vhd', 'convert', '--format', 'raw', self.path('x.vhdx'),
                raw)
        self.assertEqual(data, lab.content(raw, 0, MIB))


if __name__ == '__main__':
    unittest.main()
