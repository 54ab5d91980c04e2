"""Clients write numbered records under locks while smbd is killed in every
way there is, and power fails.  What was acknowledged is there, nobody else
got in, nothing was held by two, and every handle comes back.

HVRS_LONG=1 kills 500 times, HVRS_LONG=N more than 1: N times; else 20.
HVRS_SEED repeats the choices of a run."""

import os
import random
import signal
import struct
import threading
import time
import traceback
import unittest
import uuid
import zlib

import handles
import lab
import smb2
from handles import H, R, W, Client, granted
from smb2 import (FILE_NOT_AVAILABLE, LOCK_NOT_GRANTED, NAME_NOT_FOUND, OK,
                  StatusError)

RECORD = 512
REPLAY_OPERATION = 0x20000000
LONG = int(os.environ.get('HVRS_LONG') or 0)
KILLS = 20 if LONG == 0 else 500 if LONG == 1 else LONG


def record(writer, number):
    body = struct.pack('<4sIQ', b'TORT', writer, number)
    body += bytes((number + i) & 0xFF for i in range(16)) * 30
    body += bytes(RECORD - 4 - len(body))
    return body + struct.pack('<I', zlib.crc32(body))


class Token:
    """What an exclusive lock is to give to one client at a time.  A client
    has it from the answer to its lock until it sends its unlock, also while
    it has no connection."""

    def __init__(self):
        self.mutex = threading.Lock()
        self.holder = None
        self.taken = 0

    def take(self, who):
        with self.mutex:
            assert self.holder is None, \
                '%s and %s hold one lock' % (self.holder, who)
            self.holder = who
            self.taken += 1

    def give(self, who):
        with self.mutex:
            assert self.holder == who
            self.holder = None


class Worker(threading.Thread):
    """One client machine: it repeats what was not answered, as a client of
    persistent handles does."""

    def __init__(self, test, number):
        super().__init__(daemon=True)
        self.test, self.number = test, number
        self.client = None
        self.error = None
        self.lost = 0		# how often it lost its connection
        self.done = 0		# what was acknowledged
        self.sequences = {}

    def machine(self):
        return Client(self.test.server, 'vm')

    def where(self):
        return ''

    def run(self):
        try:
            self.client = self.machine()
            self.begin()
            self.test.ready.release()
            while not self.test.over.is_set():
                self.work()
            self.end()
        except BaseException:
            self.error = self.where() + traceback.format_exc()
            self.test.over.set()
            self.test.ready.release()

    def try_again(self, what):
        """Does it, on as many connections as it takes."""
        while True:
            try:
                return what()
            except OSError:
                pass
            self.lost += 1
            self.client.drop()
            deadline = time.monotonic() + 50
            while True:
                self.test.gate.wait()
                try:
                    self.client.connect()
                    self.back()
                    break
                except OSError:
                    assert time.monotonic() < deadline, 'no server'
                    time.sleep(0.01)

    def lock(self, file, offset, length, unlock=False):
        """One lock operation, repeated with its lock sequence."""
        bucket = self.number % 64 + 1
        number = (self.sequences.get(bucket, 0) + 1) % 16
        self.sequences[bucket] = number
        return self.try_again(lambda: self.file.lock(
            offset, length, unlock=unlock, sequence=bucket << 4 | number))


class Writer(Worker):
    """Owns a file alone, and writes record after record with the range of
    each locked."""

    def begin(self):
        self.target = 'own%d' % self.number
        lease = (R | H | W, None, R | W)[self.number % 3]
        self.file = self.client.open(self.target, lease, sharing=0)
        assert granted(self.file) == (60000, 2), granted(self.file)

    def back(self):
        self.file = self.client.reconnect(self.file)
        # The newest of what was answered is there.
        for number in range(max(0, self.done - 4), self.done):
            got = self.file.read(number * RECORD, RECORD)
            assert got == record(self.number, number), \
                'record %d of %s is not there' % (number, self.target)

    def work(self):
        at = self.done * RECORD
        assert self.lock(self.file, at, RECORD) == OK
        data = record(self.number, self.done)
        self.try_again(lambda: self.file.write(at, data))
        self.done += 1
        assert self.lock(self.file, at, RECORD, True) == OK

    def end(self):
        self.try_again(lambda: self.file.close())

    def check(self):
        path = '%s/%s' % (self.test.disk.share, self.target)
        for number in range(self.done):
            got = lab.content(path, number * RECORD, RECORD)
            assert got == record(self.number, number), \
                'record %d of %s is not in the file' % (number, self.target)


