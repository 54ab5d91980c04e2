"""Clients that come back for their handles."""

import os
import shutil
import struct
import time
import unittest
import uuid

import lab
import smb2
from smb2 import OK, StatusError

PERSISTENT = 2
R, H, W = 1, 2, 4


def dh2q(guid, flags=PERSISTENT, timeout=0):
    return (b'DH2Q', struct.pack('<IIQ16s', timeout, flags, 0, guid))


def dh2c(file_id, guid, flags=PERSISTENT):
    return (b'DH2C', file_id[:8] + bytes(8) + guid +
            struct.pack('<I', flags))


def dhnc(file_id):
    return (b'DHnC', file_id)


def lease(key, state, version=2):
    if version == 1:
        return (b'RqLs', key + struct.pack('<IIQ', state, 0, 0))
    return (b'RqLs', key + struct.pack('<IIQ16sHH', state, 0, 0, bytes(16),
                                       0, 0))


def app_instance(guid):
    return (bytes.fromhex('45BCA66AEFA7F74A9008FA462E144D74'),
            struct.pack('<HH16s', 20, 0, guid))


def granted(file):
    """(timeout, flags) of the DH2Q in a CREATE reply, or None."""
    data = file.contexts.get(b'DH2Q')
    return struct.unpack('<II', data) if data else None


def lease_state(file):
    data = file.contexts.get(b'RqLs')
    return struct.unpack_from('<I', data, 16)[0] if data else None


class Client:
    """One client machine: it keeps its GUID, its session and what it opened,
    and can lose its connection."""

    def __init__(self, server, share, user='hvrs', guid=None):
        self.server, self.share, self.user = server, share, user
        self.guid = guid or uuid.uuid4().bytes
        self.previous = 0
        self.tree = None
        self.connect()

    def connect(self):
        connection = smb2.Connection(self.server.port, guid=self.guid)
        session = smb2.Session(connection, self.user, self.user,
                               self.previous)
        self.previous = session.id
        self.tree = smb2.Tree(session, self.share)

    def drop(self):
        """The connection is gone."""
        self.tree.connection.close()

    def open(self, name, state=None, timeout=0, flags=PERSISTENT, key=None,
             more=(), oplock=0, **how):
        guid = uuid.uuid4().bytes
        contexts = [dh2q(guid, flags, timeout)] + list(more)
        if state is not None:
            key = key or uuid.uuid4().bytes
            contexts.append(lease(key, state))
            oplock = 0xFF
        how.setdefault('access', smb2.READ_WRITE | smb2.DELETE)
        file = self.tree.create(name, contexts=contexts, oplock=oplock, **how)
        file.create_guid, file.key, file.name = guid, key, name
        return file

    def reconnect_send(self, file, flags=PERSISTENT, guid=None, name=None,
                       key=None, state=7):
        contexts = [dh2c(file.id, guid or file.create_guid, flags)]
        key = key or file.key
        if key is not None:
            contexts.append(lease(key, state))
        return self.tree.create_send(
            name or file.name, contexts=contexts,
            oplock=0xFF if key is not None else 0)

    def reconnect(self, file, **how):
        """The file again, on the present connection."""
        reply = self.tree.connection.wait(self.reconnect_send(file, **how))
        if reply.status != OK:
            raise StatusError(reply.status, 'reconnect of ' + file.name)
        again = smb2.File(self.tree, reply.body)
        again.create_guid, again.key, again.name = (
            file.create_guid, file.key, file.name)
        return again

    def reconnect_status(self, file, **how):
        return self.tree.connection.wait(
            self.reconnect_send(file, **how)).status


def child_of(server, tree):
    """The pid of the smbd that serves a connection."""
    here = tree.connection.socket.getsockname()[1]
    want = ':%04X' % server.port, ':%04X' % here
    inode = None
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        try:
            lines = open(table).read().split('\n')[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and words[1].endswith(want[0]) and \
                    words[2].endswith(want[1]):
                inode = words[9]
    for pid in server.children():
        for fd in lab.glob.glob('/proc/%d/fd/*' % pid):
            try:
                if lab.os.readlink(fd) == 'socket:[%s]' % inode:
                    return pid
            except OSError:
                pass
    raise AssertionError('no smbd has the connection')


def gone(pid):
    for _ in range(400):
        if not lab.is_running(pid) and lab.threads(pid) < 2:
            return
        time.sleep(0.01)
    raise AssertionError('process %d does not end' % pid)


SHARES = {
    'vm': ['vfs objects = hvrs'],
    'vmalias': ('/srv/xfs/vm', ['vfs objects = hvrs']),
    'vmraw': ('/srv/xfs/vm', []),
    'plain': [],
}


def open_status(client, name, **how):
    """Status of an open by a client, who then goes."""
    try:
        client.tree.create(name, **how).close()
        return OK
    except StatusError as error:
        return error.status
    finally:
        client.drop()


class Case(unittest.TestCase):
    """A server per test, and the ways in which a client loses it."""

    shares = SHARES
    settings = ()

    def setUp(self):
        self.server = lab.Server(self.shares, self.settings)
        self.addCleanup(self.server.stop)
        self.directory = '/srv/xfs/vm/h-%s' % uuid.uuid4().hex[:8]
        os.mkdir(self.directory)
        shutil.chown(self.directory, 'hvrs', 'hvrs')
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.clients = []

    def name(self, name='disk.vhdx'):
        return '%s/%s' % (os.path.basename(self.directory), name)

    def client(self, share='vm', **how):
        client = Client(self.server, share, **how)
        self.clients.append(client)
        self.addCleanup(client.drop)
        return client

    def stranger(self, share='vm', name=None, **how):
        """Status of an open by somebody else, through a share."""
        return open_status(Client(self.server, share), name or self.name(),
                           **how)

    # ---- ways to lose it --------------------------------------------------

    def lose_connection(self, client):
        pid = child_of(self.server, client.tree)
        client.drop()
        gone(pid)

    def kill_child(self, client):
        pid = child_of(self.server, client.tree)
        lab.kill(pid)
        gone(pid)
        client.drop()

    def kill_all(self, client):
        self.server.kill()
        client.drop()
        self.server.start()

    def restart(self, client):
        children = self.server.children()
        self.server.process.terminate()
        self.server.process.wait(20)
        for pid in children:
            gone(pid)
        client.drop()
        self.server.start()

    WAYS = ('lose_connection', 'kill_child', 'kill_all', 'restart')

    def lose(self, way, client):
        getattr(self, way)(client)
