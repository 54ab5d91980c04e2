"""One node of a cluster of three beside a machine of its own on the same file
system: what it costs that three agree.  And what a client sees of the end of
its node.  Runs on the clients' machine of "./lab cluster up"."""

import os
import shutil
import subprocess
import sys
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tests', 'integration'))

import cluster_handles  # noqa: E402
import handles  # noqa: E402
import lab  # noqa: E402
import odx  # noqa: E402
import rsvd  # noqa: E402
import smb2  # noqa: E402
import test_sqos as sqos  # noqa: E402
from nodes import ADDRESS, SHARED, cluster  # noqa: E402

from figures import Figure, in_pairs, median  # noqa: E402

MIB = 1 << 20
NAME = 'bench-cluster'

RATES = {
    'title': 'One node of three beside a machine of its own',
    'explained': 'a second, one client, one request at a time',
    'value': 'node', 'yardstick': 'machine',
}
LOST = {
    'title': "After the end of a client's node",
    'explained': 'until another node answers its next write, over a second',
    'value': 'time', 'yardstick': 'a second',
}

OPTIONS = ['vfs objects = hvrs', 'hvrs:shared disks = yes',
           'hvrs:storage qos = yes']


class Lane:
    """A client of one of the two, with what it needs for each operation."""

    def __init__(self, name, port, host, share):
        connection = smb2.Connection(port, host)
        self.tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), share)
        self.file = self.keep('%s-%s' % (NAME, name))
        self.file.write(0, os.urandom(MIB))
        self.disk = rsvd.Disk(self.tree, '%s-%s.vhdx' % (NAME, name))
        self.disk.pr_out(rsvd.IGNORE, 0, 0, 1)
        self.opened = '%s-%s-open' % (NAME, name)
        self.operations = {
            'bare round trip': lambda: self.file.info(5),
            'open and close of a persistent handle':
                lambda: self.keep(self.opened).close(),
            'lock and unlock of a range': self.lock,
            'ODX token of 1 MiB': lambda: odx.get(self.file, 0, MIB),
            'reserve and release': self.reserve,
            'flow of storage QoS is made': lambda: self.flow(uuid.uuid4()),
            'flow of storage QoS is asked': lambda: self.flow(self.known),
        }
        self.known = uuid.uuid4()

    def keep(self, name):
        file = self.tree.create(name, contexts=[
            handles.dh2q(uuid.uuid4().bytes),
            handles.lease(uuid.uuid4().bytes, 7)], oplock=0xFF)
        assert handles.granted(file) == (60000, 2), handles.granted(file)
        return file

    def lock(self):
        for unlock in (False, True):
            assert self.file.lock(4096, 1, unlock=unlock) == smb2.OK

    def reserve(self):
        for action in (rsvd.RESERVE, rsvd.RELEASE):
            done = self.disk.pr_out(action, rsvd.WE, 1)
            assert (done.status, done.srb) == (0, 1), done

    def flow(self, ident):
        status, _ = self.file.fsctl(sqos.CONTROL, sqos.request(
            sqos.SET_FLOW | sqos.STATUS, ident), 4096)
        assert status == smb2.OK, smb2.status_name(status)

    def rate(self, operation, seconds):
        do = self.operations[operation]
        begun, count = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            do()
            count += 1
        return count / (time.monotonic() - begun)


def single():
    """smbd by itself, with the users of the cluster."""
    for folder in ('single', '.single'):
        os.makedirs('%s/%s' % (SHARED, folder), exist_ok=True)
    shutil.chown(SHARED + '/single', 'hvrs', 'hvrs')
    with open('/tmp/single.conf', 'w') as conf:
        conf.write('[global]\nnetbios name = HVRS-LAB\n')
    subprocess.run(['smbpasswd', '-c', '/tmp/single.conf', '-s', '-a',
                    'hvrs'], input=b'hvrs\nhvrs\n', check=True,
                   stdout=subprocess.DEVNULL)
    return lab.Server({'single': (SHARED + '/single', OPTIONS)},
                      ['hvrs:handle store = %s/.single' % SHARED],
                      steps=False)


class Cluster:
    """Figures of the part, as a list."""

    def __init__(self, bench):
        self.bench = bench
        self.effort = bench.effort
        self.figures = []

    def make(self, folder, name):
        path = '%s/%s/%s-%s.vhdx' % (SHARED, folder, NAME, name)
        if os.path.exists(path):
            os.unlink(path)
        rsvd.make_disk(path, 64 * MIB, 'fixed')
        shutil.chown(path, 'hvrs', 'hvrs')

    def rates(self):
        server = single()
        self.make('vm', 'node')
        self.make('single', 'machine')
        try:
            lanes = [Lane('node', 445, ADDRESS[0], 'coherent'),
                     Lane('machine', server.port, '127.0.0.1', 'single')]
            for operation in lanes[0].operations:
                self.bench.say(operation)
                seen = {lane: [] for lane in lanes}
                for i in range(self.effort['handle rounds'] * 2):
                    for lane in lanes[::1 if i % 2 else -1]:
                        seen[lane].append(lane.rate(
                            operation, self.effort['handle seconds']))
                node, machine = (seen[lane] for lane in lanes)
                self.bench.raw.append({'title': operation, 'node': node,
                                       'machine': machine})
                self.figures.append(Figure(
                    RATES, operation, '/s', median(node), median(machine),
                    in_pairs([a / b for a, b in zip(node, machine)]), None))
        finally:
            server.stop()

    def stall(self, way, back):
        """Seconds from the last answer of the node to the first of another."""
        node = cluster_handles.follower()
        other = next(n for n in (2, 1, 0) if n != node)
        client = cluster_handles.Client(node, timeout=1)
        file = client.open('%s-%s' % (NAME, uuid.uuid4()), 7)
        for _ in range(20):
            file.write(0, bytes(4096))
        last = time.monotonic()
        try:
            cluster(way, str(node))
            file = cluster_handles.come_back(client, file, other)
            file.write(0, bytes(4096))
            return time.monotonic() - last
        finally:
            cluster(back, str(node))
            client.drop()
            # What comes back takes a while to be whole again.
            time.sleep(10)

    def stalls(self):
        for name, way, back in (
                ('all its processes are killed', 'kill-node', 'start-node'),
                ('its network is cut off', 'cut-node', 'join-node')):
            self.bench.say('a client whose node goes: ' + name)
            seen = [self.stall(way, back)
                    for _ in range(min(5, self.effort['kills']))]
            self.figures.append(Figure(LOST, name, 's', median(seen), 1,
                                       seen, None))

    def measure(self):
        self.rates()
        self.stalls()
        return self.figures
