"""Resilient handles, and a virtual machine that moves to another host."""

import os
import struct
import threading
import time
import unittest
import uuid

from samba.dcerpc import security
from samba.ndr import ndr_pack

import handles
import lab
import smb2
from handles import H, R, W, granted, lease_state
from smb2 import (ACCESS_DENIED, FILE_NOT_AVAILABLE, INVALID_PARAMETER,
                  LOCK_NOT_GRANTED, NAME_NOT_FOUND, OK, SHARING_VIOLATION,
                  StatusError)

RESILIENCY = 0x001401D4


class Resilient(handles.Case):
    LEASES = None, R | H | W

    def resilient(self, client, name=None, timeout=0, lease=None, **how):
        contexts = []
        key = None
        if lease is not None:
            key = uuid.uuid4().bytes
            contexts.append(handles.lease(key, lease))
            how['oplock'] = 0xFF
        file = client.tree.create(name or self.name(), contexts=contexts,
                                  **how)
        file.name, file.key = name or self.name(), key
        status, out = file.fsctl(RESILIENCY, struct.pack('<II', timeout, 0))
        self.assertEqual((OK, b''), (status, out))
        return file

    def again_send(self, client, file):
        contexts = [handles.dhnc(file.id)]
        if file.key:
            contexts.append(handles.lease(file.key, 7))
        return client.tree.create_send(
            file.name, contexts=contexts, oplock=0xFF if file.key else 0)

    def again(self, client, file):
        reply = client.tree.connection.wait(self.again_send(client, file))
        self.assertEqual(OK, reply.status)
        new = smb2.File(client.tree, reply.body)
        new.name, new.key = file.name, file.key
        return new

    def test_limits(self):
        client = self.client()
        file = client.tree.create(self.name())
        for data, status in ((b'', INVALID_PARAMETER),
                             (bytes(7), INVALID_PARAMETER),
                             (struct.pack('<II', 300001, 0),
                              INVALID_PARAMETER),
                             (struct.pack('<II', 300000, 0), OK),
                             (struct.pack('<II', 1, 0), OK),
                             (struct.pack('<III', 0, 0, 0), OK)):
            self.assertEqual((status, b''), file.fsctl(RESILIENCY, data))

    def test_comes_back(self):
        for way in self.WAYS:
            for lease in self.LEASES:
                name = self.name('%s%s' % (way, lease))
                client = self.client()
                file = self.resilient(client, name, sharing=0, lease=lease)
                file.write(0, b'data')
                self.assertEqual(OK, file.lock(5, 5, sequence=0x21))
                self.lose(way, client)
                for share in ('vm', 'vmalias', 'vmraw'):
                    self.assertEqual(SHARING_VIOLATION,
                                     self.stranger(share, name), (way, share))
                client.connect()
                file = self.again(client, file)
                self.assertEqual(lease, lease_state(file))
                self.assertEqual(b'data', file.read(0, 4))
                self.assertEqual(OK, file.lock(5, 5, sequence=0x21))
                self.assertEqual(OK, file.lock(5, 5, unlock=True))
                self.assertEqual(smb2.RANGE_NOT_LOCKED,
                                 file.lock(5, 5, unlock=True))
                file.close()
                self.assertEqual(OK, self.stranger('vmraw', name))

    def test_others_may_in_where_it_let_them(self):
        for way in ('lose_connection', 'kill_child', 'kill_all'):
            for lease in self.LEASES:
                name = self.name('%s%s' % (way, lease))
                client = self.client()
                file = self.resilient(client, name, lease=lease)
                self.assertEqual(OK, file.lock(5, 5))
                self.lose(way, client)
                other = self.client('vmraw')
                begun = time.monotonic()
                beside = other.tree.create(name)
                self.assertLess(time.monotonic() - begun, 2, (way, lease))
                self.assertEqual(LOCK_NOT_GRANTED, beside.lock(6, 1))
                self.assertEqual(OK, beside.lock(0, 1))
                client.connect()
                file = self.again(client, file)
                # What it had cached is no longer its own.
                if lease is not None:
                    self.assertEqual(0, lease_state(file))
                self.assertEqual(LOCK_NOT_GRANTED, file.lock(0, 1))
                self.assertEqual(LOCK_NOT_GRANTED, beside.lock(6, 1))
                file.close()
                beside.close()

    def test_time_is_over(self):
        client = self.client()
        file = self.resilient(client, timeout=1000, sharing=0)
        self.lose_connection(client)
        self.assertEqual(SHARING_VIOLATION, self.stranger())
        time.sleep(1.5)
        self.assertEqual(OK, self.stranger())
        client.connect()
        self.assertEqual(NAME_NOT_FOUND, client.tree.connection.wait(
            self.again_send(client, file)).status)