class Sharer(Worker):
    """One of several that write to one file, each while it has the lock: the
    next record, whoever wrote the one before."""

    def begin(self):
        self.target = 'shared'
        self.file = self.client.open(self.target)
        assert granted(self.file) == (60000, 2), granted(self.file)

    def back(self):
        self.file = self.client.reconnect(self.file)

    def work(self):
        if self.lock(self.file, 1 << 40, 1) != OK:
            time.sleep(0.002)
            return
        token = self.test.token
        token.take(self.number)
        at = self.test.written * RECORD
        data = record(99, self.test.written)
        self.try_again(lambda: self.file.write(at, data))
        self.test.written += 1
        self.done += 1
        token.give(self.number)
        assert self.lock(self.file, 1 << 40, 1, True) == OK

    def end(self):
        self.try_again(lambda: self.file.close())

    def check(self):
        pass


class Opener(Worker):
    """Opens and closes without end; an open without an answer is repeated
    with the same CreateGuid and the flag that says so."""

    def begin(self):
        self.file = None
        self.closing = False
        self.round = 0
        self.backs = []

    def back(self):
        if self.file is None:
            return
        status = self.client.reconnect_status(self.file)
        self.backs.append((self.file.name, self.closing, self.test.last,
                           smb2.status_name(status)))
        if status == OK:
            # Once more, for a File of this connection.
            self.client.drop()
            self.client.connect()
            self.file = self.client.reconnect(self.file)
        else:
            assert self.closing and status == NAME_NOT_FOUND, \
                smb2.status_name(status)
            self.file = None

    def work(self):
        guid, key = uuid.uuid4().bytes, uuid.uuid4().bytes
        name = 'open%d-%d-%d' % (self.number, self.round, self.done % 8)
        lease = self.done % 2
        sent = []

        def create():
            contexts = [handles.dh2q(guid)]
            if lease:
                contexts.append(handles.lease(key, R | H | W))
            flags = REPLAY_OPERATION if sent else 0
            sent.append(True)
            return self.client.tree.create(
                name, contexts=contexts, oplock=0xFF if lease else 0,
                access=smb2.READ_WRITE | smb2.DELETE, sharing=0, flags=flags)

        # The process of the lost connection may still be about to end; a
        # client comes again then, and soon gets in.
        begun = time.monotonic()
        while True:
            try:
                file = self.try_again(create)
                break
            except StatusError as error:
                waited = time.monotonic() - begun
                if error.status == FILE_NOT_AVAILABLE and len(sent) == 1:
                    # A close is not flushed: one right before a power
                    # failure is forgotten, and its file waits its time.
                    self.test.forgotten += 1
                    assert self.test.forgotten <= 2 * self.test.powered, (
                        str(error), self.test.last, self.test.powered,
                        self.backs[-6:], self.test.listed()[-1500:])
                    self.round += 1
                    return
                assert error.status == FILE_NOT_AVAILABLE and \
                    len(sent) > 1 and waited < 8, (
                        str(error), len(sent), waited, self.test.last)
                self.test.delays.append(self.test.last)
                time.sleep(0.05)
        assert granted(file) == (60000, 2), (
            name, granted(file), file.contexts, len(sent),
            self.client.tree.capabilities, self.test.last)
        file.create_guid, file.name = guid, name
        file.key = key if lease else None
        self.file, self.closing = file, False

        data = record(self.number, self.done)
        self.try_again(lambda: self.file.write(0, data))
        got = self.try_again(lambda: self.file.read(0, RECORD))
        assert got == data
        self.closing = True

        def close():
            if self.file is not None:
                assert self.file.close() == OK
        self.try_again(close)
        self.file = None
        self.done += 1

    def end(self):
        pass

    def check(self):
        pass


