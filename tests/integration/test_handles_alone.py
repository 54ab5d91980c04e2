"""What happens to handles with no client there, and to processes of smbd that
are stopped: who may have one ended, and who is held up by one."""

import os
import signal
import struct
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, Client, granted
from smb2 import NAME_NOT_FOUND, OK, StatusError


def keepers(server):
    """Pids of the processes that look after a server's handles.  They are no
    children of it."""
    return sorted(lab.who_has(server.directory + '/lock/hvrs_handles.keeper'))


class NoClient(handles.Case):
    def gone_without_a_client(self, way):
        self.assertTrue(os.path.exists(self.directory + '/' + way), way)
        self.assertTrue(lab.until(lambda: not os.path.exists(
            self.directory + '/' + way)), way)

    def no_keeper(self):
        self.assertTrue(lab.until(lambda: keepers(self.server)))
        for pid in keepers(self.server):
            lab.kill(pid)
        self.assertTrue(lab.until(lambda: not keepers(self.server)))

    def test_deleted_when_nobody_comes_back(self):
        ways = self.WAYS if os.environ.get('HVRS_LONG') else (
            'lose_connection', 'kill_all')
        for way in ways:
            client = self.client()
            file = client.open(self.name(way), timeout=1000,
                               options=smb2.DELETE_ON_CLOSE)
            self.assertEqual((1000, 2), granted(file))
            self.lose(way, client)
            self.gone_without_a_client(way)
            client.connect()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))
            client.drop()

    def test_closed_by_an_administrator(self):
        client = self.client()
        file = client.open(self.name(), sharing=0)
        self.lose('lose_connection', client)
        folder = self.server.directory + '/state/hvrs/close'
        os.makedirs(folder, 0o700, exist_ok=True)
        name = '%s/%016x' % (folder, struct.unpack('<Q', file.id[:8])[0])
        open(name, 'w').close()
        self.assertTrue(lab.until(lambda: not os.path.exists(name)))
        client.connect()
        self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))

    def test_one_keeper_that_ends_with_smbd(self):
        for _ in range(3):
            self.client().open(self.name()).close()
        (pid,) = keepers(self.server)
        self.assertNotIn(pid, self.server.children())
        # Another takes its place with the next client.
        self.no_keeper()
        self.client().open(self.name()).close()
        (pid,) = keepers(self.server)
        self.server.process.terminate()
        self.server.process.wait(20)
        self.assertTrue(lab.until(lambda: not lab.is_running(pid), 5))
        self.server.start()
        self.client()
        (pid,) = keepers(self.server)
        self.server.kill()
        self.assertTrue(lab.until(lambda: not lab.is_running(pid), 5))
        self.server.start()

    def test_lost_connection_is_seen(self):
        """The keeper holds nothing of a client's."""
        self.no_keeper()
        client = self.client()
        self.assertEqual(1, len(keepers(self.server)))
        pid = handles.child_of(self.server, client.tree)
        lab.kill(pid)
        client.tree.connection.socket.settimeout(5)
        with self.assertRaises(ConnectionError):
            client.tree.connection.receive()


class Stopped(handles.Case):
    def stop(self, client):
        pid = handles.child_of(self.server, client.tree)
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(lab.kill, pid)
        while lab.state(pid) != 'T':
            time.sleep(0.001)
        return pid

    def test_a_stranger_has_no_process_ended(self):
        """One who knows a client's GUID, and even its session."""
        client = self.client()
        file = client.open(self.name(), R | H | W, sharing=0)
        pid = self.stop(client)
        # No more than NEGOTIATE.
        smb2.Connection(self.server.port, guid=client.guid).close()
        connection = smb2.Connection(self.server.port, guid=client.guid)
        self.addCleanup(connection.close)
        with self.assertRaises(StatusError):
            smb2.Session(connection, 'hvrs', 'wrong', client.previous)
        other = self.client(user='other', guid=client.guid)
        self.assertEqual(NAME_NOT_FOUND, other.reconnect_status(file))
        self.assertEqual('T', lab.state(pid))
        os.kill(pid, signal.SIGCONT)
        # Its client notices nothing.
        file.write(0, b'data')
        self.assertEqual(OK, file.lock(0, 1))
        self.assertEqual(b'data', file.read(0, 4))
        file.close()

    def test_its_own_client_has(self):
        client = self.client()
        file = client.open(self.name(), R | H | W, sharing=0)
        pid = self.stop(client)
        old = client.tree.connection
        begun = time.monotonic()
        client.connect()
        self.addCleanup(old.close)
        file = client.reconnect(file)
        self.assertLess(time.monotonic() - begun, 3)
        self.assertFalse(lab.is_running(pid))
        file.close()

    def test_who_notes_that_it_waits_comes_too_late(self):
        """Between a look at a handle and the note that it waits since now its
        owner gets it back: it waits no more."""
        client, other = self.client(), self.client()
        file = client.open(self.name('a'))
        stop = '%s/die/stop-over' % self.server.directory
        open(stop, 'w').close()
        self.kill_child(client)
        mid = other.tree.create_send(self.name('a'))

        def stopped():
            return [pid for pid in self.server.children() +
                    keepers(self.server) if lab.state(pid) == 'T']
        self.assertTrue(lab.until(stopped))
        (pid,) = stopped()
        client.connect()
        file = client.reconnect(file)
        self.assertEqual(OK, file.lock(3, 4, sequence=0x11))
        os.kill(pid, signal.SIGCONT)
        other.tree.connection.wait(mid)
        self.assertEqual(OK, self.stranger('vmraw', self.name('a')))
        # And what it has got since is kept.
        self.kill_all(client)
        client.connect()
        file = client.reconnect(file)
        beside = Client(self.server, 'vmraw')
        self.addCleanup(beside.drop)
        self.assertEqual(smb2.LOCK_NOT_GRANTED, beside.tree.create(
            self.name('a')).lock(4, 1))

    def test_process_that_has_the_index_locked(self):
        """It is ended by the others, after a while."""
        client, other = self.client(), self.client()
        file = client.open(self.name('a'), sharing=0)
        stop = '%s/die/stop-append' % self.server.directory
        open(stop, 'w').close()
        pid = handles.child_of(self.server, client.tree)
        client.tree.create_send(self.name('b'), contexts=[
            handles.dh2q(uuid.uuid4().bytes)])
        self.assertTrue(lab.until(lambda: lab.state(pid) == 'T'))
        begun = time.monotonic()
        self.assertEqual((60000, 2), granted(other.open(self.name('c'))))
        self.assertLess(time.monotonic() - begun, 8)
        # It lets go of the lock a moment before it is gone.
        self.assertTrue(lab.until(lambda: not lab.is_running(pid)))
        client.drop()
        client.connect()
        client.reconnect(file).close()
        self.assertEqual(1, len(self.server.lines('keeps all others')))


if __name__ == '__main__':
    unittest.main()