class Moved(handles.Case):
    def application(self, client, name, app, **how):
        return client.open(name, R | H | W, more=[handles.app_instance(app)],
                           **how)

    def test_moves(self):
        """The old host's connection is lost, stands, or its smbd hangs."""
        for way in (None, 'stopped') + self.WAYS:
            app = uuid.uuid4().bytes
            name = self.name(str(way))
            a, b = self.client(), self.client()
            file = self.application(a, name, app, sharing=0)
            self.assertEqual(OK, file.lock(0, 10))
            file.write(100, b'before')
            pid = handles.child_of(self.server, a.tree)
            if way == 'stopped':
                os.kill(pid, 19)
            elif way is not None:
                self.lose(way, a)
                if way in ('kill_all', 'restart'):
                    b.drop()
                    b.connect()
            # A stranger, and another application, still find it closed.
            self.assertIn(self.stranger(name=name) if way not in
                          (None, 'stopped') else FILE_NOT_AVAILABLE,
                          (FILE_NOT_AVAILABLE,))
            moved = self.application(b, name, app, sharing=0)
            self.assertEqual((60000, 2), granted(moved), way)
            self.assertEqual(R | H | W, lease_state(moved), way)
            self.assertEqual(b'before', moved.read(100, 6), way)
            self.assertEqual(OK, moved.lock(0, 10), way)
            if way is None:
                with self.assertRaises(StatusError) as caught:
                    file.write(100, b'after!')
                self.assertEqual(smb2.FILE_CLOSED, caught.exception.status)
            else:
                a.drop()
                if way == 'stopped':
                    self.assertFalse(lab.is_running(pid))
                a.connect()
                self.assertEqual(NAME_NOT_FOUND, a.reconnect_status(file),
                                 way)
            self.assertEqual(b'before', moved.read(100, 6), way)
            moved.close()
            a.drop()
            b.drop()

    def test_other_application_does_not_close_it(self):
        a, b = self.client(), self.client()
        file = self.application(a, self.name(), uuid.uuid4().bytes,
                                sharing=0)
        self.lose_connection(a)
        with self.assertRaises(StatusError) as caught:
            self.application(b, self.name(), uuid.uuid4().bytes, sharing=0)
        self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
        a.connect()
        a.reconnect(file).close()


class Times(handles.Case):
    shares = dict(handles.SHARES, vm=[
        'vfs objects = hvrs', 'hvrs:persistent timeout = 2',
        'hvrs:persistent timeout most = 400',
        'hvrs:resilient timeout = 1', 'hvrs:resilient timeout most = 7'])

    def test_times_of_the_share(self):
        client = self.client()
        for asked, got in ((0, 2000), (1, 1), (350000, 350000),
                           (400001, 400000), (0xFFFFFFFF, 400000)):
            file = client.open(self.name('p%x' % asked), timeout=asked)
            self.assertEqual((got, 2), granted(file))
            file.close()
        for asked, status in ((7001, INVALID_PARAMETER), (7000, OK), (0, OK)):
            file = client.tree.create(self.name('r'))
            self.assertEqual((status, b''), file.fsctl(
                RESILIENCY, struct.pack('<II', asked, 0)))
            if asked:
                file.close()
        kept = client.open(self.name('kept'))
        file.name, file.key = self.name('r'), None
        self.lose_connection(client)
        time.sleep(1.3)
        client.connect()
        contexts = [handles.dhnc(file.id)]
        self.assertEqual(NAME_NOT_FOUND, client.tree.connection.wait(
            client.tree.create_send(file.name, contexts=contexts)).status)
        client.reconnect(kept).close()


class Rights(handles.Case):
    shares = dict(handles.SHARES, vm=[
        'vfs objects = hvrs acl_xattr',
        'acl_xattr:ignore system acls = yes', 'create mask = 0666',
        'force create mode = 0666'])

    def allow(self, file, rights):
        """rights: {user: letters as in SDDL}."""
        sddl = 'D:P'
        for user, letters in rights.items():
            sddl += '(A;;%s;;;%s)' % (letters, self.server.sid(user))
        descriptor = security.descriptor.from_sddl(
            sddl, security.dom_sid('S-1-5-21-1-2-3'))
        body = struct.pack('<HBBIHHI16s', 33, 3, 0, 0, 96, 0, 4, file.id)
        data = ndr_pack(descriptor)
        body = body[:4] + struct.pack('<I', len(data)) + body[8:]
        self.assertEqual(OK, file.tree.call(smb2.SET_INFO,
                                            body + data).status)

    def test_who_may_not_read_closes_nothing(self):
        """By the file's own access control list, whatever its mode says."""
        app = uuid.uuid4().bytes
        a, b = self.client(), self.client(user='other')
        file = a.open(self.name(), R | H | W, sharing=7,
                      access=0x1F01FF, more=[handles.app_instance(app)])
        path = self.directory + '/disk.vhdx'
        os.chmod(self.directory, 0o777)
        self.assertEqual(0o666, os.stat(path).st_mode & 0o777)
        self.allow(file, {'hvrs': 'FA'})
        with self.assertRaises(StatusError) as caught:
            b.open(self.name(), sharing=7, access=smb2.READ_ONLY,
                   more=[handles.app_instance(app)])
        self.assertIn(caught.exception.status, (
            ACCESS_DENIED, FILE_NOT_AVAILABLE, SHARING_VIOLATION))
        file.write(0, b'still here')
        self.assertEqual(b'still here', file.read(0, 10))
        # Who may read does.
        self.allow(file, {'hvrs': 'FA', 'other': 'FR'})
        moved = b.open(self.name(), sharing=7, access=smb2.READ_ONLY,
                       more=[handles.app_instance(app)])
        self.assertEqual((60000, 2), granted(moved))
        with self.assertRaises(StatusError):
            file.write(0, b'too late')


if __name__ == '__main__':
    unittest.main()
