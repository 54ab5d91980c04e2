"""Handles that outlive smbd, measured: opens, locks and writes beside durable
handles without hvrs and beside Samba's own persistent ones; what a client
sees of a kill; ten thousand handles put back; memory."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tests', 'integration'))

import handles  # noqa: E402
import lab  # noqa: E402
from smb2 import OK, Connection, File, Session, Tree  # noqa: E402

from figures import Figure, in_pairs, median  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20

OPENS = {
    'title': 'Open and close of a persistent handle',
    'explained': 'a second, over durable ones without hvrs',
    'value': 'persistent', 'yardstick': 'durable',
}
OTHERS = {
    'title': 'Open and close beside the persistent handles of Samba 4.25',
    'explained': 'a second, databases and log on disks of the same kind',
    'value': 'hvrs', 'yardstick': '4.25',
}
FLUSHES = {
    'title': "Flushes of the disk for one open and close",
    'explained': 'as the device counts them, over the target',
    'value': 'flushes', 'yardstick': 'target',
}
LOCKS = {
    'title': 'Lock and unlock of a range',
    'explained': 'a second, over a durable handle without hvrs',
    'value': 'persistent', 'yardstick': 'durable',
}
WRITES = {
    'title': 'Writes on a persistent handle',
    'explained': 'a second, over a share that syncs each of them',
    'value': 'persistent', 'yardstick': 'plainsync',
}
LOST = {
    'title': 'After kill -9 of smbd',
    'explained': 'time over the target, or over a second',
    'value': 'time', 'yardstick': 'target',
}
MEMORY = {
    'title': 'Memory of smbd for one handle',
    'explained': 'above a durable one without hvrs, over the target',
    'value': 'KiB', 'yardstick': 'target',
}

SHARES = {
    'vm': ['vfs objects = hvrs'],
    'plain': [],
    'plainsync': ('/srv/xfs/plainsync', ['sync always = yes']),
}


def device_of(path):
    """The block device of a file system's directory."""
    number = os.stat(path).st_dev
    return os.path.basename(os.readlink('/sys/dev/block/%d:%d' % (
        os.major(number), os.minor(number))))


def flushes(device):
    with open('/sys/block/%s/stat' % device) as stat:
        return int(stat.read().split()[15])


