"""Persistent and resilient handles go from node to node, and nobody gets in
through any of them meanwhile."""

import fcntl
import json
import os
import re
import shutil
import struct
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, granted, lease_state
from nodes import ADDRESS, SHARED, cluster, on
from smb2 import (FILE_LOCK_CONFLICT, FILE_NOT_AVAILABLE, LOCK_NOT_GRANTED,
                  NAME_NOT_FOUND, OK, SHARING_VIOLATION, StatusError)

RESILIENCY = 0x001401D4
FOLDER = SHARED + '/vm'
PLACES = 4096		# the lock's byte in the file of the nodes


class Client(handles.Client):
    """A client that can go to another node."""

    def __init__(self, node, share='coherent', user='hvrs', guid=None, timeout=60):
        self.node, self.timeout = node, timeout
        super().__init__(None, share, user, guid)

    def connect(self):
        connection = smb2.Connection(445, ADDRESS[self.node],
                                     self.timeout, guid=self.guid)
        session = smb2.Session(connection, self.user, self.user,
                               self.previous)
        self.previous = session.id
        self.tree = smb2.Tree(session, self.share)

    def go(self, node):
        self.drop()
        self.node = node
        self.connect()


def come_back(client, file, node, seconds=60):
    """As a client does: again while the file is not available."""
    end = time.monotonic() + seconds
    while True:
        try:
            client.go(node)
            return client.reconnect(file)
        except (OSError, StatusError) as error:
            status = getattr(error, 'status', None)
            if time.monotonic() > end or status not in (
                    None, FILE_NOT_AVAILABLE):
                raise
            time.sleep(0.2)


def restart(node):
    """smbd of a node, in good order."""
    on(node, 'sh', '-c', 'kill $(cat /run/samba/smbd.pid); '
       'while pgrep -x smbd >/dev/null; do sleep 0.05; done; smbd --daemon; '
       'until (exec 3<>/dev/tcp/127.0.0.1/445) 2>/dev/null; '
       'do sleep 0.1; done'.replace('(exec', '(bash -c "exec').replace(
           '/445)', '/445")'))


def follower():
    """A node that is not CTDB's leader: that one, standing still or cut off,
    keeps the cluster's lock here, where all share one kernel."""
    leader = on(1, 'ctdb', 'leader').strip()
    return next(n for n in (0, 2) if str(n) != leader)


@unittest.skipIf(lab.SERIES < (4, 22), 'no handles on a cluster of it')
class Case(unittest.TestCase):

    def setUp(self):
        self.folder = 'h-%s' % uuid.uuid4().hex[:8]
        os.mkdir(FOLDER + '/' + self.folder)
        shutil.chown(FOLDER + '/' + self.folder, 'hvrs', 'hvrs')
        # It stays: the next test's file would get the inode of one whose
        # handle still waits, and what smbd remembers of that with it.

    def name(self, name='disk.vhdx'):
        return '%s/%s' % (self.folder, name)

    def content(self, name, offset, length):
        with open('%s/%s' % (FOLDER, name), 'rb') as file:
            return os.pread(file.fileno(), length, offset)

    def client(self, node, share='coherent', **how):
        client = Client(node, share, **how)
        self.addCleanup(client.drop)
        return client

    def stranger(self, node, share='coherent', name=None, **how):
        return handles.open_status(Client(node, share), name or self.name(),
                                   **how)


