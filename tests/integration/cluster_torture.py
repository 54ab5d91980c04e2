"""Clients of all nodes write numbered records under locks while nodes die.
What was acknowledged is there, nothing was held by two, and every handle comes
back, through whatever node.

Three nodes die; HVRS_NODE_DEATHS=N is another number.  HVRS_SEED repeats the
choices of a run."""

import os
import random
import socket
import sys
import threading
import time
import unittest

import smb2
import test_handles_torture as torture
from cluster_handles import FOLDER, Case, Client, follower
from nodes import cluster, on
from smb2 import FILE_NOT_AVAILABLE, OK, SHARING_VIOLATION, StatusError

DEATHS = int(os.environ.get('HVRS_NODE_DEATHS') or 3)


class Roamer(Client):
    """Goes to any node that is up."""

    def __init__(self, test):
        self.test = test
        super().__init__(test.random.choice(test.up), timeout=8)

    def connect(self):
        self.node = self.test.random.choice(self.test.up)
        super().connect()

    def reconnect(self, file, **how):
        try:
            return super().reconnect(file, **how)
        except StatusError as error:
            if error.status != FILE_NOT_AVAILABLE:
                raise AssertionError('%s on node %d' % (
                    error, self.node)) from error
            raise OSError('not yet') from error

    def reconnect_status(self, file, **how):
        status = super().reconnect_status(file, **how)
        if status == FILE_NOT_AVAILABLE:
            raise OSError('not yet')
        return status


class Roaming:
    def machine(self):
        return Roamer(self.test)

    def where(self):
        return 'on node %d: ' % self.client.node

    def lock(self, file, offset, length, unlock=False):
        status = super().lock(file, offset, length, unlock)
        if status != OK and self.__class__ is Writer:
            raise AssertionError('%s: %s of %d: %s on node %d, after %s' % (
                self.target, 'unlock' if unlock else 'lock', offset,
                smb2.status_name(status), self.client.node, self.test.last))
        return status


class Writer(Roaming, torture.Writer):
    def begin(self):
        super().begin()
        self.path = '%s/%s' % (FOLDER, self.target)

    def check(self):
        with open(self.path, 'rb') as file:
            for number in range(self.done):
                got = os.pread(file.fileno(), torture.RECORD,
                               number * torture.RECORD)
                assert got == torture.record(self.number, number), \
                    'record %d of %s is not in the file' % (number,
                                                            self.target)


class Sharer(Roaming, torture.Sharer):
    pass


class Opener(Roaming, torture.Opener):
    pass


class Torture(Case):
    def setUp(self):
        super().setUp()
        for name in os.listdir(FOLDER):
            if name.startswith(('own', 'shared', 'open')):
                os.unlink(FOLDER + '/' + name)
        self.seed = int(os.environ.get('HVRS_SEED') or
                        random.randrange(1 << 30))
        self.random = random.Random(self.seed)
        self.up = [0, 1, 2]
        self.gate = threading.Event()
        self.gate.set()
        self.over = threading.Event()
        self.ready = threading.Semaphore(0)
        self.token, self.written = torture.Token(), 0
        self.last, self.delays = None, []
        self.forgotten = self.powered = 0

    def listed(self):
        return on(self.up[0], 'hvrsctl', 'handles', '--json')

    def strangers(self, node, victims):
        for victim in victims:
            name = getattr(victim, 'target', None)
            if name is None or victim.client.node != node:
                continue
            share = self.random.choice(('coherent', 'vm', 'vmraw'))
            status = self.stranger(self.random.choice(self.up), share, name,
                                   disposition=smb2.OPEN)
            if not self.over.is_set():
                self.assertEqual(
                    smb2.status_name(FILE_NOT_AVAILABLE),
                    smb2.status_name(status),
                    '%s through %s' % (name, share))

    def kill(self, node):
        cluster('kill-node', str(node))
        self.strangers(node, self.workers)
        self.gate.set()
        time.sleep(self.random.uniform(0, 3))
        cluster('start-node', str(node))

    def cut(self, node):
        cluster('cut-node', str(node))
        self.gate.set()
        time.sleep(self.random.uniform(1, 12))
        cluster('join-node', str(node))

    def freeze(self, node):
        cluster('freeze-node', str(node))
        self.gate.set()
        time.sleep(self.random.uniform(1, 12))
        cluster('thaw-node', str(node))

    def one(self, number):
        way, node = self.kill, self.random.randrange(3)
        if number % 5 == 4:
            way = self.random.choice((self.cut, self.freeze))
            node = follower()
        self.last = way.__name__
        before = [worker.lost for worker in self.workers]
        # They go to where they like, and so spread.
        for worker in self.random.sample(self.workers, 3):
            try:
                worker.client.tree.connection.socket.shutdown(
                    socket.SHUT_RDWR)
            except OSError:
                pass
        time.sleep(self.random.uniform(0, 1))
        self.gate.clear()
        self.up.remove(node)
        try:
            way(node)
        finally:
            self.gate.set()
            self.up.append(node)
        return self.last, sum(worker.lost for worker in self.workers) - \
            sum(before)

    def test_torture(self):
        torture.begin(self, Writer, Sharer, Opener)
        deaths, counts = 0, {}
        try:
            while deaths < DEATHS and not self.over.is_set():
                time.sleep(self.random.uniform(0.5, 3))
                way, lost = self.one(deaths)
                deaths += 1
                counts[way] = counts.get(way, 0) + 1
                if DEATHS > 10:
                    print(deaths, way, lost, self.written,
                          [worker.done for worker in self.workers],
                          flush=True)
        finally:
            self.gate.set()
            time.sleep(3)
            self.over.set()
            for worker in self.workers:
                worker.join(100)
        for worker in self.workers:
            self.assertIsNone(worker.error, 'seed %d, after %s:\n%s' % (
                self.seed, self.last, worker.error))
            self.assertFalse(worker.is_alive())
            worker.check()
        with open(FOLDER + '/shared', 'rb') as file:
            for number in range(self.written):
                self.assertEqual(torture.record(99, number), os.pread(
                    file.fileno(), torture.RECORD,
                    number * torture.RECORD), number)
        print('\n%d nodes gone %s, %d records, %d opens, %d connections '
              'lost' % (deaths, counts, self.written + sum(
                  w.done for w in self.workers if isinstance(w, Writer)),
                  sum(w.done for w in self.workers
                      if isinstance(w, Opener)),
                  sum(w.lost for w in self.workers)))


if __name__ == '__main__':
    unittest.main(verbosity=2, argv=sys.argv)