def begin(test, writer, sharer, opener):
    """Starts the workers of a test, until each has begun."""
    kinds = (writer,) * 3 + (sharer,) * 2 + (opener,) * 2
    test.workers = [kind(test, i) for i, kind in enumerate(kinds)]
    for worker in test.workers:
        worker.start()
    for _ in test.workers:
        test.ready.acquire()


class Torture(unittest.TestCase):
    def setUp(self):
        self.seed = int(os.environ.get('HVRS_SEED') or
                        random.randrange(1 << 30))
        self.random = random.Random(self.seed)
        self.disk = lab.LoopDisk('xfs')
        self.addCleanup(self.disk.remove)
        where = self.disk.share
        self.server = lab.Server(
            {'vm': (where, ['vfs objects = hvrs']),
             'vmalias': (where, ['vfs objects = hvrs']),
             'vmraw': (where, [])},
            ['hvrs:handle store = %s/store' % self.disk.mount])
        self.addCleanup(self.server.stop)
        self.gate = threading.Event()
        self.gate.set()
        self.over = threading.Event()
        self.addCleanup(self.over.set)
        self.addCleanup(self.gate.set)
        self.ready = threading.Semaphore(0)
        self.token, self.written = Token(), 0
        self.last, self.delays = None, []
        self.forgotten = self.powered = 0

    def listed(self):
        """What hvrsctl tells of all handles."""
        return lab.run('hvrsctl', 'handles', '--json', '--state-dir',
                       self.server.directory + '/lock', check=False)

    # ---- ways to kill --------------------------------------------------------

    def kill_child(self):
        victim = self.random.choice(self.workers)
        tree = victim.client.tree
        try:
            pid = handles.child_of(self.server, tree)
        except (AssertionError, OSError):
            return None		# it is just coming back
        lab.kill(pid)
        handles.gone(pid)
        return [victim]

    def kill_all(self):
        self.server.kill()
        self.server.start()
        return self.workers

    def restart(self):
        children = self.server.children()
        self.server.process.terminate()
        self.server.process.wait(20)
        for pid in children:
            handles.gone(pid)
        self.server.start()
        return self.workers

    def power_failure(self):
        self.powered += 1
        # Nobody gets to know of the disk's errors: the power is gone.  The
        # main process first, which makes others.
        main = self.server.process.pid
        os.kill(main, signal.SIGSTOP)
        while lab.state(main) not in 'TZ':
            time.sleep(0.001)
        for pid in self.server.children():
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                pass
        self.disk.fail()
        self.server.kill()
        self.disk.mount_again()
        self.server.start()
        return self.workers

    WAYS = ('kill_child', 'kill_child', 'kill_child', 'kill_all', 'kill_all',
            'restart', 'power_failure')

    def strangers(self, victims, share):
        """Nobody gets into a file whose owner is away."""
        for victim in victims:
            name = getattr(victim, 'target', None)
            if name is None:
                continue
            tree = self.server.connect(share)
            try:
                tree.create(name, disposition=smb2.OPEN).close()
                status = OK
            except StatusError as error:
                status = error.status
            finally:
                tree.connection.close()
            if self.over.is_set():
                return		# a client failed, the others have closed
            self.assertEqual(smb2.status_name(FILE_NOT_AVAILABLE),
                             smb2.status_name(status),
                             '%s through %s' % (name, share))

    def test_torture(self):
        begin(self, Writer, Sharer, Opener)
        killed, counts, first = 0, {}, {}
        try:
            while killed < KILLS and not self.over.is_set():
                time.sleep(self.random.uniform(0.05, 0.6))
                way = self.WAYS[killed % len(self.WAYS)] if killed < 7 else \
                    self.random.choice(self.WAYS)
                share = self.random.choice(
                    (None, 'vm', 'vmalias', 'vmraw'))
                self.gate.clear()
                self.last = way
                victims = getattr(self, way)()
                if victims is not None:
                    killed += 1
                    counts[way] = counts.get(way, 0) + 1
                    first[share] = first.get(share, 0) + 1
                    if share is not None:
                        self.strangers(victims, share)
                self.gate.set()
        finally:
            self.gate.set()
            self.over.set()
            for worker in self.workers:
                worker.join(60)
                if worker.error:
                    print('\n%s' % worker.error, flush=True)
            if any(worker.error for worker in self.workers):
                print('after %s; smbd says:\n%s' % (
                    self.last, self.server.text()[-6000:]), flush=True)
        print('\nseed %d: %s; first to arrive: %s; %d records, %d of them '
              'shared, %d opens, %d connections lost' % (
                  self.seed, counts, first,
                  sum(w.done for w in self.workers[:3]), self.written,
                  sum(w.done for w in self.workers[5:]),
                  sum(w.lost for w in self.workers)), flush=True)
        for worker in self.workers:
            self.assertFalse(worker.is_alive(), 'a client hangs')
            self.assertIsNone(worker.error, '\n%s\nseed %d' % (
                worker.error, self.seed))
        if self.delays:
            print('replays that had to wait: %s' % self.delays)
        self.assertEqual(KILLS, killed)
        for worker in self.workers:
            worker.check()
            self.assertLess(0, worker.done)
        path = self.disk.share + '/shared'
        for number in range(self.written):
            self.assertEqual(record(99, number), lab.content(
                path, number * RECORD, RECORD), 'shared record %d' % number)
        # What is closed stays closed: all are free for everybody.
        for name in ('own0', 'own1', 'own2', 'shared'):
            tree = self.server.connect('vmraw')
            tree.create(name, sharing=0).close()
            tree.connection.close()
        self.server.alive()

    def test_none_survives_its_time(self):
        for way in (self.kill_all, self.power_failure):
            self.workers = []
            client = Client(self.server, 'vm')
            file = client.open('short', R | H | W, timeout=2000, sharing=0)
            self.assertEqual((2000, 2), granted(file))
            way()
            client.drop()
            tree = self.server.connect('vmraw')
            self.addCleanup(tree.connection.close)
            with self.assertRaises(StatusError) as caught:
                tree.create('short')
            self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
            time.sleep(2.3)
            tree.create('short').close()
            client.connect()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))
            client.drop()

    def test_killed_at_every_step_of_an_open(self):
        """From the request to well behind its answer, in steps of time."""
        steps = 24 if LONG == 0 else 400
        client = Client(self.server, 'vm')
        answered = 0
        for step in range(steps):
            name = 'step%d' % step
            guid = uuid.uuid4().bytes
            contexts = [handles.dh2q(guid)]
            how = dict(contexts=contexts, sharing=0,
                       access=smb2.READ_WRITE | smb2.DELETE)
            pid = handles.child_of(self.server, client.tree)
            begun = time.perf_counter()
            client.tree.create_send(name, **how)
            # Too short to sleep.
            while time.perf_counter() - begun < 0.00025 * step * \
                    24 / steps:
                pass
            lab.kill(pid)
            handles.gone(pid)
            client.tree.connection.socket.settimeout(5)
            try:
                promised = client.tree.connection.receive()
                file = smb2.File(client.tree, promised.body)
                self.assertEqual((60000, 2), granted(file))
            except OSError:
                promised = None
            client.drop()
            if promised is not None:
                answered += 1
                for share in ('vm', 'vmraw'):
                    tree = self.server.connect(share)
                    with self.assertRaises(StatusError) as caught:
                        tree.create(name)
                    self.assertEqual(FILE_NOT_AVAILABLE,
                                     caught.exception.status)
                    tree.connection.close()
            client.connect()
            if promised is not None:
                file.create_guid, file.name, file.key = guid, name, None
                again = client.reconnect(file)
                self.assertEqual(file.id[:8], again.id[:8])
            else:
                again = client.tree.create(name, flags=REPLAY_OPERATION,
                                           **how)
                self.assertEqual((60000, 2), granted(again))
            again.write(0, b'data')
            self.assertEqual(OK, again.close())
        client.drop()
        # Neither all before the answer nor all behind it.
        self.assertLess(0, answered)
        self.assertLess(answered, steps)


if __name__ == '__main__':
    unittest.main()
