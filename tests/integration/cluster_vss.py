"""Remote VSS on a cluster whose file system is coherent; see cluster.py."""

import glob
import json
import os
import shutil
import struct
import subprocess
import threading
import time
import unittest

import fsrvp
import smb2
from cluster import ADDRESS, cluster, on
from fsrvp import OK, unc

DIRECTORY = '/srv/shared/vss'
CLUSTER = 'HVRS-CLUSTER'
CONTEXT = 0x00400000
FILES = 12
PAGES = 50
EXTENTS = 1000


class Node:
    """What a client of remote VSS takes for a server."""

    port = 445

    def __init__(self, node):
        self.address = ADDRESS[node]


class Vss(unittest.TestCase):
    def setUp(self):
        self.remove()
        os.mkdir(DIRECTORY)
        self.addCleanup(self.remove)
        shutil.chown(DIRECTORY, 'hvrs', 'hvrs')
        self.clients = {}

    @staticmethod
    def remove():
        shutil.rmtree(DIRECTORY, ignore_errors=True)

    def client(self, node):
        if node not in self.clients:
            self.clients[node] = fsrvp.PipeClient(Node(node))
            self.addCleanup(self.clients[node].close)
        return self.clients[node]

    def tree(self, node, share='vss'):
        connection = smb2.Connection(445, ADDRESS[node])
        self.addCleanup(connection.close)
        return smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), share)

    def expect(self, wanted, got):
        self.assertEqual('0x%08x' % wanted, '0x%08x' % got)

    def sets(self, node):
        return json.loads(on(node, 'hvrsctl', 'snapshots', '--json'))['sets']

    def snapshots(self):
        return sorted(os.path.basename(path) for path in
                      glob.glob(DIRECTORY + '/.snapshots/*'))

    def nothing_is_left(self):
        self.assertEqual([], self.snapshots())
        for node in range(3):
            self.assertEqual([], self.sets(node))
            self.assertNotIn('vss@{', on(node, 'net', 'conf', 'listshares'))

    def begin(self, node):
        self.expect(OK, self.client(node).set_context(CONTEXT))
        result, set_id = self.client(node).start()
        self.expect(OK, result)
        result, copy = self.client((node + 1) % 3).add(set_id, unc(
            'vss', CLUSTER))
        self.expect(OK, result)
        return set_id, copy

    def take(self, node):
        """Each step by another node."""
        set_id, copy = self.begin(node)
        self.expect(OK, self.client((node + 2) % 3).prepare(set_id))
        self.expect(OK, self.client(node).commit(set_id))
        return set_id, copy

    def test_every_step_by_another_node(self):
        file = self.tree(0).create('disk.vhdx')
        file.write(0, b'old' * 1000)
        set_id, copy = self.take(0)
        file.write(0, b'new' * 1000)
        self.expect(OK, self.client(1).expose(set_id))
        result, found = self.client(2).mapping(copy, set_id,
                                               unc('vss', CLUSTER))
        self.expect(OK, result)
        for node in range(3):
            old = self.tree(node, found['exposed']).create(
                'disk.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
            self.assertEqual(b'old' * 1000, old.read(0, 3000))
            self.assertEqual('RECOVERED' if node else 'EXPOSED',
                             self.status(node).upper().replace(
                                 'EXPOSED, ', ''))
            if node == 0:
                self.expect(OK, self.client(1).recovery_complete(set_id))
            old.close()
        self.assertEqual(b'new' * 1000, file.read(0, 3000))
        self.expect(OK, self.client(0).delete(set_id, copy,
                                              unc('vss', CLUSTER)))
        self.nothing_is_left()

    def status(self, node):
        (one,) = self.sets(node)
        return one['status']

    # ---- one point in time for all nodes

    @staticmethod
    def make_files():
        """Behind the pages for stamps so much that a clone takes long."""
        for i in range(FILES):
            path = '%s/f%02d.vhdx' % (DIRECTORY, i)
            with open(path, 'wb') as out:
                for k in range(EXTENTS):
                    out.seek((PAGES + 1 + 2 * k) * 4096)
                    out.write(b'x' * 4096)
            shutil.chown(path, 'hvrs', 'hvrs')

    def write(self, done, stop):
        """Stamps all files in turn, each time by another node, after the
        answer to the one before."""
        trees = [self.tree(node) for node in range(3)]
        handles = [[tree.create('f%02d.vhdx' % i) for i in range(FILES)]
                   for tree in trees]
        stamp = 0
        while not stop:
            # In another order than that of the clones, which take a file's
            # lock: else the writer just walks behind them.
            handles[stamp % 7 % 3][stamp * 5 % FILES].write(
                (stamp // FILES % PAGES) * 4096,
                struct.pack('<Q', stamp + 1) * 512)
            stamp += 1
            done[0] = stamp

    def judge(self, before, after):
        (name,) = self.snapshots()
        found = set()
        for i in range(FILES):
            with open('%s/.snapshots/%s/f%02d.vhdx' % (DIRECTORY, name, i),
                      'rb') as file:
                data = file.read(PAGES * 4096)
            for at in range(0, len(data), 4096):
                page = set(struct.unpack('<512Q', data[at:at + 4096]))
                self.assertEqual(1, len(page))
                found |= page
        last = max(found)
        self.assertGreaterEqual(last, before)
        self.assertLessEqual(last, after + 1)
        # All of the last ones: of these none has been written over.
        self.assertEqual([], [stamp for stamp in range(
            max(1, last - 10 * FILES), last + 1) if stamp not in found])

    def test_writers_of_all_nodes_wait(self):
        self.make_files()
        done, stop = [0], []
        writer = threading.Thread(target=self.write, args=(done, stop))
        writer.start()
        try:
            while done[0] < 3 * FILES:
                time.sleep(0.01)
            for turn in range(6):
                before = done[0]
                set_id, _ = self.begin(turn % 3)
                self.expect(OK, self.client(turn % 3).commit(set_id))
                self.judge(before, done[0])
                self.expect(OK, self.client((turn + 1) % 3).abort(set_id))
        finally:
            stop.append(True)
            writer.join()
        self.nothing_is_left()

    def begin_long(self, node, files):
        """A commit that takes long, on its way."""
        for i in range(files):
            with open('%s/g%d' % (DIRECTORY, i), 'wb') as out:
                out.write(b'x' * 5000)
        set_id, _ = self.begin(node)
        return set_id, self.client(node).start_call(
            4, set_id.bytes_le + struct.pack('<I', 60000))

    # ---- a node that goes

    def test_a_node_goes_while_it_takes_one(self):
        """The next node finds half of it, and begins again."""
        set_id, mid = self.begin_long(2, 3000)
        end = time.monotonic() + 20
        while not self.snapshots():
            self.assertLess(time.monotonic(), end)
        cluster('kill-node', '2')
        try:
            self.expect(OK, self.client(0).commit(set_id))
            self.assertEqual(1, len(self.snapshots()))
            (name,) = self.snapshots()
            self.assertEqual(3000, len(glob.glob(
                '%s/.snapshots/%s/g*' % (DIRECTORY, name))))
            self.expect(OK, self.client(1).abort(set_id))
            self.assertEqual([], self.snapshots())
            # Nobody waits for a freeze of the dead.
            self.tree(1).create('after.vhdx').write(0, b'x')
        finally:
            self.assertTrue(mid)
            cluster('start-node', '2')
            self.clients.pop(2).close()
        self.nothing_is_left()

    def test_two_nodes_do_not_take_the_same(self):
        set_id, mid = self.begin_long(0, 2000)
        while not self.snapshots():
            time.sleep(0.001)
        # As long as it is being taken, and then as one that is there.
        result = self.client(1).commit(set_id)
        self.assertIn(hex(result), (hex(fsrvp.IN_PROGRESS),
                                    hex(fsrvp.BAD_STATE)))
        self.assertEqual(bytes(4), self.client(0).end_call(mid)[-4:])
        self.assertEqual(1, len(self.snapshots()))
        self.expect(fsrvp.BAD_STATE, self.client(1).commit(set_id))
        self.expect(OK, self.client(1).abort(set_id))
        self.nothing_is_left()

    def test_not_where_nobody_says_that_it_is_coherent(self):
        self.expect(OK, self.client(0).set_context(CONTEXT))
        result, set_id = self.client(0).start()
        self.expect(OK, result)
        self.expect(fsrvp.NOT_SUPPORTED, self.client(0).add(
            set_id, unc('all', CLUSTER))[0])
        self.expect(OK, self.client(0).abort(set_id))


if __name__ == '__main__':
    unittest.main()