def used(server):
    """CPU time of a server's processes and of those that it has reaped."""
    total = 0
    for pid in [server.process.pid] + server.children():
        try:
            with open('/proc/%d/stat' % pid) as stat:
                fields = stat.read().rsplit(')', 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf('SC_CLK_TCK')


def private_memory(pid):
    """Bytes that nobody but a process has."""
    total = 0
    with open('/proc/%d/smaps_rollup' % pid) as rollup:
        for line in rollup:
            if line.startswith(('Private_Dirty', 'Private_Clean')):
                total += int(line.split()[1]) * KIB
    return total


class Handles:
    def __init__(self, bench):
        self.bench = bench
        self.effort = bench.effort
        self.figures = []
        store = '/srv/xfs/handle-store'
        # What a run left that was cut short would keep us out.
        shutil.rmtree(store, ignore_errors=True)
        self.server = lab.Server(SHARES, ['hvrs:handle store = ' + store],
                                 steps=False)
        self.device = device_of('/srv/xfs')

    def slice(self, port, share, operation, clients=1, promise=2, size=4096,
              depth=1):
        """Operations a second of one share, on new connections."""
        trees = [Tree(Session(Connection(port), 'hvrs', 'hvrs'), share)
                 for _ in range(clients)]
        sockets = [tree.connection.socket for tree in trees]
        for one in sockets:
            one.setblocking(True)
        words = [self.bench.options.load, 'handles', '--operation', operation,
                 '--promise', str(promise), '--size', str(size),
                 '--depth', str(depth),
                 '--seconds', str(self.effort['handle seconds'])]
        for i, tree in enumerate(trees):
            words.append('bench-handle-%d=%d:%d:%d:%d' % (
                i, sockets[i].fileno(), tree.id, tree.session.id,
                tree.connection.mid))
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, timeout=300,
            pass_fds=[one.fileno() for one in sockets])
        for one in sockets:
            one.close()
        if done.returncode != 0:
            sys.exit('bench: "%s" failed' % ' '.join(words))
        result = json.loads(done.stdout)
        return result['operations'], result['operations'] / result['ns'] * 1e9

    def in_turns(self, title, lanes, rounds):
        """{name: [rate]} of lanes {name: arguments of slice()}."""
        self.bench.say(title)
        rates = {name: [] for name in lanes}
        for i in range(rounds):
            names = list(lanes) if i % 2 == 0 else list(lanes)[::-1]
            for name in names:
                rates[name].append(self.slice(**lanes[name])[1])
        self.bench.raw.append({'title': title, 'rates': rates})
        return rates

    def figure(self, group, name, rates, value, yardstick, target, note=''):
        self.figures.append(Figure(
            group, name, '/s', median(rates[value]),
            median(rates[yardstick]),
            in_pairs([a / b for a, b in zip(rates[value],
                                            rates[yardstick])]),
            target, note))

    # ---- rates -------------------------------------------------------------

    def opens(self):
        other = self.bench.options.other
        for clients, wanted in ((1, 1), (32, 0.1)):
            name = '%d client%s' % (clients, '' if clients == 1 else 's')
            lanes = {
                'vm': dict(port=self.server.port, share='vm',
                           operation='open', clients=clients),
                'plain': dict(port=self.server.port, share='plain',
                              operation='open', clients=clients, promise=0),
            }
            if other:
                lanes['4.25'] = dict(port=other, share='vm',
                                     operation='open', clients=clients)
            rates = self.in_turns('opens, ' + name, lanes,
                                  self.effort['handle rounds'])
            self.figure(OPENS, name, rates, 'vm', 'plain', None)
            if other:
                self.figure(OTHERS, name, rates, 'vm', '4.25', ('>=', 5))
            each = []
            for _ in range(self.effort['handle rounds']):
                before = flushes(self.device)
                count = self.slice(**lanes['vm'])[0]
                each.append((flushes(self.device) - before) / count)
            self.figures.append(Figure(
                FLUSHES, name, '', median(each), wanted,
                [one / wanted for one in each], ('<=', 1)))

    def locks(self):
        lanes = {
            'vm': dict(port=self.server.port, share='vm', operation='lock'),
            'plain': dict(port=self.server.port, share='plain',
                          operation='lock', promise=0),
        }
        if self.bench.options.other:
            lanes['4.25'] = dict(port=self.bench.options.other, share='vm',
                                 operation='lock')
        rates = self.in_turns('locks', lanes, self.effort['handle rounds'])
        note = '4.25: %.0f/s' % median(rates['4.25']) if '4.25' in rates \
            else ''
        self.figure(LOCKS, '1 client', rates, 'vm', 'plain', None, note)

    def writes(self):
        for size, depth in ((4 * KIB, 1), (4 * KIB, 8), (MIB, 1)):
            name = '%d KiB, depth %d' % (size // KIB, depth)
            rates = self.in_turns('writes of ' + name, {
                'vm': dict(port=self.server.port, share='vm',
                           operation='write', size=size, depth=depth),
                'plainsync': dict(port=self.server.port, share='plainsync',
                                  operation='write', promise=0, size=size,
                                  depth=depth),
            }, 2 * self.effort['handle rounds'])
            self.figure(WRITES, name, rates, 'vm', 'plainsync', ('>=', 0.95))

    # ---- a kill ------------------------------------------------------------

    def stall(self, way):
        """Seconds between two answers to a client that writes, where smbd is
        killed meanwhile."""
        client = handles.Client(self.server, 'vm')
        client.lost = False
        file = client.open('bench-stall')
        pid = handles.child_of(self.server, client.tree)
        file.write(0, bytes(4096))
        last = time.monotonic()
        if way == 'one process':
            lab.kill(pid)
            killer = None
        else:
            def kill():
                self.server.kill()
                self.server.start()
            killer = threading.Thread(target=kill)
            killer.start()
        while True:
            try:
                file.write(0, bytes(4096))
                now = time.monotonic()
                if client.lost:
                    break
                last = now
            except OSError:
                client.lost = True
                client.drop()
                while True:
                    try:
                        client.connect()
                        file = client.reconnect(file)
                        break
                    except OSError:
                        client.drop()
                        time.sleep(0.002)
        if killer is not None:
            killer.join()
        file.close()
        client.drop()
        return now - last

    def stalls(self):
        for way in ('one process', 'all of smbd'):
            self.bench.say('stall at kill -9 of ' + way)
            seen = [self.stall(way) for _ in range(self.effort['kills'])]
            self.figures.append(Figure(
                LOST, 'a client that writes waits, ' + way, 's',
                median(seen), 1, seen, None))

    def opened(self, client, names):
        """Many handles of one client, asked for all together."""
        guids = [os.urandom(16) for _ in names]
        mids = [client.tree.create_send(name, contexts=[handles.dh2q(guid)])
                for name, guid in zip(names, guids)]
        files = []
        for name, guid, mid in zip(names, guids, mids):
            reply = client.tree.connection.wait(mid)
            file = File(client.tree, reply.body)
            file.create_guid, file.key, file.name = guid, None, name
            assert handles.granted(file) == (60000, 2)
            files.append(file)
        return files

    def back(self, client, files, together):
        """They are put back, one by one or asked for all together."""
        if not together:
            return [client.reconnect(file) for file in files]
        mids = [client.reconnect_send(file) for file in files]
        again = []
        for file, mid in zip(files, mids):
            reply = client.tree.connection.wait(mid)
            assert reply.status == OK, reply.status
            again.append(File(client.tree, reply.body))
        return again

    def reclaim(self):
        """All handles of many connections, behind kill -9 of all of smbd."""
        connections, each = 100, self.effort['handles'] // 100
        for together in (True, False):
            self.bench.say('%d handles put back' % (connections * each))
            clients = [handles.Client(self.server, 'vm')
                       for _ in range(connections)]
            files = [self.opened(client, ['bench-%d-%d' % (i, j)
                                          for j in range(each)])
                     for i, client in enumerate(clients)]
            self.server.kill()
            self.server.start()
            for client in clients:
                client.drop()
            before, begun = used(self.server), time.monotonic()
            for i, client in enumerate(clients):
                client.connect()
                files[i] = self.back(client, files[i], together)
                if i == 0:
                    first = time.monotonic() - begun
            seen = used(self.server) - before
            wall = time.monotonic() - begun
            for client in clients:
                client.tree.disconnect()
                client.drop()
            self.figures.append(Figure(
                LOST, '%s handles back, %s, CPU time' % (
                    format(connections * each, ','),
                    'together' if together else 'one by one'), 's', seen,
                5 * each / 100, [seen / (5 * each / 100)], ('<=', 1),
                'in %.1f s; the first client waits %.2f s' % (wall, first)))

    # ---- memory ------------------------------------------------------------

    def memory_of(self, share, flags):
        client = handles.Client(self.server, share)
        pid = handles.child_of(self.server, client.tree)
        count = self.effort['held']
        # What the first ones need is not counted.
        files = [client.open('bench-m%d' % i, 7, flags=flags)
                 for i in range(50)]
        before = private_memory(pid)
        files += [client.open('bench-n%d' % i, 7, flags=flags)
                  for i in range(count)]
        grown = (private_memory(pid) - before) / count
        for file in files:
            file.close()
        client.drop()
        return grown / KIB

    def memory(self):
        self.bench.say('memory of a handle')
        ours, theirs = [], []
        for _ in range(3):
            ours.append(self.memory_of('vm', 2))
            theirs.append(self.memory_of('plain', 0))
        more = [a - b for a, b in zip(ours, theirs)]
        self.figures.append(Figure(
            MEMORY, '%d handles of one connection' % self.effort['held'],
            '', median(more), 8, [one / 8 for one in more], ('<=', 1),
            'in all %.1f KiB, durable %.1f' % (median(ours),
                                               median(theirs))))

    def clean(self):
        for share in SHARES:
            directory = '/srv/xfs/' + share
            for name in os.listdir(directory):
                if name.startswith('bench-'):
                    os.unlink('%s/%s' % (directory, name))

    def measure(self):
        try:
            self.opens()
            self.locks()
            self.writes()
            self.stalls()
            self.memory()
            self.reclaim()
        finally:
            self.server.stop()
            self.clean()
        titles = [figure.group['title'] for figure in self.figures]
        self.bench.figures += sorted(
            self.figures, key=lambda one: titles.index(one.group['title']))
