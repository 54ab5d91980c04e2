"""Processes of smbd that should be gone and have writes in flight: stopped,
killed, or about to end.  What the client writes when it is back stays."""

import os
import random
import signal
import struct
import threading
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, Client, granted, lease_state
from smb2 import (FILE_NOT_AVAILABLE, LOCK_NOT_GRANTED, NAME_NOT_FOUND, OK,
                  StatusError)

PART = 256 << 10
PARTS = 16


def in_kernel(pid):
    """How many threads of a process wait where no signal reaches them."""
    count = 0
    for path in lab.glob.glob('/proc/%d/task/*/stat' % pid):
        try:
            with open(path) as stat:
                count += stat.read().rsplit(')', 1)[1].split()[0] == 'D'
        except OSError:
            pass
    return count


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Zombie(unittest.TestCase):
    def setUp(self):
        self.disk = lab.LoopDisk('xfs')
        self.addCleanup(self.disk.remove)
        self.server = lab.Server(
            {'vm': (self.disk.share, ['vfs objects = hvrs']),
             'vmraw': (self.disk.share, [])})
        self.addCleanup(self.server.stop)
        self.addCleanup(self.disk.thaw)
        self.stopped = []
        self.addCleanup(self.go_on)

    def client(self, share='vm'):
        client = Client(self.server, share)
        self.addCleanup(lambda: client.drop())
        return client

    def go_on(self):
        for pid in self.stopped:
            send(pid, signal.SIGCONT)

    def stop(self, client):
        pid = handles.child_of(self.server, client.tree)
        send(pid, signal.SIGSTOP)
        self.stopped.append(pid)
        return pid

    def back(self, client, file, seconds=20):
        """As a client does that is told to come again."""
        until = time.monotonic() + seconds
        while True:
            try:
                return client.reconnect(file)
            except StatusError as error:
                if error.status != FILE_NOT_AVAILABLE or \
                        time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def writes(self, file, number):
        for i in range(PARTS):
            file.write_send(i * PART, lab.pattern(PART, number))

    def writes_in_kernel(self, file, number, pid):
        """Of a frozen disk: smbd is at them, and they do not end."""
        self.writes(file, number)
        for _ in range(400):
            if in_kernel(pid) > 1:
                return
            time.sleep(0.01)
        self.fail('no write has reached the kernel')

    def expect(self, name, number):
        data = lab.content('%s/%s' % (self.disk.share, name), 0,
                           PARTS * PART)
        want = lab.pattern(PART, number)
        for i in range(PARTS):
            self.assertTrue(data[i * PART:(i + 1) * PART] == want,
                            'part %d is not the newest' % i)

    def lose(self, way, client):
        """Returns the pid of the process that has the writes."""
        pid = handles.child_of(self.server, client.tree)
        if way == 'stopped':
            self.stop(client)
        elif way == 'killed':
            send(pid, signal.SIGKILL)
        elif way == 'lost':
            client.drop()
        return pid

    def test_writes_in_the_kernel(self):
        """Begun before the end, they are done after it, however late."""
        for way in ('stopped', 'killed', 'lost'):
            client = self.client()
            file = client.open(way, R | H | W, sharing=0)
            file.write(0, bytes(PARTS * PART))
            self.assertEqual(OK, file.lock(1 << 40, 1))
            pid = handles.child_of(self.server, client.tree)
            self.disk.freeze()
            try:
                self.writes_in_kernel(file, 1, pid)
                self.lose(way, client)
                old, done = client.tree.connection, []

                def come():
                    client.connect()
                    again = self.back(client, file)
                    done.append(again)
                    for i in range(PARTS):
                        again.write(i * PART, lab.pattern(PART, 2))
                thread = threading.Thread(target=come)
                thread.start()
                time.sleep(1)
                self.assertEqual([], done, way)
            finally:
                self.disk.thaw()
            thread.join(30)
            old.close()
            self.assertEqual(1, len(done), way)
            self.expect(way, 2)
            send(pid, signal.SIGCONT)
            time.sleep(0.2)
            self.expect(way, 2)
            again = done[0]
            self.assertEqual(R | H | W, lease_state(again), way)
            self.assertEqual(OK, again.lock(1 << 40, 1, unlock=True), way)
            self.assertEqual(OK, again.close(), way)
            # The process of a lost connection may have got the new one; that
            # of Samba 4.17 is at an end with its writes.
            self.assertEqual(way == 'lost' and lab.SERIES >= (4, 22),
                             lab.is_running(pid), way)
            client.drop()

    def test_writes_in_threads(self):
        """At any moment: waiting for a thread, in one, or done."""
        client = self.client()
        file = client.open('any', R | H | W, sharing=0)
        for i in range(24):
            way = ('stopped', 'killed', 'lost', 'stands')[i % 4]
            old = client.tree
            self.writes(file, 2 * i)
            time.sleep(random.random() * 0.02)
            pid = self.lose(way, client)
            client.connect()
            self.addCleanup(old.connection.close)
            file = self.back(client, file)
            self.assertEqual(R | H | W, lease_state(file), way)
            for part in range(PARTS):
                file.write(part * PART, lab.pattern(PART, 2 * i + 1))
            if way == 'stopped':
                send(pid, signal.SIGCONT)
            time.sleep(0.05)
            self.expect('any', 2 * i + 1)
        time.sleep(0.5)
        self.expect('any', 2 * i + 1)
        self.assertEqual([], self.server.lines('INTERNAL ERROR|PANIC'))

    def test_two(self):
        """A machine moves from A to B and to C, and both hosts hang."""
        app = uuid.uuid4().bytes
        pids, old = [], []
        for number in (1, 2, 3):
            client = self.client()
            file = client.open('moves', R | H | W, sharing=0,
                               more=[handles.app_instance(app)])
            self.assertEqual((60000, 2), granted(file))
            self.assertEqual(OK, file.lock(0, 1 << 30))
            if number < 3:
                self.writes(file, number)
                pids.append(self.stop(client))
                old.append((client, file))
        for i in range(PARTS):
            file.write(i * PART, lab.pattern(PART, 3))
        for pid in pids:
            send(pid, signal.SIGCONT)
        time.sleep(0.3)
        self.expect('moves', 3)
        for client, gone in old:
            client.connect()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(gone))
        self.expect('moves', 3)
        self.assertEqual(OK, file.lock(0, 1 << 30, unlock=True))

    def test_moves_while_writes_are_in_the_kernel(self):
        """Nobody takes over before they are done."""
        app = handles.app_instance(uuid.uuid4().bytes)
        a, b = self.client(), self.client()
        file = a.open('moves', R | H | W, sharing=0, more=[app])
        file.write(0, bytes(PARTS * PART))
        pid = handles.child_of(self.server, a.tree)
        self.disk.freeze()
        try:
            self.writes_in_kernel(file, 1, pid)
            self.stop(a)
            with self.assertRaises(StatusError) as caught:
                b.open('moves', R | H | W, sharing=0, more=[app])
            self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
        finally:
            self.disk.thaw()
        for _ in range(100):
            try:
                moved = b.open('moves', R | H | W, sharing=0, more=[app])
                break
            except StatusError as error:
                self.assertEqual(FILE_NOT_AVAILABLE, error.status)
                time.sleep(0.05)
        for i in range(PARTS):
            moved.write(i * PART, lab.pattern(PART, 2))
        send(pid, signal.SIGCONT)
        time.sleep(0.2)
        self.expect('moves', 2)

    def test_moves_from_a_host_that_lives(self):
        """Its writes are under way: they are waited for, nobody panics, and
        who moves goes on with other things meanwhile."""
        for _ in range(3):
            app = handles.app_instance(uuid.uuid4().bytes)
            a, b = self.client(), self.client()
            file = a.open('lives', R | H | W, sharing=0, more=[app])
            file.write(0, bytes(PARTS * PART))
            pid = handles.child_of(self.server, a.tree)
            self.disk.freeze()
            try:
                self.writes_in_kernel(file, 1, pid)
                mid = b.tree.create_send('lives', contexts=[
                    handles.dh2q(uuid.uuid4().bytes), app], sharing=0)
                begun = time.monotonic()
                for _ in range(5):
                    b.tree.connection.wait(b.tree.connection.echo())
                    time.sleep(0.1)
                self.assertLess(time.monotonic() - begun, 1.5)
                self.assertNotIn(mid, [reply.mid for reply in
                                       b.tree.connection.waiting
                                       if reply.status != smb2.PENDING])
            finally:
                self.disk.thaw()
            reply = b.tree.connection.wait(mid)
            self.assertEqual(OK, reply.status)
            moved = smb2.File(b.tree, reply.body)
            self.assertEqual((60000, 2), granted(moved))
            self.assertTrue(lab.is_running(pid))
            for i in range(PARTS):
                moved.write(i * PART, lab.pattern(PART, 2))
            time.sleep(0.2)
            self.expect('lives', 2)
            a.drop()
            moved.close()
            b.drop()
        self.server.alive()
        self.assertEqual([], self.server.lines('PANIC'))

    def test_locks_and_leases(self):
        """What the old process has is the client's, and goes with it."""
        client, other = self.client(), self.client('vmraw')
        file = client.open('locked', R | H | W)
        self.assertEqual(OK, file.lock(0, 10))
        self.assertEqual(OK, file.lock(20, 10, exclusive=False))
        self.writes(file, 1)
        old = client.tree.connection
        pid = self.stop(client)
        client.connect()
        self.addCleanup(old.close)
        file = self.back(client, file)
        self.assertEqual(R | H | W, lease_state(file))
        # It had both locks all the time, and gives one up.
        self.assertEqual(OK, file.lock(0, 10, unlock=True))
        # The one who opens has the lease broken by the new process.
        mid = other.tree.create_send('locked', disposition=smb2.OPEN)
        reply = client.tree.connection.receive()
        while reply.command != smb2.OPLOCK_BREAK:
            reply = client.tree.connection.receive()
        key = reply.body[8:24]
        self.assertEqual(file.key, key)
        client.tree.call(smb2.OPLOCK_BREAK, struct.pack(
            '<HHI16sIQ', 36, 0, 0, key, R | H, 0))
        reply = other.tree.connection.wait(mid)
        self.assertEqual(OK, reply.status)
        beside = smb2.File(other.tree, reply.body)
        self.assertEqual(OK, beside.lock(0, 10))
        self.assertEqual(LOCK_NOT_GRANTED, beside.lock(25, 1))
        send(pid, signal.SIGCONT)
        time.sleep(0.2)
        self.assertEqual(LOCK_NOT_GRANTED, file.lock(0, 10))
        self.assertEqual(OK, beside.lock(0, 10, unlock=True))
        self.assertEqual(LOCK_NOT_GRANTED, beside.lock(25, 1))
        self.assertEqual(OK, file.lock(20, 10, unlock=True))
        self.assertEqual(OK, beside.lock(25, 1))


if __name__ == '__main__':
    unittest.main()