class Handles(Case):

    def owned(self, node, **how):
        client = self.client(node)
        file = client.open(self.name(), R | H | W, sharing=0, **how)
        self.assertEqual(2, granted(file)[1])
        self.assertEqual(R | H | W, lease_state(file))
        file.write(4096, b'old ' * 1000)
        self.assertEqual(OK, file.lock(10, 20))
        return client, file

    def check_back(self, again):
        self.assertEqual(b'old ' * 1000, again.read(4096, 4000))
        again.write(4096, b'new ' * 1000)
        self.assertEqual(b'new ' * 1000,
                         self.content(again.name, 4096, 4000))
        self.assertEqual(R | H | W, lease_state(again))
        self.assertEqual(OK, again.lock(10, 20, unlock=True))
        self.assertEqual(smb2.RANGE_NOT_LOCKED,
                         again.lock(10, 20, unlock=True))

    def test_granted_on_each_node(self):
        for node in range(3):
            client = self.client(node)
            self.assertEqual(0x10, client.tree.capabilities & 0x10)
            file = client.open(self.name('n%d' % node), R | H | W)
            self.assertEqual((60000, 2), granted(file))
            self.assertEqual(OK, file.close())

    def test_lost_connection(self):
        client, file = self.owned(0)
        client.drop()
        self.wait_for_waiting(self.name())
        for node in range(3):
            for share in ('coherent', 'vm', 'vmraw'):
                self.assertEqual(FILE_NOT_AVAILABLE,
                                 self.stranger(node, share), (node, share))
        again = come_back(client, file, 1)
        self.check_back(again)
        self.assertEqual(OK, again.close())
        for node in range(3):
            self.assertEqual(OK, self.stranger(node))

    def test_a_node_dies(self):
        """Its client goes to another, and strangers wait for it."""
        client, file = self.owned(0)
        beside = self.client(1)
        other = self.client(1).open(self.name('shared'), None)
        shared = client.open(self.name('shared'), None)
        self.assertEqual(OK, shared.lock(100, 10))
        cluster('kill-node', '0')
        try:
            for node in (1, 2):
                for share in ('coherent', 'vm', 'vmraw'):
                    self.assertEqual(FILE_NOT_AVAILABLE,
                                     self.stranger(node, share), (node, share))
            self.assertEqual(LOCK_NOT_GRANTED, other.lock(105, 1))
            with self.assertRaises(StatusError) as caught:
                other.write(100, b'x')
            self.assertEqual(FILE_LOCK_CONFLICT, caught.exception.status)
            again = come_back(client, file, 1)
            self.check_back(again)
            shared = client.reconnect(shared)
            self.assertEqual(LOCK_NOT_GRANTED, other.lock(105, 1))
            self.assertEqual(OK, shared.lock(100, 10, unlock=True))
            self.assertEqual(OK, other.lock(105, 1))
        finally:
            cluster('start-node', '0')
        # It knows by now who has it, and takes it back.
        again = come_back(client, again, 0)
        again.write(0, b'third')
        self.assertEqual(b'third', again.read(0, 5))
        self.assertEqual(OK, again.close())
        for node in range(3):
            self.assertEqual(OK, self.stranger(node))

    def test_its_connection_is_there_yet(self):
        """The client is on another node before the first one knows that it
        has lost it: that lets go, and the client is never told that its
        handle is gone."""
        for node in (1, 2, 0):
            client, file = self.owned((node + 2) % 3)
            early = self.client(node, guid=client.guid)
            end = time.monotonic() + 10
            status = FILE_NOT_AVAILABLE
            while status == FILE_NOT_AVAILABLE and time.monotonic() < end:
                status = early.reconnect_status(file)
            self.assertEqual(OK, status)
            with self.assertRaises(OSError):
                client.tree.connection.socket.settimeout(10)
                file.read(0, 10)
            again = come_back(early, file, node)
            self.check_back(again)
            self.assertEqual(OK, again.close())

    def test_an_orderly_restart(self):
        client, file = self.owned(0)
        restart(0)
        self.assertEqual(FILE_NOT_AVAILABLE, self.stranger(2, 'vmraw'))
        again = come_back(client, file, 0)
        self.check_back(again)
        restart(0)
        again = come_back(client, again, 1)
        self.assertEqual(b'new ' * 1000, again.read(4096, 4000))
        self.assertEqual(OK, again.close())

    def test_nobody_comes_back(self):
        """Not the client, and of one of them not the node either."""
        client, file = self.owned(1, timeout=6000)
        doomed = self.client(0)
        gone = doomed.open(self.name('gone'), R | H | W, timeout=6000,
                           options=smb2.DELETE_ON_CLOSE)
        self.assertEqual((6000, 2), granted(gone))
        client.drop()
        cluster('kill-node', '0')
        try:
            for name in (self.name(), gone.name):
                self.assertEqual(FILE_NOT_AVAILABLE,
                                 self.stranger(2, 'vmraw', name))
            # Nobody asks; the keepers do it.
            path = FOLDER + '/' + gone.name
            end = time.monotonic() + 30
            while os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.2)
            self.assertFalse(os.path.exists(path))
            self.assertEqual(OK, self.stranger(2))
            self.assertEqual([], self.listed(2))
            client.go(2)
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))
        finally:
            cluster('start-node', '0')
        # It does not bring back what it knew.
        self.assertEqual([], self.listed(0))
        self.assertEqual(OK, self.stranger(0))

    def wait_for_waiting(self, name):
        """Until the node of a lost connection has noticed."""
        for _ in range(200):
            if any(one['file'] == name and one['state'] == 'waiting'
                   for one in json.loads(on(2, 'hvrsctl', 'handles',
                                            '--json'))):
                return
            time.sleep(0.05)
        self.fail('the handle does not wait')

    def listed(self, node):
        """Names of the handles that hvrsctl shows there, of this test."""
        return sorted(one['file'] for one in json.loads(
            on(node, 'hvrsctl', 'handles', '--json'))
            if one['file'].startswith(self.folder))

    # ---- CTDB goes on with an older copy --------------------------------------

    def key(self):
        """Of the record of the file's locks."""
        st = os.stat('%s/%s' % (FOLDER, self.name()))
        return struct.pack('<QQQ', st.st_dev, st.st_ino, 0)

    def locks(self):
        found = []
        for line in on(2, 'ctdb', 'catdb', 'brlock.tdb').split('\n'):
            if line.startswith(('key(', 'data(')):
                text = line[line.index('"') + 1:-1]
                found.append(bytes(
                    int(c[1:], 16) if len(c) == 3 else ord(c)
                    for c in re.findall(r'\\..|.', text)))
        return dict(zip(found[::2], found[1::2])).get(self.key(), b'')

    def put_back(self, locks):
        on(2, 'ctdb', 'writekey', 'brlock.tdb', '0x' + self.key().hex(),
           '0x' + locks.hex())

    def test_its_newest_lock_is_lost(self):
        client, file = self.owned(0)
        before = self.locks()
        self.assertEqual(OK, file.lock(100, 10))
        both = self.locks()
        self.assertGreater(len(both), len(before))
        self.put_back(before)
        # Right away, and when there was time to see it.
        self.assertEqual(OK, file.lock(100, 10, unlock=True))
        self.assertEqual(OK, file.lock(100, 10))
        self.put_back(before)
        for _ in range(100):
            if len(self.locks()) > len(before):
                break
            time.sleep(0.1)
        self.assertEqual(len(both), len(self.locks()))
        self.check_back(file)
        again = come_back(client, file, 1)
        self.assertEqual(OK, again.lock(100, 10, unlock=True))
        self.assertEqual(OK, again.close())

    def test_the_entries_of_an_open_are_lost(self):
        """Of one that is closed, and of one whose file goes with it."""
        for how in ({}, {'options': smb2.DELETE_ON_CLOSE}):
            client, file = self.owned(0, **how)
            on(2, 'ctdb', 'deletekey', 'locking.tdb', '0x' + self.key().hex())
            self.assertEqual(OK, file.close())
            self.assertEqual([], self.listed(0))
            path = '%s/%s' % (FOLDER, self.name())
            self.assertEqual(not how, os.path.exists(path))
            if not how:
                self.assertEqual(OK, self.stranger(1))

    def test_they_are_lost_in_the_middle_of_a_close(self):
        """When it has been seen that they are there."""
        for how in ({}, {'options': smb2.DELETE_ON_CLOSE}):
            client, file = self.owned(0, **how)
            sent = self.stop_at('close', lambda: client.tree.send(
                smb2.CLOSE, struct.pack('<HHI', 24, 0, 0) + file.id))
            on(2, 'ctdb', 'deletekey', 'locking.tdb', '0x' + self.key().hex())
            on(0, 'pkill', '-CONT', 'smbd')
            self.assertEqual(OK, client.tree.connection.wait(sent).status)
            self.assertEqual([], self.listed(0))
            path = '%s/%s' % (FOLDER, self.name())
            self.assertEqual(not how, os.path.exists(path))
            if not how:
                # Its lock and lease are nobody's.
                self.assertEqual(b'', self.locks())
                other = self.client(1).open(self.name(), R | H | W)
                self.assertEqual(R | H | W, lease_state(other))
                self.assertEqual(OK, other.close())

    def test_a_lock_that_it_gave_up_is_back(self):
        client, file = self.owned(0)
        self.assertEqual(OK, file.lock(100, 10))
        before = self.locks()
        self.assertEqual(OK, file.lock(100, 10, unlock=True))
        self.put_back(before)
        self.assertEqual(smb2.RANGE_NOT_LOCKED,
                         file.lock(100, 10, unlock=True))
        self.put_back(before)
        self.assertEqual(OK, file.lock(100, 10))
        self.assertEqual(OK, file.lock(100, 10, unlock=True))
        self.put_back(before)
        again = come_back(client, file, 1)
        self.assertEqual(smb2.RANGE_NOT_LOCKED,
                         again.lock(100, 10, unlock=True))
        self.check_back(again)
        self.assertEqual(OK, again.close())

    # ---- a process in the middle ----------------------------------------------

    def stop_at(self, step, what):
        """Does something, until smbd is stopped at a step (samba/step.h)."""
        path = '/lab/die/stop-' + step
        open(path, 'w').close()
        sent = what()
        end = time.monotonic() + 20
        while os.path.exists(path):
            if time.monotonic() > end:
                os.unlink(path)
                self.fail('nobody came by ' + step)
            time.sleep(0.01)
        time.sleep(0.1)
        return sent

    def test_a_node_freezes_with_a_handle_half_back(self):
        """Another node does not know how that ends; the client is not told
        that its handle is lost."""
        node = follower()
        client, file = self.owned(1)
        client.drop()
        self.wait_for_waiting(self.name())
        first = self.client(node, guid=client.guid)
        self.stop_at('claimed', lambda: first.reconnect_send(file))
        cluster('freeze-node', str(node))
        try:
            seen = []
            client.timeout = 5
            end = time.monotonic() + 30
            while len(seen) < 3 and time.monotonic() < end:
                try:
                    client.go(1)
                    seen.append(client.reconnect_status(file))
                except OSError:
                    pass
                time.sleep(0.5)
            self.assertEqual([FILE_NOT_AVAILABLE] * 3, seen)
        finally:
            cluster('thaw-node', str(node))
        client.timeout = 60
        again = come_back(client, file, 1)
        self.check_back(again)
        self.assertEqual(OK, again.close())

    def test_a_start_while_the_nodes_are_busy(self):
        """With the lock under which handles go from node to node."""
        with open(SHARED + '/.hvrs/nodes', 'r+b') as nodes:
            fcntl.lockf(nodes, fcntl.LOCK_EX, 1, PLACES)
            restart(0)
            client = self.client(0)
            file = client.open(self.name(), R | H | W)
            self.assertEqual((60000, 2), granted(file))
            self.assertEqual(OK, file.close())

    # ---- who may write yet ---------------------------------------------------

    def test_a_frozen_node(self):
        """It may wake up at any time, so nobody gets what it has; when it
        does, it gives up."""
        node = follower()
        client, file = self.owned(node)
        zombie = client.tree.connection
        cluster('freeze-node', str(node))
        # Two writes that it will find when it wakes.
        client.timeout = 20
        file.write_send(4096, b'zombie')
        end = time.monotonic() + 12
        try:
            while time.monotonic() < end:
                status = self.stranger(1, 'vmraw')
                self.assertIn(status, (FILE_NOT_AVAILABLE,
                                       SHARING_VIOLATION))
                time.sleep(1)
            self.assertEqual(FILE_NOT_AVAILABLE, status)
        finally:
            cluster('thaw-node', str(node))
        again = come_back(client, file, 1)
        content = again.read(4096, 4000)
        self.assertEqual(b'old ' * 1000, content)
        again.write(4096, b'new ' * 1000)
        time.sleep(2)
        self.assertEqual(b'new ' * 1000, again.read(4096, 4000))
        self.check_back_lock(again)
        zombie.close()
        self.assertEqual(OK, again.close())

    def check_back_lock(self, again):
        self.assertEqual(OK, again.lock(10, 20, unlock=True))

    def test_a_node_is_cut_off(self):
        """It goes on until it is given up; then another has its handles."""
        node = follower()
        client, file = self.owned(node)
        cluster('cut-node', str(node))
        try:
            self.assertIn(self.stranger(1, 'vmraw'), (FILE_NOT_AVAILABLE,
                                                      SHARING_VIOLATION))
            again = come_back(client, file, 1)
            self.check_back(again)
        finally:
            cluster('join-node', str(node))
        self.assertEqual(b'new ' * 1000, again.read(4096, 4000))
        again = come_back(client, again, node)
        self.assertEqual(b'new ' * 1000, again.read(4096, 4000))
        self.assertEqual(OK, again.close())


if __name__ == '__main__':
    unittest.main()
